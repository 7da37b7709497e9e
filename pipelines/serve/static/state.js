// What is searched, as the address of the page has it.

export const PAGE_SIZE = 24;
export const MODES = ["vector", "text", "hybrid"];

/** The search that an address names; what it leaves out has its default. */
export function readState(search) {
  const given = new URLSearchParams(search);
  const filters = {};
  for (const [name, value] of given) {
    if (name.startsWith("f.")) filters[name.slice(2)] = parseFilter(value);
  }
  return {
    text: given.get("q") ?? "",
    like: given.get("like"),
    upload: given.get("image"),
    mode: MODES.includes(given.get("mode")) ? given.get("mode") : "vector",
    filters,
    where: given.get("where") ?? "",
    page: Math.max(1, Number.parseInt(given.get("page") ?? "1", 10) || 1),
    version: given.get("version") ?? "",
    column: given.get("column") ?? "",
    compare: given.get("compare") === "1",
    otherVersion: given.get("version2") ?? "",
    otherColumn: given.get("column2") ?? "",
    exact: given.get("exact") === "1",
  };
}

/** The address of a search, without what has its default. */
export function writeState(state) {
  const parts = new URLSearchParams();
  const put = (name, value, standard = "") => { if (value && value !== standard) parts.set(name, value); };
  put("q", state.text);
  put("like", state.like);
  put("image", state.upload);
  put("mode", state.mode, "vector");
  for (const [column, filter] of Object.entries(state.filters)) put(`f.${column}`, formatFilter(filter));
  put("where", state.where);
  put("page", String(state.page), "1");
  put("version", state.version);
  put("column", state.column);
  put("compare", state.compare ? "1" : "");
  put("version2", state.otherVersion);
  put("column2", state.otherColumn);
  put("exact", state.exact ? "1" : "");
  const text = parts.toString();
  return text ? `?${text}` : location.pathname;
}

// A range is written low..high, a choice as a JSON list.
function parseFilter(text) {
  if (text.startsWith("[")) {
    try {
      const values = JSON.parse(text);
      if (Array.isArray(values)) return { values };
    } catch { /* somebody edited the address: no filter */ }
    return { values: [] };
  }
  const [low = "", high = ""] = text.split("..");
  return { low, high };
}

function formatFilter(filter) {
  if (filter.values) return filter.values.length ? JSON.stringify(filter.values) : "";
  return filter.low || filter.high ? `${filter.low}..${filter.high}` : "";
}

/** True if there is something to search with. */
export const hasQuery = (state) => Boolean(state.text.trim() || state.like !== null || state.upload);
