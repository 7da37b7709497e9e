// Draws the OpenAPI description of the server.
import { byId, element } from "./elements.js";

const resolve = (api, schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").at(-1)] : schema ?? {});

function kind(api, schema) {
  const one = resolve(api, schema);
  if (one.enum) return one.enum.map((each) => JSON.stringify(each)).join(" or ");
  if (one.const !== undefined) return JSON.stringify(one.const);
  if (one.anyOf) return one.anyOf.filter((each) => each.type !== "null").map((each) => kind(api, each)).join(" or ");
  if (one.type === "array") return `list of ${kind(api, one.items)}`;
  if (one.format === "binary" || one.contentMediaType) return "file";
  return one.title && one.properties ? one.title : one.type ?? "any";
}

function rows(api, entries) {
  const body = element("tbody");
  for (const [name, schema, required, text] of entries) {
    const standard = schema.default !== undefined && schema.default !== null ? `; default ${JSON.stringify(schema.default)}` : "";
    body.append(element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)),
      element("td", {}, `${kind(api, schema)}${required ? ", required" : ""}${standard}`), element("td", {}, text ?? schema.description ?? "")));
  }
  return element("table", {}, body);
}

function operation(api, path, method, described) {
  const part = element("section", {},
    element("h2", {}, element("span", { className: "method" }, method.toUpperCase()), element("code", {}, path)),
    element("p", {}, described.description ?? described.summary ?? ""));
  const [type, content] = Object.entries(described.requestBody?.content ?? {})[0] ?? [];
  const given = [...(described.parameters ?? []).map((each) => [each.name, each.schema, each.required, each.description])];
  if (content) {
    const schema = resolve(api, content.schema);
    given.push(...Object.entries(schema.properties ?? {}).map(([name, each]) => [name, each, schema.required?.includes(name), each.description]));
    part.append(element("p", { className: "quiet" }, `Takes ${type}`));
  }
  if (given.length) part.append(rows(api, given));
  const answer = Object.values(described.responses?.["200"]?.content ?? {})[0]?.schema;
  const schema = resolve(api, answer);
  if (schema.properties) part.append(element("h3", {}, "Answer"), rows(api, Object.entries(schema.properties).map(([name, each]) => [name, each, false, each.description])));
  const others = Object.entries(described.responses ?? {}).filter(([status]) => status !== "200");
  if (others.length) part.append(element("p", { className: "quiet" }, others.map(([status, each]) => `${status}: ${each.description}`).join("; ")));
  return part;
}

byId("base").textContent = location.origin;
const api = await (await fetch("/openapi.json")).json();
byId("paths").replaceChildren(...Object.entries(api.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, described]) => operation(api, path, method, described))));
