// The page: reads the search from the address, asks the server, and draws the answer.

import { describe, filters as loadFilters, imageAddress, search } from "./api.js";
import { byId, element } from "./elements.js";
import * as filters from "./filters.js";
import * as results from "./results.js";
import { hasQuery, PAGE_SIZE, readState, writeState } from "./state.js";
import { forget, keep, recall } from "./uploads.js";

const TITLES = { vector: "By meaning, with the model's vectors", text: "By the words of the text", hybrid: "Both, merged by rank" };

let table = null; // what the server says of the table
let facets = [];
let state = readState(location.search);
let upload = null; // the image that the user gave: a Blob
let running = null;

const act = {
  open: (row, answer) => results.open(row, answer, act),
  like: (row) => go({ like: row.id, upload: null, text: "", mode: "vector", page: 1 }),
  but: (row) => {
    state = { ...state, like: row.id, upload: null, text: "", mode: "vector", page: 1 };
    upload = null;
    fill();
    byId("text").focus();
    announce(`Type how the image of ${row.id} should be different, then press Enter.`);
  },
  shortcuts: () => byId("shortcuts").checked,
};

/** Change the search, put it into the address, and run it. */
function go(changes) {
  state = { ...state, ...changes };
  if (!state.upload) upload = null;
  history.pushState(null, "", writeState(state));
  fill();
  run();
}

/** Show `state` in the controls. */
function fill() {
  byId("text").value = state.text;
  byId("text").placeholder = state.like === null ? "Type a text, drop or paste an image, or both" : "… but how? Type what should be different";
  for (const each of document.querySelectorAll("input[name=mode]")) {
    each.checked = each.value === state.mode;
    const words = each.value !== "vector";
    each.disabled = words && (state.like !== null || table?.text_column === null);
    each.parentElement.title = TITLES[each.value] + (words && table?.text_column === null ? ": needs a full-text index (vista index)" : "");
  }
  byId("version").value = state.version;
  byId("other-version").value = state.otherVersion;
  if (table) {
    byId("column").value = state.column || table.column;
    byId("other-column").value = state.otherColumn || table.column;
  }
  byId("compare").checked = state.compare;
  byId("exact").checked = state.exact;
  byId("where").value = state.where;
  filters.draw(byId("facets"), facets, state);
  const used = filters.used(state, facets);
  byId("filter-count").hidden = !used;
  byId("filter-count").textContent = used ? String(used) : "";
  fillImage();
}

function fillImage() {
  const figure = byId("query-image");
  const picture = byId("query-picture");
  const has = state.like !== null || upload !== null;
  figure.hidden = !has;
  byId("pick").hidden = has;
  if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
  picture.hidden = false;
  if (upload) {
    picture.src = URL.createObjectURL(upload);
    picture.alt = "The image to search with";
    byId("query-caption").textContent = "";
  } else if (state.like !== null) {
    picture.src = imageAddress(state.like, state.version || table?.version || "", 320);
    picture.alt = `Image of ${state.like}`;
    byId("query-caption").textContent = state.like;
  } else {
    picture.removeAttribute("src");
  }
}

/** Take what the controls say into the state, and search. */
function submit() {
  const mode = document.querySelector("input[name=mode]:checked")?.value ?? "vector";
  go({
    text: byId("text").value,
    mode: state.like === null ? mode : "vector",
    filters: filters.read(byId("facets")),
    where: byId("where").value,
    version: byId("version").value.trim(),
    column: chosen("column"),
    compare: byId("compare").checked,
    otherVersion: byId("other-version").value.trim(),
    otherColumn: chosen("other-column"),
    exact: byId("exact").checked,
    page: 1,
  });
}

const chosen = (id) => (byId(id).value === table?.column ? "" : byId(id).value);

