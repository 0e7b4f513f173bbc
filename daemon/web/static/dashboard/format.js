/** How numbers, times, names and strangers' text are written. Every time is UTC. */

const exact = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const percent = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const date = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
const DAY = date({ day: "numeric", month: "short", year: "numeric" });
const WEEKDAY = date({ weekday: "short", day: "numeric", month: "short", year: "numeric" });
const SHORT_DAY = date({ day: "numeric", month: "short" });
const MONTH = date({ month: "short", year: "numeric" });
const CLOCK = date({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MINUTE = date({ hour: "2-digit", minute: "2-digit" });
const DAY_MS = 86_400_000;

/** What a counter's name ends with if it holds those that its base leaves out, or all. */
const APART = [
  ["_robot", "robots"],
  ["_raw", "raw"],
];

export const number = (amount) => exact.format(amount);
export const compact = (amount) => short.format(amount);
export const clock = (time) => `${CLOCK.format(new Date(time))} UTC`;
export const minute = (time) => `${WEEKDAY.format(time)}, ${MINUTE.format(time)} UTC`;
export const moment = (time) => `${DAY.format(new Date(time))}, ${CLOCK.format(new Date(time))} UTC`;

/** "2026-11-30", so many days before today. */
export const dayBefore = (days) => new Date(Date.now() - days * DAY_MS).toISOString().slice(0, 10);

/** The first day of the month that is so many months before this one. */
export function monthBefore(months) {
  const now = new Date();
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - months)).toISOString().slice(0, 10);
}

/** "+3.1 %", "−0.4 %", "new". Without anything before or now: "". */
export function change(now, before) {
  if (!before) return now ? "new" : "";
  const by = (100 * (now - before)) / before;
  const size = Math.abs(by) >= 1000 ? exact.format(Math.round(Math.abs(by))) : percent.format(Math.abs(by));
  if (size === "0.0") return "±0.0 %";
  return `${by < 0 ? "−" : "+"}${size} %`;
}

/** "View", "Downloads", "Rating sum": the counters' names for people. */
export function counterName(counter) {
  const known = { view: "Views", download: "Downloads" }[counter];
  if (known) return known;
  const words = counter.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

/** A bucket's names: [in a sentence, under an axis]. It is "2026-11-30T05", "2026-11-30", "2026-W08", "2026-11", "2026". */
export function bucketNames(bucket) {
  const hour = /^(.{10})T(\d\d)$/.exec(bucket);
  if (hour) return [`${WEEKDAY.format(new Date(hour[1]))}, ${hour[2]}:00 UTC`, `${hour[2]}:00`];
  const week = /^(\d{4})-W(\d\d)$/.exec(bucket);
  if (week) {
    const monday = mondayOf(Number(week[1]), Number(week[2]));
    return [`Week ${Number(week[2])} of ${week[1]}, from ${DAY.format(monday)} UTC`, SHORT_DAY.format(monday)];
  }
  if (/^\d{4}$/.test(bucket)) return [`${bucket} UTC`, bucket];
  const time = new Date(bucket);
  if (bucket.length === 7) return [`${MONTH.format(time)} UTC`, MONTH.format(time)];
  return [`${WEEKDAY.format(time)} UTC`, SHORT_DAY.format(time)];
}

function mondayOf(year, week) {
  const fourth = Date.UTC(year, 0, 4); // is in week 1
  return new Date(fourth - ((new Date(fourth).getUTCDay() + 6) % 7) * DAY_MS + (week - 1) * 7 * DAY_MS);
}

/** "4 s", "12 min", "3 h", "2 days". */
export function age(seconds) {
  if (seconds == null) return "–";
  if (seconds < 10) return `${percent.format(seconds)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** "12.5 MiB". */
export function bytes(size) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = size ? Math.min(units.length - 1, Math.floor(Math.log2(size) / 10)) : 0;
  const shown = size / 1024 ** unit;
  return `${unit ? percent.format(shown) : exact.format(shown)} ${units[unit]}`;
}

/** A stranger's text with each mark shown that would turn, hide or break the text around it. */
export const visible = (text) =>
  String(text).replace(
    /[\p{Cc}\p{Cf}\p{Co}\u2028\u2029]/gu,
    (mark) => `\u27e8U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`,
  );

/** A cell of a CSV: a spreadsheet must not take a stranger's text for a formula. Where the comma is the decimal point, it
 * cuts cells at semicolons and tabs, whatever stands in quotes. */
export function csvCell(value) {
  const text =
    typeof value === "string" ? value.replace(/(^|[;\t\r\n]\s*"*)(?=[=+\-@\t\r])/g, "$1'") : String(value ?? "");
  return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** [the counters that have charts, in the order of their actions; counter → those counted apart: [[counter, name]]] */
export function counterGroups({ counters, actions }) {
  const apartOf = (counter) => APART.map(([suffix, name]) => [counter + suffix, name]);
  const apart = Object.fromEntries(
    counters.map((counter) => [counter, apartOf(counter).filter(([other]) => counters.includes(other))]),
  );
  const beside = new Set(Object.values(apart).flatMap((others) => others.map(([counter]) => counter)));
  const place = (counter) => actions.findIndex((action) => counter.startsWith(action)) + 1 || Infinity;
  return [counters.filter((counter) => !beside.has(counter)).sort((a, b) => place(a) - place(b)), apart];
}

/** An entity's [name, what stands smaller beside it] out of its MySQL row; its id if it has none. */
export function entityNames(id, row) {
  const known = Object.entries(row ?? {})
    .filter(([, value]) => value != null && value !== "")
    .map(([column, value]) => [column, String(value)]);
  if (!known.length) return [id, ""];
  const title = known.find(([column]) => /title|name/.test(column)) ?? known.at(-1);
  return [title[1], known.find((each) => each !== title)?.[1] ?? ""];
}

/** The entity's page in the application, or null. */
export function entityUrl(pattern, id) {
  if (!/^https?:\/\//.test(pattern ?? "")) return null;
  return pattern.replaceAll("{id}", () => encodeURIComponent(id));
}
