/** Health: whether all is well, and if not, what to do. The server judges; this page shows its words and its numbers. */

import { get } from "./api.js";
import { age, bytes, clock, counterName, moment, number } from "./format.js";
import { csvButton, foreign, h, mark, table, write } from "./page.js";
import { sparkline } from "./chart.js";

const EVERY_MS = 2_000;
const KEPT = 150; // rates: five minutes of this page
const RATES = [
  ["accepted", "Accepted"],
  ["duplicate", "Duplicate"],
  ["rejected", "Rejected"],
];
/** Of all counters. An event that moves `view_raw` moves `view`, too, or does not: it is one either way. */
const total = (amounts) =>
  Object.entries(amounts ?? {}).reduce((all, [name, each]) => (`${name}_raw` in amounts ? all : all + each), 0);

export function health(app) {
  const verdict = h("div.verdict.waits", { role: "status" }, h("h1", "Asking …"));
  const asOf = h("p.asof", "\u00a0");
  const rates = RATES.map(([name, title], index) => new Rate(name, title, index));
  const since = h("p.soft", "\u00a0");
  const parts = Object.fromEntries(
    ["stores", "flow", "shards", "rejected", "letters", "jobs", "versions"].map((name) => [name, h("div")]),
  );
  const section = (title, part, ...more) =>
    h(
      ["shards", "jobs", "letters"].includes(part) ? "section.wide" : "section",
      h("header", h("h2", title), ...more),
      h("div.scroll", { tabindex: "0", role: "region", "aria-label": title }, parts[part]),
    );
  let letters = { waiting: 0, letters: [] };
  let lettersAt = 0;
  let last;

  const element = h(
    "div",
    verdict,
    h(
      "section",
      h("header", h("h2", "Events a second"), asOf),
      h(
        "div.rates",
        rates.map((rate) => rate.element),
      ),
      since,
    ),
    h("div.pair", section("Stores", "stores"), section("On the way", "flow"), section("Rejected events", "rejected")),
    section("Shards", "shards"),
    section("Last checks", "jobs"),
    section(
      "Dead letters",
      "letters",
      csvButton("tallyd-dead-letters", () => [
        ["id", "at", "shard", "seq", "collection", "document", "amounts", "reason"],
        ...letters.letters.map((each) => [
          each.id,
          each.at,
          each.shard,
          each.seq,
          each.collection,
          each.document,
          JSON.stringify(each.amounts),
          each.reason,
        ]),
      ]),
    ),
    section("Versions", "versions"),
  );

  async function load(signal) {
    const status = await app.status(signal);
    if (status.dead_letters && Date.now() - lettersAt > 15_000) {
      letters = await get("dead", { limit: 20 }, signal).catch(() => letters);
      lettersAt = Date.now();
    } else if (!status.dead_letters) letters = { waiting: 0, letters: [] };
    judge(verdict, status);
    write(asOf, `As of ${clock(status.as_of)}`);
    if (status.shards.length) measure(status.events, Date.parse(status.as_of) / 1000); // else Redis hides the totals
    put(parts.stores, stores(status.stores));
    put(parts.flow, flow(status));
    put(parts.shards, shards(status.shards));
    put(parts.rejected, rejected(status.events.rejected));
    put(parts.jobs, jobs(status.jobs, Date.parse(status.as_of)));
    put(parts.letters, dead(letters, status.dead_letters));
    put(
      parts.versions,
      table([
        ["Program", "Version", "Workers", "Runs for"],
        ["tallyd", status.version, number(status.workers), age(status.uptime_s)],
      ]),
    );
  }
  /** A rate is the difference of two totals. Those of a daemon that started anew are smaller: its rate is 0 once. */
  function measure(events, at) {
    if (last && at <= last.at) return; // the answer of before
    for (const rate of rates) {
      const now = total(events[rate.name]);
      if (last) rate.add(Math.max(0, now - total(last.events[rate.name])) / (at - last.at));
      rate.total(now);
    }
    if (last) write(since, "Since this page was opened; Grafana has more.");
    last = { events, at };
  }
  return { element, everyMs: EVERY_MS, load, stop: () => {} };
}

/** Only if something changed, so that a selection and the scroll position stay. */
function put(place, made) {
  if (place.textContent !== made.textContent || !place.firstChild) place.replaceChildren(made);
}

