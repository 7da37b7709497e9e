// The grid of results, and the dialog of one record.

import { imageAddress } from "./api.js";
import { byId, element } from "./elements.js";

const HIDDEN = new Set(["id", "score", "text"]);
const ON_A_CARD = 4; // further columns are in the dialog

const MIDNIGHT = /^\d{4}-\d\d-\d\dT00:00:00$/; // a time that is only a date

const present = (value) => value !== null && value !== undefined && value !== "";

/** A value as people read it. */
export function shown(value) {
  if (typeof value === "string") return MIDNIGHT.test(value) ? value.slice(0, 10) : value;
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

const score = (value) => (Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(3));

const hasImage = (row, answer) => answer.images && row.modality !== "text";

function picture(row, answer, size) {
  if (!hasImage(row, answer)) return null;
  const image = element("img", { alt: row.text || `Image of ${row.id}`, loading: "lazy", decoding: "async", src: imageAddress(row.id, answer.version, size) });
  if (size < 500) Object.assign(image, { width: 320, height: 320 });
  const frame = element("div", { className: size < 500 ? "picture" : "picture large" }, image);
  image.addEventListener("error", () => frame.replaceChildren(element("p", { className: "no-image" }, "no image")));
  return frame;
}

function columns(row, most) {
  const found = Object.entries(row).filter(([name, value]) => !HIDDEN.has(name) && present(value));
  const list = element("dl");
  for (const [name, value] of found.slice(0, most)) {
    const text = shown(value);
    list.append(element("div", {}, element("dt", {}, name), element("dd", { title: text }, text)));
  }
  return list;
}

function card(row, number, answer, ranks, act) {
  const title = element("button", { type: "button", className: "title" }, row.text || String(row.id));
  title.addEventListener("click", () => act.open(row, answer));
  const other = ranks && (ranks.get(row.id) ?? null);
  const item = element("li", { className: hasImage(row, answer) ? "card" : "card only-text" },
    picture(row, answer, 320),
    element("div", { className: "about" },
      element("p", { className: "score" }, element("span", { className: "rank" }, `${number}`),
        element("span", { title: "Score" }, score(row.score)),
        ranks ? element("span", { className: "other" }, other === null ? "only here" : `there: ${other}`) : null),
      element("h3", {}, title),
      row.text ? element("p", { className: "id" }, String(row.id)) : null,
      columns(row, ON_A_CARD)),
    element("div", { className: "actions" },
      button("More like this", `More like this: ${row.id}`, () => act.like(row)),
      hasImage(row, answer) ? button("This, but …", `This, but … ${row.id}`, () => act.but(row)) : null));
  item.addEventListener("keydown", (event) => {
    if (!act.shortcuts() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "m") { event.preventDefault(); act.like(row); }
    if (event.key === "b" && hasImage(row, answer)) { event.preventDefault(); act.but(row); }
  });
  return item;
}

function button(text, label, action) {
  const made = element("button", { type: "button", className: "small" }, text);
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

/** What an answer came from, in a line. */
export const source = (answer) => `version ${answer.version}, ${answer.column}, ${answer.model}`;

function list(answer, first, ranks, act) {
  if (!answer.results.length) {
    return element("div", { className: "empty" }, element("h2", {}, "Nothing found"),
      element("p", {}, first > 1 ? "There are no further results." : "No row passes the filters, or none has the words. Try fewer filters, or another mode."));
  }
  const made = element("ol", { className: "grid", start: first });
  made.append(...answer.results.map((row, index) => card(row, first + index, answer, ranks, act)));
  return made;
}

/** Draw one answer, or two side by side; an Error in place of an answer is shown there. */
export function draw(answers, first, act) {
  const ranks = answers.map((answer) => new Map((answer.results ?? []).map((row, index) => [row.id, first + index])));
  byId("results").className = answers.length > 1 ? "sides" : "";
  byId("results").replaceChildren(...answers.map((answer, side) => {
    const part = element("section", { className: "side" });
    if (answer instanceof Error) {
      part.append(element("h2", {}, "No answer"), element("p", { className: "failed" }, answer.message));
      return part;
    }
    const compared = answers.length > 1 && !(answers[1 - side] instanceof Error);
    if (answers.length > 1) part.append(element("h2", {}, source(answer)));
    else part.append(element("h2", { className: "hidden" }, "Results"));
    part.append(list(answer, first, compared ? ranks[1 - side] : null, act));
    return part;
  }));
}

/** Show a record with all of its columns. */
export function open(row, answer, act) {
  const dialog = byId("record");
  const close = element("button", { type: "button", className: "ghost close" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const again = (name) => () => { dialog.close(); act[name](row); };
  dialog.replaceChildren(element("div", { className: hasImage(row, answer) ? "record" : "record only-text" },
    picture(row, answer, 960),
    element("div", { className: "details" },
      element("h2", { id: "record-title" }, row.text || String(row.id)),
      element("p", { className: "id" }, `${row.id} · score ${score(row.score)} · ${source(answer)}`),
      columns(row, Infinity),
      element("div", { className: "row" },
        button("More like this", `More like this: ${row.id}`, again("like")),
        hasImage(row, answer) ? button("This, but …", `This, but … ${row.id}`, again("but")) : null,
        close))));
  dialog.showModal();
}

/** Move the focus from card to card by arrow keys. */
export function arrows(event) {
  const titles = [...document.querySelectorAll(".card .title")];
  const at = titles.findIndex((each) => each === document.activeElement || each.closest(".card").contains(document.activeElement));
  if (at < 0) return;
  const tops = titles.map((each) => each.closest(".card").getBoundingClientRect());
  const here = tops[at];
  const nearest = (candidates) => candidates.sort((a, b) => distance(tops[a], here) - distance(tops[b], here))[0];
  const indices = [...titles.keys()];
  const target = {
    ArrowRight: () => at + 1,
    ArrowLeft: () => at - 1,
    ArrowDown: () => nearest(indices.filter((index) => tops[index].top > here.top + 4)),
    ArrowUp: () => nearest(indices.filter((index) => tops[index].top < here.top - 4)),
  }[event.key]?.();
  if (target === undefined || !titles[target]) return;
  event.preventDefault();
  titles[target].focus();
}

const distance = (one, other) => Math.abs(one.top - other.top) * 4 + Math.abs(one.left - other.left);
