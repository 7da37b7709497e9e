// Filters that are built from the columns of the table, and the SQL that they stand for.

import { element } from "./elements.js";

const INPUTS = { number: "number", date: "date", datetime: "datetime-local" };

const name = (column) => `\`${column}\``;
const text = (value) => `'${String(value).replaceAll("'", "''")}'`;

function literal(value, type) {
  if (type === "number" || type === "boolean") return String(value);
  if (type === "date") return `date ${text(value)}`;
  if (type === "datetime") return `timestamp ${text(value.replace("T", " ") + (value.length === 16 ? ":00" : ""))}`;
  return text(value);
}

function condition(facet, filter) {
  if (facet.kind === "choice") {
    return filter.values?.length ? `${name(facet.column)} IN (${filter.values.map((each) => literal(each, facet.type)).join(", ")})` : "";
  }
  const valid = (value) => value && (facet.type !== "number" || Number.isFinite(Number(value)));
  return [valid(filter.low) && `${name(facet.column)} >= ${literal(filter.low, facet.type)}`,
    valid(filter.high) && `${name(facet.column)} <= ${literal(filter.high, facet.type)}`].filter(Boolean).join(" AND ");
}

/** One SQL condition for all filters and the typed one. */
export function sql(state, facets) {
  const parts = facets.map((facet) => condition(facet, state.filters[facet.column] ?? {}));
  const set = parts.filter(Boolean);
  const typed = state.where.trim();
  if (!typed) return set.join(" AND ");
  return set.length ? `${set.join(" AND ")} AND (${typed}\n)` : typed; // on a line of its own, since it may end in a comment
}

/** How many filters are in use. */
export const used = (state, facets) =>
  facets.filter((facet) => condition(facet, state.filters[facet.column] ?? {})).length + (state.where.trim() ? 1 : 0);

const readable = (extreme) => String(extreme).replace("T00:00:00", "").replace("T", " ");

/** Draw the filters as `state` has them. */
export function draw(container, facets, state) {
  container.replaceChildren(...facets.map((facet, number) => {
    const filter = state.filters[facet.column] ?? {};
    const box = element("fieldset", { className: "facet" }, element("legend", {}, facet.column));
    box.dataset.column = facet.column;
    if (facet.kind === "choice") {
      for (const [value, rows] of facet.choices) {
        const input = element("input", { type: "checkbox", checked: (filter.values ?? []).includes(value) });
        input.dataset.value = JSON.stringify(value);
        box.append(element("label", { className: "check" }, input,
          element("span", {}, value === "" ? "(empty)" : String(value)), element("span", { className: "count" }, rows.toLocaleString("en"))));
      }
    } else {
      const bound = (side, label, value, extreme) => {
        const id = `facet-${number}-${side}`;
        const input = element("input", { id, type: INPUTS[facet.type], value: value ?? "", placeholder: String(extreme) });
        if (facet.type === "number") input.step = "any";
        if (facet.type === "datetime") input.step = "1";
        input.dataset.side = side;
        return element("div", { className: "bound" }, element("label", { htmlFor: id }, `${label} ${facet.column}`), input);
      };
      box.append(element("div", { className: facet.type === "number" ? "range" : "range long" }, bound("low", "From", filter.low, facet.low), bound("high", "To", filter.high, facet.high)),
        element("p", { className: "quiet" }, `${readable(facet.low)} to ${readable(facet.high)}`));
    }
    return box;
  }));
}

/** The filters that are set in the page. */
export function read(container) {
  const filters = {};
  for (const box of container.querySelectorAll(".facet")) {
    const choices = [...box.querySelectorAll("input[type=checkbox]")];
    if (choices.length) {
      const values = choices.filter((each) => each.checked).map((each) => JSON.parse(each.dataset.value));
      if (values.length) filters[box.dataset.column] = { values };
    } else {
      const [low, high] = ["low", "high"].map((side) => box.querySelector(`[data-side=${side}]`).value);
      if (low || high) filters[box.dataset.column] = { low, high };
    }
  }
  return filters;
}