function judge(place, status) {
  const level = status.trouble.some((each) => each.level === "bad") ? "bad" : status.trouble.length ? "warn" : "good";
  const made = status.trouble.length
    ? [
        h(
          "h1",
          mark(level),
          status.trouble.length === 1 ? status.trouble[0].text : `${status.trouble.length} things need you.`,
        ),
        status.trouble.length === 1
          ? h("p", status.trouble[0].do)
          : h(
              "ol",
              status.trouble.map((each) => h("li", { class: each.level }, h("b", each.text), " ", each.do)),
            ),
      ]
    : [
        h("h1", mark("good"), "All is well."),
        h("p.soft", "Events are counted, flushed and copied. There is nothing to do."),
      ];
  place.className = `verdict ${level}`;
  const put_ = h("div", made);
  if (place.textContent !== put_.textContent) place.replaceChildren(...put_.childNodes);
}

function stores({ redis, mongo, mysql }) {
  const state = (store) =>
    store === null
      ? "not configured"
      : store.ok
        ? h("span.state", mark("good"), "answers")
        : h("span.state.long", mark("bad"), foreign(store.error ?? "does not answer"));
  return table([
    ["Store", "State"],
    ["Redis", state(redis)],
    ["MongoDB", state(mongo)],
    ["MySQL", state(mysql)],
  ]);
}

function flow({ flush, spool, dead_letters: dead, enabled }) {
  return table([
    ["Measure", "Now"],
    ["Counting", enabled ? "on" : "switched off"],
    ["Flush lag", flush.lag_s == null ? "–" : age(flush.lag_s)],
    [
      "Spool",
      spool === null
        ? "not configured"
        : spool.spooling || spool.bytes
          ? `${spool.spooling ? "spooling, " : ""}${bytes(spool.bytes)} of ${bytes(spool.bytes_max)}, oldest ${age(spool.oldest_age_s)}`
          : "empty",
    ],
    ...(spool?.damaged ? [["Damaged records in the spool", number(spool.damaged)]] : []),
    ["Dead letters", dead === null ? "unknown" : number(dead)],
  ]);
}

function shards(list) {
  if (!list.length) return h("p.soft", "Unknown while Redis does not answer.");
  return table([
    ["Shard", "Dirty", "In flight", "Age", "Last flush", "Due", "Refused", "Owner"],
    ...list.map((each) => [
      String(each.shard),
      each.dirty,
      each.in_flight,
      age(each.in_flight_age_s),
      each.last_flush_age_s == null ? "–" : `${age(each.last_flush_age_s)} ago`,
      each.replica_due,
      each.replica_refused,
      each.owner ? foreign(each.owner, "bdi.code") : "–",
    ]),
  ]);
}

function rejected(reasons) {
  const rows = Object.entries(reasons ?? {}).sort((a, b) => b[1] - a[1]);
  if (!rows.length) return h("p.soft", "None.");
  return table([["Reason", "Events"], ...rows.map(([reason, events]) => [reason.replaceAll("_", " "), events])]);
}

function jobs(list, now) {
  if (!list.length)
    return h("p.soft", "No audit, parity or doctor has left a result yet. See ops/systemd for their timers.");
  return table([
    ["Check", "Result", "Said", "When", "Took"],
    ...list.map((each) => [
      each.job,
      h("span.state", mark(each.ok ? "good" : "bad"), each.ok ? "well" : "look"),
      foreign(each.summary ?? "", "span"),
      `${age((now - Date.parse(each.at)) / 1000)} ago: ${moment(each.at)}`,
      age(each.seconds),
    ]),
  ]);
}

function dead({ waiting, letters }, count) {
  if (count === null) return h("p.soft", "Unknown while MongoDB does not answer.");
  if (!count) return h("p.soft", "None waits.");
  const rows = letters.map((each) => [
    moment(each.at),
    foreign(each.document, "bdi.code"),
    Object.entries(each.amounts)
      .map(([counter, amount]) => `${counter} ${number(amount)}`)
      .join(", "),
    foreign(each.reason, "span"),
  ]);
  return h(
    "div",
    table([["When", "Document", "Amounts", "Reason"], ...rows]),
    waiting > letters.length && h("p.soft", `${number(letters.length)} of ${number(waiting)} are shown.`),
  );
}

/** Events a second of one kind, as this page saw them. */
class Rate {
  #seen = [];

  constructor(name, title, index) {
    this.name = name;
    this.now = h("b", "–");
    this.course = h("div.course");
    this.all = h("span.soft", "\u00a0");
    this.element = h(`div.rate.c${index}`, h("h3", h("i.dot"), title), this.now, this.course, this.all);
  }

  add(rate) {
    this.#seen = [...this.#seen, rate].slice(-KEPT);
    write(this.now, rate >= 100 ? number(Math.round(rate)) : rate.toFixed(1));
    this.course.replaceChildren(sparkline(this.#seen));
  }

  total(events) {
    write(this.all, `${number(events)} in all`);
  }
}
