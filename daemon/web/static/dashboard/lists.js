/** The most counted entities of a window, by name, for the overview: a list for each type and counter. */

import { get } from "./api.js";
import { sparkline } from "./chart.js";
import { change, counterName, dayBefore, entityNames, entityUrl, number } from "./format.js";
import { csvButton, foreign, h, write } from "./page.js";

const EVERY_MS = 30_000;
const AT_ONCE = 2; // a worker adds up only a few lists at once, for all who ask
const ROWS = 10;
const TYPES_MAX = 3; // whose lists are read while no type is chosen
/** Of the small lines: enough for a shape, and few bytes. The bucket that is not over would make each line fall. */
const COURSE = { bucket: "daily", days: 14, title: "Last 14 days" };
const LONG_COURSE = { bucket: "weekly", days: 91, title: "Last 13 weeks" };

/** All lists of one type, or of the first few. */
export class Lists {
  #app;
  #types;
  #lists;
  #open;
  #note;
  #loadedAt = 0;

  /** `open`: the window. */
  constructor(app, type, counters, open) {
    this.#app = app;
    this.#open = open;
    this.#types = type ? [type] : app.domain.types.slice(0, TYPES_MAX);
    this.#lists = this.#types.flatMap((each) =>
      counters.map((counter, index) => new List(app, each, counter, index, open)),
    );
    this.#note = h("p.soft");
    const left = type ? [] : app.domain.types.slice(TYPES_MAX);
    this.element = h(
      "div",
      this.#types.map((each) =>
        h(
          "div.lists",
          this.#of(each).map((list) => list.element),
        ),
      ),
      this.#note,
      left.length > 0 && h("p.soft", `Lists of ${names(left)}: choose the type above.`),
    );
  }

  /** Reads all of them, at most every half a minute. A list that fails keeps its rows, and is read again next time. */
  async load(signal) {
    if (Date.now() - this.#loadedAt < EVERY_MS) return;
    const waiting = [...this.#lists];
    const loaded = [];
    const work = async () => {
      while (waiting.length) loaded.push(await waiting.shift().load(signal));
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    const quiet = this.#types.filter((type) => this.#of(type).every((list) => list.isEmpty));
    const hides = this.#types.length > 1;
    for (const type of this.#types) this.#of(type)[0].element.parentElement.hidden = hides && quiet.includes(type);
    write(this.#note, hides && quiet.length ? `Not counted ${this.#open.said}: ${names(quiet)}.` : "");
    for (const type of this.#types) loaded.push(await this.#loadSparks(type, signal));
    if (loaded.every(Boolean)) this.#loadedAt = Date.now();
  }

  async #loadSparks(type, signal) {
    const ids = [...new Set(this.#of(type).flatMap((list) => list.ids))].slice(0, this.#app.limits.series_ids_max);
    if (!ids.length) return true;
    const { bucket, days } = courseOf(this.#open);
    const asked = { id: ids, bucket, from: dayBefore(days), to: dayBefore(0) };
    try {
      const read = await get(`series/${this.#app.domain.name}/${type.name}`, asked, signal);
      const byId = new Map(read.series.map((series) => [series.entity_id, series.counters]));
      for (const list of this.#of(type)) list.spark(byId);
      return true;
    } catch (error) {
      if (signal.aborted || !error.status) throw error;
      return false; // the numbers stand without their course
    }
  }

  #of = (type) => this.#lists.filter((list) => list.type === type);
}

const courseOf = (window) => (window.days > 30 ? LONG_COURSE : COURSE);
const names = (types) => types.map((type) => type.name).join(", ");

/** The most counted entities of one type, by one counter. */
class List {
  isEmpty = false;
  #rows = [];
  #sparks = new Map();
  #app;
  #counter;
  #open;
  #body;
  #note;
  #table;
  #tools;

  constructor(app, type, counter, index, open) {
    this.type = type;
    this.#app = app;
    this.#counter = counter;
    this.#open = open;
    const title =
      { view: "Most viewed", download: "Most downloaded" }[counter] ?? `Top by ${counterName(counter).toLowerCase()}`;
    const columns = [["Entity"], [courseOf(open).title, "course"], [counterName(counter), "n"], ["Change", "change"]];
    this.#body = h(
      "tbody",
      Array.from({ length: ROWS }, () => h("tr.waits", h("td", { colspan: "4" }, "\u00a0"))),
    );
    this.#note = h("p.plain", { hidden: true });
    this.#table = h(
      `table.list${open.name === "today" ? ".plainly" : ""}`,
      h(
        "thead",
        h(
          "tr",
          columns.map(([name, side]) => h("th", { scope: "col", class: side }, h("span.unseen", name))),
        ),
      ),
      this.#body,
    );
    this.#tools = h(
      "div.tools",

      csvButton(`tallyd-${app.domain.name}-${type.name}-${counter}-${open.name}`, () => this.#csv()),
    );
    this.element = h(
      `section.top.c${index % 6}`,
      h("header", h("h2", h("i.dot"), title, h("span.soft", ` ${type.name}, ${open.said}`))),
      this.#table,
      this.#note,
      this.#tools,
    );
  }

  get ids() {
    return this.#rows.map((row) => row.entity_id);
  }

  /** Whether it was read. Throws ApiError if tallyd does not answer at all. */
  async load(signal) {
    const { domain, windows } = this.#app;
    if (!windows.includes(this.#open.top)) {
      this.#show([], "Lists of this window are not kept: see read.top_windows in the configuration.");
      return true;
    }
    const asked = { counter: this.#counter, window: this.#open.top, limit: ROWS, compare: 1, enrich: 1 };
    try {
      const { rows } = await get(`top/${domain.name}/${this.type.name}`, asked, signal);
      this.#show(rows, `No ${this.type.name} was counted ${this.#open.said}.`);
      this.isEmpty = !rows.length;
      return true;
    } catch (error) {
      if (signal.aborted || !error.status) throw error;
      if (!this.#rows.length) this.#show([], error.message);
      return false; // this list's own trouble: the rest of the page goes on
    }
  }

  /** `byId`: of each entity its counters, an amount a day. */
  spark(byId) {
    this.#sparks = new Map([...byId].map(([id, counters]) => [id, (counters[this.#counter] ?? []).slice(0, -1)]));
    this.#draw();
  }

  #show(rows, otherwise) {
    this.#rows = rows;
    this.isEmpty = false;
    this.#table.hidden = this.#tools.hidden = !rows.length;
    this.#note.hidden = rows.length > 0;
    write(this.#note, otherwise);
    this.#draw();
  }

  #draw() {
    const focused = this.#body.contains(document.activeElement) && document.activeElement.href;
    this.#body.replaceChildren(...this.#rows.map((row) => this.#line(row)));
    if (focused) [...this.#body.querySelectorAll("a")].find((link) => link.href === focused)?.focus();
  }

  #line({ entity_id: id, amount, previous, row }) {
    const [name, beside] = entityNames(id, row);
    const page = this.#app.link("entity", { type: this.type.name, id });
    const url = entityUrl(this.type.url, id);
    const out = {
      href: url,
      target: "_blank",
      rel: "noopener noreferrer",
      "aria-label": `Open ${name.slice(0, 60)} in the application`,
    };
    const by = previous === undefined || this.#open.name === "today" ? "" : change(amount, previous);
    const course = this.#sparks.get(id);
    return h(
      "tr",
      h(
        "th",
        { scope: "row" },
        h(
          "div.who",
          h("a", { href: page, title: name.length > 30 ? name : null, class: row ? null : "id" }, foreign(name)),
          beside && foreign(beside, "bdi.code"),
          url && h("a.out", out, "↗"),
        ),
      ),
      h("td.course", { title: courseOf(this.#open).title }, course?.some(Boolean) && sparkline(course)),
      h("td.n", number(amount)),
      h("td.n.change", { title: by && `${number(previous)} ${this.#open.before}` }, by),
    );
  }

  #csv() {
    const columns = this.type.enrich;
    const head = ["entity_id", ...columns, this.#counter, "before"];
    return [
      head,
      ...this.#rows.map((each) => [
        each.entity_id,
        ...columns.map((column) => each.row?.[column]),
        each.amount,
        each.previous,
      ]),
    ];
  }
}
