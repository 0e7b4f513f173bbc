/** What all pages are made of: elements, tables, downloads. Strangers' text becomes text nodes, never markup. */

import { csvCell, visible } from "./format.js";

/** An element. `is`: "tag.class.class"; then perhaps its attributes, with listeners under "on…"; then its content. */
export function h(is, ...content) {
  const [tag, ...classes] = is.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(content[0]?.constructor === Object ? content.shift() : {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...content.flat().filter((each) => each != null && each !== false));
  return made;
}

/** Writes only if it is another text, so that a screen reader and a selection are left alone. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A stranger's text: its direction is its own, and its marks are shown. */
export const foreign = (text, is = "bdi") => h(is, { dir: "auto" }, visible(text));

/** A dot with a word for those who do not see its colour. */
export const mark = (level) =>
  h(`i.mark.${level}`, { role: "img", "aria-label": { good: "Good", warn: "Warning", bad: "Trouble" }[level] });

/** A button that saves what `rows()` gives, its first row the head. */
export function csvButton(name, rows) {
  return h(
    "button.quiet",
    { type: "button", "aria-label": `Save as CSV: ${name}`, onclick: () => save(name, rows()) },
    "CSV",
  );
}

function save(name, rows) {
  // A mark tells Excel that it is UTF-8.
  const text = `\ufeff${rows.map((row) => row.map(csvCell).join(",")).join("\r\n")}\r\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  h("a", { href: url, download: `${name.replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 100)}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A table that is filled when it is opened, and kept up to date while it is. `rows()`: the head, then the rows. */
export class Details {
  #rows;
  #body;

  constructor(caption) {
    this.#body = h("div.scroll", { tabindex: "0", role: "region", "aria-label": caption });
    this.element = h(
      "details.data",
      { ontoggle: () => this.#fill() },
      h("summary", "Table", h("span.unseen", `: ${caption}`)),
      this.#body,
    );
  }

  update(rows) {
    this.#rows = rows;
    this.#fill();
  }

  #fill() {
    if (this.element.open && this.#rows) this.#body.replaceChildren(table(this.#rows()));
  }
}

/** A plain table. Columns with numbers stand to the right; the first cell names its row. */
export function table([head, ...rows], is = "table") {
  const side = (index) => (typeof rows[0]?.[index] === "number" ? "n" : null);
  return h(
    is,
    h(
      "thead",
      h(
        "tr",
        head.map((cell, index) => h("th", { scope: "col", class: side(index) }, cell)),
      ),
    ),
    h(
      "tbody",
      rows.map((row) =>
        h(
          "tr",
          row.map((cell, index) =>
            h(
              index ? "td" : "th",
              { scope: index ? null : "row", class: side(index) },
              typeof cell === "number" ? cell.toLocaleString("en-US") : (cell ?? "–"),
            ),
          ),
        ),
      ),
    ),
  );
}
