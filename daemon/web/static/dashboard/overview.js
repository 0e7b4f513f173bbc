/** The overview: each counter in each window against the window before, its curve, and the most counted entities. */

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { bucketNames, change, clock, counterGroups, counterName, number } from "./format.js";
import { Lists } from "./lists.js";
import { csvButton, Details, h, write } from "./page.js";

const DAY_MS = 86_400_000;
const WINDOWS = [
  { name: "today", top: "day", title: "Today", days: 1, said: "today", before: "yesterday, the whole day" },
  { name: "24h", top: "24h", title: "24 hours", hours: 24, said: "in 24 hours", before: "the 24 hours before" },
  ...[7, 14, 30, 90].map((days) => ({
    name: `${days}d`,
    top: `${days}d`,
    title: `${days} days`,
    days,
    said: `in ${days} days`,
    before: `the ${days} days before`,
  })),
];
const NO_HOURS = "The hours cannot be read now.";
const sum = (amounts) => amounts.reduce((all, each) => all + (each ?? 0), 0);

export function overview(app) {
  const { domain, params, go } = app;
  const [main, apart] = counterGroups(domain);
  const type = domain.types.find((each) => each.name === params.get("type"));
  const windows = WINDOWS.filter((each) => each.days || domain.hourly);
  const open = windows.find((each) => each.name === params.get("window")) ?? windows.find((each) => each.days === 30);

  const asOf = h("p.asof", "\u00a0");
  const figures = new Figures(main, apart, windows, open, (name) => go({ window: name }, true));
  // Without hours today is one bar: the week around it says more.
  const drawn = open.name === "today" && !domain.hourly ? windows.find((each) => each.days === 7) : open;
  const curves = main.map((counter, index) => new Curve(counter, apart[counter], index, drawn));
  const lists = new Lists(app, type, main, open);
  const empty = h("div");
  const demo = h("div");
  if (app.demo) import("./demo.js").then(({ sender }) => demo.replaceChildren(sender(app, type ?? domain.types[0])));

  async function loadFigures(signal) {
    const scope = { type: type?.name };
    const byHour = { bucket: "hourly", window: "24h", compare: 1, ...scope };
    const [days, hours] = await Promise.all([
      get(`summary/${domain.name}`, { days: 90, compare: 1, top: 0, ...scope }, signal),
      domain.hourly && get(`series/${domain.name}`, byHour, signal).catch((error) => withoutHours(error, signal)),
    ]);
    const spans = Object.fromEntries(
      windows.map((each) => [each.name, each.days ? daySpan(days, each.days) : hours && hourSpan(hours)]),
    );
    figures.update(spans);
    const span = drawn.name === "today" ? hours && todaySpan(hours) : spans[drawn.name];
    for (const curve of curves) {
      if (span) curve.update(span, spans[drawn.name], domain.name);
      else write(curve.against, NO_HOURS);
    }
    write(asOf, `As of ${clock(days.as_of)}`);
    const none = ![days.counters, days.previous.counters].some((part) => Object.values(part).some(sum));
    empty.replaceChildren(...(none ? [nothingYet(domain, type ?? domain.types[0])] : []));
  }

  const element = h(
    "div",
    h("div.title", h("h1", domain.name, type && h("span.soft", ` ${type.name}`)), typeChoice(domain, type, go), asOf),
    demo,
    empty,
    figures.element,
    h(
      "div.curves",
      curves.map((curve) => curve.element),
    ),
    lists.element,
  );
  return {
    element,
    everyMs: 15_000,
    load: (signal) => Promise.all([loadFigures(signal), lists.load(signal)]),
    stop: () => curves.forEach((curve) => curve.chart.remove()),
  };
}

/** The days stand without the hours, if only those cannot be read. */
function withoutHours(error, signal) {
  if (signal.aborted || !error.status) throw error;
  return null;
}

function typeChoice(domain, type, go) {
  if (domain.types.length < 2) return null;
  return h(
    "select",
    { "aria-label": "Type of entity", onchange: (event) => go({ type: event.target.value || undefined }, true) },
    h("option", { value: "" }, "All types"),
    domain.types.map((each) => h("option", { value: each.name, selected: each === type }, each.name)),
  );
}

function nothingYet(domain, type) {
  const event = {
    event_id: "a fresh UUID",
    domain: domain.name,
    entity_type: type.name,
    entity_id: "1",
    action: domain.actions[0] ?? "view",
  };
  return h(
    "div.plain",
    h("p", "Nothing was counted in the last 180 days. An event looks like this:"),
    h("pre", { tabindex: "0" }, `POST /api/v1/analytics/events\n${JSON.stringify(event, null, 2)}`),
  );
}

// Spans: the buckets of a window and of the window before ------------------------------------------------------------

/** The last `count` days of a summary of 90, and as many before them. */
function daySpan(summary, count) {
  const labels = [...summary.previous.labels, ...summary.labels];
  const part = (from, to) =>
    Object.fromEntries(
      Object.keys(summary.counters).map((counter) => [
        counter,
        [...(summary.previous.counters[counter] ?? []), ...summary.counters[counter]].slice(from, to),
      ]),
    );
  const cut = labels.length - count;
  return { labels: labels.slice(cut), now: part(cut), before: part(cut - count, cut), open: labels.at(-1) };
}

/** The current hour and the 23 before it. */
const hourSpan = (series) => pointsSpan(series.points, series.previous.points, series.points.at(-1).hour);