function fields(version, column) {
  const asked = { text: state.text.trim() ? state.text : "", mode: state.mode, k: PAGE_SIZE + 1, offset: (state.page - 1) * PAGE_SIZE, where: filters.sql(state, facets), version, column };
  if (state.like !== null) asked.like = state.like;
  if (state.exact) asked.exact = "true";
  return asked;
}

async function run() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  if (state.upload && !upload) upload = recall(state.upload);
  fillImage();
  showError(null);
  if (state.upload && !upload) {
    draw([]);
    return showError("The image of this search was not sent with the link: drop or choose it again.");
  }
  if (!hasQuery(state)) {
    draw([]);
    return announce("");
  }
  document.body.classList.add("busy");
  byId("results").setAttribute("aria-busy", "true");
  const asked = [fields(state.version, state.column)];
  if (state.compare) asked.push(fields(state.otherVersion, state.otherColumn));
  const answers = await Promise.all(asked.map((each) => search(each, state.like === null ? upload : null, signal).catch((error) => error)));
  if (signal.aborted) return;
  document.body.classList.remove("busy");
  byId("results").removeAttribute("aria-busy");
  if (answers.every((answer) => answer instanceof Error)) {
    draw([]);
    return showError(explained(answers[0]));
  }
  draw(answers);
  follow(answers.filter((answer, side) => !asked[side].version));
}

/** Ask for the table again if answers are of another published version: its default column may be another, too. */
async function follow(answers) {
  if (!table || !answers.some((answer) => answer.version && answer.version !== table.version)) return;
  const [column, other] = [chosen("column"), chosen("other-column")];
  try {
    table = await describe();
  } catch {
    return; // the next answer is another chance
  }
  showTable();
  byId("column").value = column || table.column;
  byId("other-column").value = other || table.column;
}

const explained = (error) => (error instanceof TypeError ? "The server does not answer. Is it still running?"
  : error.status === 503 ? "The server is busy. Try again in a moment." : error.message);

/** Draw answers, of which each may have one row more than a page shows. */
function draw(answers) {
  const more = answers.some((answer) => answer.results?.length > PAGE_SIZE);
  const cut = answers.map((answer) => (answer instanceof Error ? answer : { ...answer, results: answer.results.slice(0, PAGE_SIZE) }));
  const first = (state.page - 1) * PAGE_SIZE + 1;
  results.draw(cut, first, act);
  byId("pages").hidden = !answers.length || (state.page === 1 && !more);
  byId("previous").disabled = state.page === 1;
  byId("next").disabled = !more;
  byId("page").textContent = `Page ${state.page}`;
  const good = cut.filter((answer) => !(answer instanceof Error));
  if (good.length) {
    const number = good[0].results.length;
    const which = number ? `Results ${first} to ${first + number - 1}` : "No results";
    announce(`${which} in ${Math.round(good[0].took_ms)} ms, ${results.source(good[0])}`);
  }
  welcome(!answers.length && !hasQuery(state));
}

function welcome(needed) {
  if (!needed || !table) return;
  byId("results").replaceChildren(element("div", { className: "empty" },
    element("h2", {}, `Search ${table.rows.toLocaleString("en")} rows of ${table.name}`),
    element("p", {}, "By a text, by an image, or by an image and what should be different about it."),
    element("p", { className: "quiet" }, "Press / to begin, and ? for help.")));
}

function announce(text) {
  byId("status").textContent = text;
}

function showError(message) {
  byId("error").hidden = message === null;
  byId("error").textContent = message ?? "";
  if (message !== null) announce("");
}

function takeImage(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return showError(`${file.name || "What was dropped"} is not an image.`);
  if (table && file.size > table.image_bytes) return showError(`The image has ${Math.ceil(file.size / 2 ** 20)} MB; at most ${Math.floor(table.image_bytes / 2 ** 20)} MB are possible.`);
  upload = file;
  keep(file).then((key) => go({ upload: key, like: null, text: byId("text").value, mode: state.mode === "text" ? "vector" : state.mode, page: 1 }));
}

