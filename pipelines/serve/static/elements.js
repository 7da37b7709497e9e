// Elements of the page. Text of the table only ever becomes text: nothing is parsed as HTML.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; strings become text. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