/** Today's hours beside yesterday's, out of 48. Those to come have no amount. */
function todaySpan(series) {
  const current = series.points.at(-1).hour;
  const [today, yesterday] = [current, new Date(Date.parse(`${current}:00Z`) - DAY_MS).toISOString()].map((time) =>
    time.slice(0, 10),
  );
  const points = new Map([...series.previous.points, ...series.points].map((point) => [point.hour, point]));
  const hours = (day) =>
    Array.from({ length: 24 }, (_, hour) => `${day}T${String(hour).padStart(2, "0")}`).map(
      (hour) => points.get(hour) ?? { hour },
    );
  return pointsSpan(hours(today), hours(yesterday), current);
}

function pointsSpan(now, before, open) {
  const part = (points) => new Proxy({}, { get: (_, counter) => points.map((point) => point[counter] ?? null) });
  return { labels: now.map((point) => point.hour), now: part(now), before: part(before), open };
}

// Parts --------------------------------------------------------------------------------------------------------------

/** Counters × windows; the head's buttons choose the window of all that is below. */
class Figures {
  #cells = [];

  constructor(main, apart, windows, open, choose) {
    const on = (each) => (each === open ? "on" : null);
    const row = (counter, index) =>
      h(
        `tr.c${index % 6}`,
        { role: "row" },
        h("th", { scope: "row", role: "rowheader" }, h("i.dot"), counterName(counter)),
        windows.map((each) => {
          const cell = {
            counter,
            apart: apart[counter],
            each,
            amount: h("b", "\u2007"),
            change: h("span.change", "\u00a0"),
            beside: h("span.beside"),
          };
          this.#cells.push(cell);
          return h("td", { class: on(each), role: "cell" }, cell.amount, cell.change, cell.beside);
        }),
      );
    this.element = h(
      "table.figures",
      { role: "table" },
      h(
        "caption.unseen",
        "Each counter in each window, against the window before. Choose a window for the charts and lists below.",
      ),
      h(
        "thead",
        { role: "rowgroup" },
        h(
          "tr",
          { role: "row" },
          h("th", { scope: "col", role: "columnheader" }, h("span.unseen", "Counter")),
          windows.map((each) =>
            h(
              "th",
              { scope: "col", role: "columnheader", class: on(each) },
              h(
                "button",
                { type: "button", "aria-pressed": String(each === open), onclick: () => choose(each.name) },
                each.title,
              ),
            ),
          ),
        ),
      ),
      h("tbody", { role: "rowgroup" }, main.map(row)),
    );
    this.element.classList.add("waits");
    this.element.style.setProperty("--rows", windows.length + 1); // of the turned table
    this.element.style.setProperty("--counters", main.length);
  }

  update(spans) {
    this.element.classList.remove("waits");
    const moved = (counter) => Object.values(spans).some((span) => span && sum(span.now[counter] ?? []));
    for (const { counter, apart, each, amount, change: by, beside } of this.#cells) {
      const span = spans[each.name];
      if (!span) {
        write(amount, "–");
        by.title = NO_HOURS;
        continue;
      }
      const [now, before] = [sum(span.now[counter] ?? []), sum(span.before[counter] ?? [])];
      write(amount, number(now));
      // Today is not over: a percentage of a whole day would always fall.
      write(by, each.name === "today" ? `yesterday ${number(before)}` : change(now, before) || "\u00a0");
      by.title = `${number(before)}: ${each.before}`;
      const others = apart.filter(([other]) => moved(other));
      write(beside, others.map(([other, name]) => `${number(sum(span.now[other] ?? []))} ${name}`).join("\n"));
    }
  }
}

/** One counter's chart with its sum, its table and its CSV. */
class Curve {
  constructor(counter, apart, index, open) {
    Object.assign(this, { counter, apart, open });
    this.chart = new Chart("overview");
    this.total = h("b", "\u2007");
    this.against = h("span.soft", "\u00a0");
    this.data = new Details(`${counterName(counter)} ${open.said}`);
    this.tools = h("div.tools", this.data.element);
    this.element = h(
      `section.curve.c${index % 6}`,
      h(
        "header",
        h("h2", h("i.dot"), counterName(counter), h("span.soft", ` ${open.said}`)),
        h("p.sum", this.total, this.against),
      ),
      this.chart.readout,
      this.chart.element,
      this.tools,
    );
  }

  /** `span`: what is drawn; `whole`: the window itself. */
  update(span, whole, domain) {
    const { counter, apart, open } = this;
    const [now, before] = [span.now[counter], span.before[counter]];
    const [total, past] = [sum(whole.now[counter]), sum(whole.before[counter])];
    write(this.total, number(total));
    write(this.against, `${open.name === "today" ? "" : change(total, past)} against ${number(past)} ${open.before}`);
    const most = now.reduce((best, amount, at) => (amount > (now[best] ?? -1) ? at : best), 0);
    const about = `${counterName(counter)} ${open.said}: ${number(total)} in all, ${number(past)} ${open.before}. Most at ${bucketNames(span.labels[most])[0]}: ${number(now[most] ?? 0)}. The arrow keys read each bar; a table follows.`;
    this.chart.draw({ labels: span.labels, now, before, open: span.open, about });
    this.rows = () => [
      ["UTC", counterName(counter), "Before", ...apart.map(([, name]) => name)],
      ...span.labels.map((label, at) => [
        label.replace("T", " "),
        now[at],
        before[at] ?? null,
        ...apart.map(([other]) => span.now[other][at]),
      ]),
    ];
    this.data.update(this.rows);
    if (this.tools.childElementCount < 2)
      this.tools.append(csvButton(`tallyd-${domain}-${counter}-${open.name}-${span.labels.at(-1)}`, () => this.rows()));
  }
}
