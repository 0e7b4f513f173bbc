/** The frame: which page the address names, what is above it, and what is said when something is wrong. */

import { get, Poll } from "./api.js";
import { clock, minute, visible } from "./format.js";
import { overview } from "./overview.js";
import { h, mark, write } from "./page.js";

/** Each makes { element, everyMs, load(signal), stop() }. The overview comes with the frame, the others when opened. */
const PAGES = {
  overview: () => overview,
  entity: async () => (await import("./entity.js")).entity,
  found: async () => (await import("./entity.js")).found,
  health: async () => (await import("./health.js")).health,
};
const STATUS_EVERY_MS = 15_000;
const [main, notices, foot, state] = ["main", "notices", "foot", "state"].map((id) => document.getElementById(id));
const trouble = h("div");
const connection = h("p.notice.bad", { hidden: true });
const first = { catalogue: get("domains"), status: get("status") };
for (const asked of Object.values(first)) asked.catch(() => {}); // the poll that waits for it says so

let catalogue,
  page,
  poll,
  watch,
  workedAt,
  shows = 0;
notices.append(connection, trouble);

// The address: #/PAGE?domain=…&… ---------------------------------------------------------------------------------------

function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { name: Object.hasOwn(PAGES, path) ? path : "overview", params: new URLSearchParams(query ?? "") };
}

function link(name, params) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== "");
  return `#/${name === "overview" ? "" : name}${kept.length ? `?${new URLSearchParams(kept)}` : ""}`;
}

async function show() {
  const turn = ++shows;
  delete document.body.dataset.ready;
  const { name, params } = address();
  const domain = catalogue.domains.find((each) => each.name === params.get("domain")) ?? catalogue.domains[0];
  const chosen = catalogue.domains.length > 1 ? { domain: domain.name } : {};
  const go = (changes, replace) => {
    const to = link(name, { ...Object.fromEntries(params), ...changes });
    history[replace ? "replaceState" : "pushState"](null, "", to);
    show();
  };
  const app = {
    domain,
    params,
    go,
    limits: catalogue,
    windows: catalogue.windows,
    demo: document.documentElement.dataset.demo !== undefined,
    link: (page_, given) => link(page_, { ...chosen, ...given }),
    replace: (page_, given) => location.replace(link(page_, { ...chosen, ...given })),
    refresh: () => poll.now(),
    status,
  };
  const focused = document.activeElement?.getAttribute?.("aria-pressed") && document.activeElement.textContent;
  poll?.stop();
  page?.stop();
  document.title = `${{ overview: domain.name, health: "Health", found: "Find", entity: params.get("id")?.slice(0, 60) }[name]} · tallyd`;
  for (const each of document.querySelectorAll("nav a")) {
    each.toggleAttribute("aria-current", each.dataset.page === name);
    if (each.dataset.page === name) each.setAttribute("aria-current", "page");
    each.href = link(each.dataset.page, chosen);
  }
  watch?.stop();
  let make;
  try {
    make = await PAGES[name]();
  } catch {
    if (turn === shows) notLoaded();
    return;
  }
  if (turn !== shows) return; // another page was opened meanwhile
  page = make(app);
  page.name = name;
  main.replaceChildren(domains(domain, name), page.element);
  if (focused)
    [...main.querySelectorAll("button[aria-pressed=true]")].find((button) => button.textContent === focused)?.focus();
  poll = new Poll(page.load, page.everyMs, said);
  watch = name === "health" ? undefined : new Poll(status, STATUS_EVERY_MS, notKnown);
}

/** tallyd is away, or has another version by now, whose files have other names. */
function notLoaded() {
  main.replaceChildren();
  connection.hidden = false;
  write(connection, "This page could not be loaded. Load it anew: tallyd may have another version now.");
  document.body.dataset.ready = "";
}

function domains(open, name) {
  if (catalogue.domains.length < 2 || name === "health") return "";
  return h(
    "select.domain",
    {
      "aria-label": "Domain",
      onchange: (event) => {
        location.hash = link("overview", { domain: event.target.value });
      },
    },
    catalogue.domains.map((each) => h("option", { value: each.name, selected: each === open }, each.name)),
  );
}

// What is said above the page ------------------------------------------------------------------------------------------

async function status(signal) {
  const asked = first.status ?? get("status", {}, signal);
  first.status = undefined;
  const read = await asked;
  const level = read.trouble.some((each) => each.level === "bad") ? "bad" : read.trouble.length ? "warn" : "good";
  if (state.dataset.level !== level) {
    state.dataset.level = level;
    state.replaceChildren(mark(level));
  }
  const shown = page?.name === "health" ? [] : read.trouble;
  const text = shown.map((each) => `${each.text} ${each.do}`).join("\n");
  if (trouble.dataset.text !== text) {
    trouble.dataset.text = text;
    trouble.replaceChildren(
      ...shown.map((each) =>
        h(`p.notice.${each.level}`, h("b", each.text), ` ${each.do} `, h("a", { href: link("health", {}) }, "Health")),
      ),
    );
  }
  write(foot, `tallyd ${read.version}. Every day and hour is UTC.`);
  return read;
}

/** What was said of the state before must not stand while nobody knows it. */
function notKnown(error) {
  if (!error) return;
  state.replaceChildren();
  const text = error.status ? `Whether all is well is not known. ${visible(error.message)}` : ""; // else `said` says it
  if (trouble.dataset.text !== text) trouble.replaceChildren(text && h("p.notice.warn", text));
  trouble.dataset.text = text;
  delete state.dataset.level;
}

/** Tells that the numbers are old, and when they are asked for again. */
function said(error, waitMs) {
  if (!error) workedAt = Date.now();
  const old = workedAt ? ` The numbers are of ${clock(workedAt)}.` : "";
  const again = ` Next try in ${Math.ceil(waitMs / 1000)} s.`;
  connection.hidden = !error;
  document.body.dataset.ready = ""; // all is drawn that can be
  if (error) write(connection, visible(error.message) + old + again);
}

// The start ------------------------------------------------------------------------------------------------------------

const tick = () => {
  const place = document.getElementById("clock");
  write(place, minute(Date.now()));
  place.dateTime = new Date().toISOString();
};
tick();
setInterval(tick, 5_000);

document.querySelector("#find input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const what = event.target.value.trim();
  const domain = catalogue?.domains.length > 1 ? (address().params.get("domain") ?? undefined) : undefined;
  if (what && catalogue) location.hash = link("found", { domain, what });
});
document.addEventListener("keydown", (event) => {
  if (
    event.key !== "/" ||
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    event.target.closest("input, select, textarea")
  )
    return;
  event.preventDefault();
  document.querySelector("#find input").focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment is the address of the page
  main.focus();
});

const start = new Poll(
  async (signal) => {
    const asked = first.catalogue ?? get("domains", {}, signal);
    first.catalogue = undefined;
    catalogue = await asked;
    start.stop();
    if (!catalogue.domains.length)
      return void main.replaceChildren(h("p.plain", "No domain is configured: add one under [domains] and reload."));
    window.addEventListener("hashchange", () => {
      show();
      scrollTo(0, 0);
      main.focus({ preventScroll: true }); // where a reader goes on
    });
    show();
  },
  3_600_000,
  said,
);
