/** One entity: its counters exact at this moment, and its history. And how one is found by id or code. */

import { get } from "./api.js";
import { Chart } from "./chart.js";
import {
  bucketNames,
  clock,
  counterGroups,
  counterName,
  dayBefore,
  entityNames,
  entityUrl,
  monthBefore,
  number,
} from "./format.js";
import { csvButton, Details, foreign, h, write } from "./page.js";

const HOURS = 48;
const BUCKETS = [
  { name: "hourly", title: "Hours", said: "in 48 hours", from: () => dayBefore(2) },
  { name: "daily", title: "Days", said: "in 30 days", from: () => dayBefore(29) },
  { name: "weekly", title: "Weeks", said: "in 52 weeks", from: () => dayBefore(51 * 7) },
  { name: "monthly", title: "Months", said: "in 24 months", from: () => monthBefore(23) },
  { name: "yearly", title: "Years", said: "in 10 years", from: () => `${monthBefore(9 * 12).slice(0, 4)}-01-01` },
];
const BUCKET_FIELD = { hourly: "hour", daily: "date", weekly: "week", monthly: "month", yearly: "year" };
const sum = (amounts) => amounts.reduce((all, each) => all + each, 0);
/** A path cannot have these between two slashes: a browser or a proxy takes them for folders, and asks for another id. */
const fitsPath = (id) => !id.split("/").some((part) => ["", ".", ".."].includes(part));

export function entity(app) {
  const { domain, params, go } = app;
  const id = params.get("id") ?? "";
  const type = domain.types.find((each) => each.name === params.get("type")) ?? domain.types[0];
  const [main, apart] = counterGroups(domain);
  const buckets = BUCKETS.filter((each) => each.name !== "hourly" || domain.hourly);
  const open =
    buckets.find((each) => each.name === params.get("bucket")) ?? buckets.find((each) => each.name === "daily");
  const place = `${domain.name}/${type.name}`;

  const name = h("h1", foreign(id, "bdi.id"));
  const code = h("p.soft", `${domain.name} ${type.name} `, h("code", { dir: "auto" }, foreign(id)));
  const url = entityUrl(type.url, id);
  const asOf = h("p.asof", "\u00a0");
  const note = h("p.plain", { hidden: true }, "Nothing was counted for this id yet.");
  const totals = main.map((counter, index) => ({
    counter,
    amount: h("dd", "\u2007"),
    beside: h("dd.beside"),
    index,
  }));
  const curves = main.map(
    (counter, index) =>
      new History(counter, apart[counter], index, open, `tallyd-${place.replace("/", "-")}-${id}-${counter}`),
  );
  let described = !type.enrich.length;
  let counted = main[0];

  async function describe(signal) {
    if (described) return;
    // Its row, if MySQL has one: `top` within this one id. It is asked again until MySQL has answered.
    const {
      enriched,
      rows: [row],
    } = await get(
        `top/${place}`,
        {
          ids: id.includes(",") ? undefined : id,
          id: id.includes(",") ? id : undefined,
          window: "total",
          counter: counted,
          limit: 1,
          enrich: 1,
        },
        signal,
      ).catch((error) => {
        if (signal.aborted) throw error;
        return { rows: [] };
      });
    described = Boolean(enriched && row);
    const [title, beside] = entityNames(id, row?.row);
    if (title !== id) name.replaceChildren(foreign(title), beside ? h("span.soft", " ", foreign(beside)) : "");
    document.title = `${title.slice(0, 60)} · tallyd`;
  }

  async function loadTotals(signal) {
    const exact = fitsPath(id);
    const read = exact
      ? await get(`totals/${place}/${encodeURIComponent(id)}`, { fresh: 1 }, signal)
      : await get(`totals/${place}`, { id }, signal).then((many) => ({ ...many, ...many.totals[0] }));
    for (const { counter, amount, beside } of totals) {
      write(amount, number(read.counters[counter] ?? 0));
      write(
        beside,
        apart[counter]
          .filter(([other]) => read.counters[other])
          .map(([other, called]) => `${number(read.counters[other] ?? 0)} ${called}`)
          .join(" · "),
      );
    }
    counted = main.find((counter) => read.counters[counter]) ?? counted; // only those are in a list
    note.hidden = Object.values(read.counters).some(Boolean);
    write(asOf, `${exact ? "Exact at" : "As of"} ${clock(read.as_of)}`);
  }

  async function loadSeries(signal) {
    const read = await get(`series/${place}`, { id, bucket: open.name, from: open.from(), to: dayBefore(0) }, signal);
    let labels = read.labels.map(String);
    let counters = read.series[0]?.counters ?? {};
    if (open.name === "hourly") {
      const current = new Date(read.as_of).toISOString().slice(0, 13);
      const end = labels.filter((label) => label <= current).length;
      const cut = (list) => list.slice(Math.max(0, end - HOURS), end);
      labels = cut(labels);
      counters = Object.fromEntries(Object.entries(counters).map(([counter, amounts]) => [counter, cut(amounts)]));
    }
    for (const curve of curves) curve.update(labels, counters);
  }

  const element = h(
    "div",
    h(
      "div.title",
      h("div.names", name, code),
      url && h("a.button", { href: url, target: "_blank", rel: "noopener noreferrer" }, "Open in the application ↗"),
      asOf,
    ),
    note,
    h(
      "dl.exact",
      totals.map((each) =>
        h(`div.c${each.index % 6}`, h("dt", h("i.dot"), counterName(each.counter)), each.amount, each.beside),
      ),
    ),
    h(
      "div.choose",
      { role: "group", "aria-label": "Length of a bar" },
      buckets.map((each) =>
        h(
          "button",
          { type: "button", "aria-pressed": String(each === open), onclick: () => go({ bucket: each.name }, true) },
          each.title,
        ),
      ),
    ),
    h(
      "div.curves",
      curves.map((curve) => curve.element),
    ),
  );
  return {
    element,
    everyMs: 10_000,
    load: (signal) => Promise.all([loadTotals(signal).then(() => describe(signal)), loadSeries(signal)]),
    stop: () => curves.forEach((curve) => curve.chart.remove()),
  };
}