function panel(button, id) {
  byId(button).addEventListener("click", () => {
    byId(id).hidden = !byId(id).hidden;
    byId(button).setAttribute("aria-expanded", String(!byId(id).hidden));
  });
}

function turn(by) {
  const page = state.page + by;
  if (page < 1 || byId("pages").hidden || (by > 0 && byId("next").disabled)) return;
  go({ page });
  scrollTo({ top: 0 });
  byId("results").focus({ preventScroll: true });
}

function keys(event) {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  if (event.key.startsWith("Arrow")) return results.arrows(event);
  if (!act.shortcuts()) return;
  const action = { "/": () => byId("text").focus(), "?": () => byId("help-text").showModal(), n: () => turn(1), p: () => turn(-1) }[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
}

function dropping() {
  const veil = byId("veil");
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => { if (carries(event)) { event.preventDefault(); veil.hidden = false; } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) veil.hidden = true; });
  addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    takeImage(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (file) {
      event.preventDefault();
      takeImage(file);
    }
  });
}

function wire() {
  byId("search").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  for (const each of document.querySelectorAll("input[name=mode]")) each.addEventListener("change", submit);
  byId("pick").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => { takeImage(event.target.files[0]); event.target.value = ""; });
  byId("drop-image").addEventListener("click", () => { forget(state.upload); go({ like: null, upload: null, text: byId("text").value, page: 1 }); byId("text").focus(); });
  byId("query-picture").addEventListener("error", () => { byId("query-picture").hidden = true; });
  byId("clear-filters").addEventListener("click", () => go({ filters: {}, where: "", page: 1 }));
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("help").addEventListener("click", () => byId("help-text").showModal());
  byId("shortcuts").checked = localStorage.getItem("shortcuts") !== "off";
  byId("shortcuts").addEventListener("change", (event) => localStorage.setItem("shortcuts", event.target.checked ? "on" : "off"));
  panel("show-filters", "filters");
  panel("show-compare", "sides");
  addEventListener("keydown", keys);
  addEventListener("popstate", () => { state = readState(location.search); upload = null; if (state.upload) upload = recall(state.upload); fill(); run(); });
  dropping();
}

function showTable() {
  document.title = `${table.name} · vista search`;
  byId("table-name").textContent = table.name;
  byId("table-about").textContent = `${table.rows.toLocaleString("en")} rows, version ${table.version}, ${table.model}`;
  const label = (each) => `${each.name}${each.model ? `: ${each.model}` : ""}${each.incomplete ? " (incomplete)" : ""}`;
  const options = () => table.columns.filter((each) => each.vector).map((each) => new Option(label(each), each.name));
  byId("column").replaceChildren(...options());
  byId("other-column").replaceChildren(...options());
  byId("versions").replaceChildren(...Object.entries(table.tags).map(([tag, version]) => element("option", { value: tag }, `version ${version}`)));
  byId("columns").textContent = `Columns: ${table.columns.filter((each) => !each.vector).map((each) => `${each.name} (${each.type})`).join(", ")}`;
}

async function start() {
  wire();
  fill();
  const counting = loadFilters().then(takeFilters); // may take a while for a large table
  counting.catch(() => {});
  try {
    table = await describe();
    showTable();
    if (Object.keys(state.filters).length) await counting;
  } catch (error) {
    return showError(explained(error));
  }
  if (!hasQuery(state) && matchMedia("(pointer: fine)").matches) byId("text").focus();
  if (state.compare || state.version || state.column) byId("show-compare").click();
  fill();
  run();
}

function takeFilters(found) {
  ({ facets } = found);
  byId("facets-note").textContent = found.counted < found.rows ? `Counted among ${found.counted.toLocaleString("en")} of ${found.rows.toLocaleString("en")} rows.` : "";
  filters.draw(byId("facets"), facets, state);
}

start();