/** One counter's chart of one entity. */
class History {
  constructor(counter, apart, index, open, file) {
    Object.assign(this, { counter, apart, open });
    this.chart = new Chart("entity");
    this.total = h("b", "\u2007");
    this.data = new Details(`${counterName(counter)} ${open.said}`);
    this.element = h(
      `section.curve.c${index % 6}`,
      h("header", h("h2", h("i.dot"), counterName(counter), h("span.soft", ` ${open.said}`)), h("p.sum", this.total)),
      this.chart.readout,
      this.chart.element,
      h(
        "div.tools",
        this.data.element,
        csvButton(`${file}-${open.name}`, () => this.rows()),
      ),
    );
  }

  update(labels, counters) {
    const now = counters[this.counter] ?? labels.map(() => 0);
    const total = number(sum(now));
    const most = now.reduce((best, amount, at) => (amount > now[best] ? at : best), 0);
    write(this.total, total);
    this.chart.draw({
      labels,
      now,
      before: null,
      open: labels.at(-1),
      about: `${counterName(this.counter)} ${this.open.said}: ${total} in all. Most at ${bucketNames(labels[most])[0]}: ${number(now[most])}. The arrow keys read each bar; a table follows.`,
    });
    this.rows = () => [
      ["UTC", counterName(this.counter), ...this.apart.map(([, name]) => name)],
      ...labels.map((label, at) => [
        label.replace("T", " "),
        now[at],
        ...this.apart.map(([other]) => counters[other]?.[at] ?? 0),
      ]),
    ];
    this.data.update(this.rows);
  }
}

/** What `text` names: [{ type, id, row }], and what went wrong: a code is looked for in MySQL, an id among the counts. */
async function find(domain, text, signal) {
  const troubles = [];
  const ask = (route, type, query, entitiesOf) =>
    get(`${route}/${domain.name}/${type.name}`, query, signal).then(entitiesOf, (error) => {
      if (signal.aborted) throw error;
      if (error.status !== 422) troubles.push(error.message); // else it cannot be an id of this type
      return [];
    });
  const byCode = (type) =>
    ask("entities", type, { label: text }, ({ entities }) =>
      entities.map(({ entity_id: id, row }) => ({ type: type.name, id, row })),
    );
  const byId = (type) =>
    ask("totals", type, { id: text }, ({ totals: [{ counters }] }) =>
      Object.values(counters).some(Boolean) ? [{ type: type.name, id: text }] : [],
    );
  const labelled = domain.types.filter((type) => type.label);
  const entities = await Promise.all([...labelled.map(byCode), ...domain.types.map(byId)]);
  return { entities: entities.flat(), trouble: troubles[0] };
}

/** Several entities have the name that was looked for, or none. */
export function found(app) {
  const text = app.params.get("what") ?? "";
  const list = h("ul.found");
  const said = h("p.plain", "Looking …");

  async function load(signal) {
    const { entities, trouble } = text ? await find(app.domain, text, signal) : { entities: [] };
    if (entities.length === 1 && !trouble) return app.replace("entity", { type: entities[0].type, id: entities[0].id });
    const none = trouble ? "Nothing was found." : "No entity has this code, and nothing was counted for this id.";
    write(said, [entities.length ? `Found: ${entities.length}.` : none, trouble].filter(Boolean).join(" "));
    list.replaceChildren(
      ...entities.map(({ type, id, row }) =>
        h(
          "li",
          h("a", { href: app.link("entity", { type, id }) }, foreign(entityNames(id, row)[0])),
          h("span.soft", ` ${type} `),
          foreign(id, "bdi.code"),
        ),
      ),
    );
  }

  const title = h("div.title", h("h1", "Find ", foreign(text, "bdi.id")));
  return { element: h("div", title, said, list), everyMs: 3_600_000, load, stop: () => {} };
}
