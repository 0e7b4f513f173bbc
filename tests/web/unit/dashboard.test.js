// The dashboard's own rules, without a browser: how numbers, times and strangers' text are written, and when it asks.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import * as format from "../../../daemon/web/static/dashboard/format.js";

test("a change has a sign, one decimal, and no percentage of nothing", () => {
  assert.equal(format.change(103, 100), "+3.0 %");
  assert.equal(format.change(99, 100), "−1.0 %");
  assert.equal(format.change(0, 100), "−100.0 %");
  assert.equal(format.change(100_000, 100_001), "±0.0 %");
  assert.equal(format.change(2_100, 100), "+2,000 %");
  assert.equal(format.change(5, 0), "new");
  assert.equal(format.change(0, 0), "");
});

test("a bucket is named by its UTC time", () => {
  assert.deepEqual(format.bucketNames("2026-11-30T05"), ["Mon, 30 Nov 2026, 05:00 UTC", "05:00"]);
  assert.deepEqual(format.bucketNames("2026-11-30"), ["Mon, 30 Nov 2026 UTC", "30 Nov"]);
  assert.deepEqual(format.bucketNames("2026-W01"), ["Week 1 of 2026, from 29 Dec 2025 UTC", "29 Dec"]);
  assert.deepEqual(format.bucketNames("2020-W53"), ["Week 53 of 2020, from 28 Dec 2020 UTC", "28 Dec"]);
  assert.deepEqual(format.bucketNames("2026-02"), ["Feb 2026 UTC", "Feb 2026"]);
  assert.deepEqual(format.bucketNames("2026"), ["2026 UTC", "2026"]);
});

test("months are counted as the calendar has them", () => {
  for (const [today, first] of [
    ["2026-03-01", "2024-04-01"],
    ["2026-01-31", "2024-02-01"],
    ["2026-12-31", "2025-01-01"],
  ]) {
    mock.timers.reset();
    mock.timers.enable({ apis: ["Date"], now: Date.parse(`${today}T12:00Z`) });
    assert.equal(format.monthBefore(23), first, today);
  }
});

test("marks that turn, hide or break text are shown", () => {
  assert.equal(format.visible("a\u202eb\u0000c\u200bd\ne"), "a⟨U+202E⟩b⟨U+0000⟩c⟨U+200B⟩d⟨U+000A⟩e");
  assert.equal(format.visible("שלום <b> é 你好"), "שלום <b> é 你好");
});

test("a cell of a CSV is no formula, and keeps to its cell", () => {
  assert.deepEqual(
    ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1"].map((text) => format.csvCell(text).replaceAll('"', "")[0]),
    Array(6).fill("'"),
  );
  assert.equal(format.csvCell("a;=1+1"), `"a;'=1+1"`, "Excel of many countries cuts there");
  assert.equal(format.csvCell('a; "=1+1'), `"a; ""'=1+1"`);
  assert.equal(format.csvCell("a\n=1+1"), `"a\n'=1+1"`);
  assert.equal(format.csvCell("a-1=b"), "a-1=b");
  assert.equal(format.csvCell('a,"b"'), '"a,""b"""');
  assert.equal(format.csvCell("a\nb"), '"a\nb"');
  assert.equal(format.csvCell(-5), "-5");
  assert.equal(format.csvCell(null), "");
});

test("an id is encoded in the address of its page, and only a web address is one", () => {
  assert.equal(
    format.entityUrl("https://shop.example/m/{id}?a={id}", 'a/b?c"$&'),
    "https://shop.example/m/a%2Fb%3Fc%22%24%26?a=a%2Fb%3Fc%22%24%26",
  );
  assert.equal(format.entityUrl("javascript:alert({id})", "1"), null);
  assert.equal(format.entityUrl(null, "1"), null);
});

test("counters come in the order of their actions, those counted apart beside their base", () => {
  const counters = ["download", "download_robot", "rating", "view", "view_raw", "view_robot"];
  const [main, apart] = format.counterGroups({ counters, actions: ["view", "download"] });
  assert.deepEqual(main, ["view", "download", "rating"]);
  assert.deepEqual(apart.view, [
    ["view_robot", "robots"],
    ["view_raw", "raw"],
  ]);
  assert.deepEqual(apart.rating, []);
});

test("an entity is named by its title, then its code, then its id", () => {
  assert.deepEqual(format.entityNames("1", { code: "A-1", title: "Rain" }), ["Rain", "A-1"]);
  assert.deepEqual(format.entityNames("1", { code: "A-1", title: null }), ["A-1", ""]);
  assert.deepEqual(format.entityNames("1", null), ["1", ""]);
});

// The loop of requests ---------------------------------------------------------------------------------------------

let api, seen;
beforeEach(async () => {
  globalThis.location ??= { href: "http://tallyd.test/stats/dashboard#/" };
  globalThis.document = {
    hidden: false,
    addEventListener: (_, listener) => (seen = listener),
    removeEventListener: () => (seen = undefined),
  };
  api = await import("../../../daemon/web/static/dashboard/api.js");
  mock.timers.enable({ apis: ["setTimeout"] });
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
  delete globalThis.document;
});

/** Lets everything that waits for no timer happen. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

/** A Poll of 10 s whose loads end as `outcomes` say. */
function polled(...outcomes) {
  const told = [];
  const state = { loads: 0, told };
  state.poll = new api.Poll(
    async () => {
      const outcome = outcomes[state.loads++];
      if (outcome instanceof Error) throw outcome;
    },
    10_000,
    (error, waitMs) => told.push([error, waitMs]),
  );
  return state;
}

test("reads are addressed beside the page, and strangers' ids are one parameter each", async () => {
  const asked = mock.method(globalThis, "fetch", async () => Response.json({ a: 1 }));
  assert.deepEqual(await api.get("totals/jav/movie", { id: ["a,b", "c&d"], window: undefined }), { a: 1 });
  assert.equal(
    String(asked.mock.calls[0].arguments[0]),
    "http://tallyd.test/stats/api/v1/analytics/totals/jav/movie?id=a%2Cb&id=c%26d",
  );
});

test("an error says what the server said and how long it wants to be left alone", async () => {
  mock.method(globalThis, "fetch", async () =>
    Response.json({ message: "Later." }, { status: 503, headers: { "retry-after": "7" } }),
  );
  await assert.rejects(api.get("domains"), { status: 503, message: "Later.", retryMs: 7000 });
  mock.method(globalThis, "fetch", async () => new Response("<html>", { status: 502 }));
  await assert.rejects(api.get("domains"), { status: 502, message: "The answer was 502." });
  mock.method(globalThis, "fetch", async () => {
    throw new TypeError("network");
  });
  await assert.rejects(api.get("domains"), { status: 0, message: "tallyd does not answer." });
});

test("a visible page asks again after its time", async () => {
  const state = polled();
  await settle();
  mock.timers.tick(9_999);
  assert.equal(state.loads, 1);
  mock.timers.tick(1);
  assert.equal(state.loads, 2);
});

test("a hidden page asks for nothing, and at once when it is seen again", async () => {
  const state = polled();
  await settle();
  document.hidden = true;
  seen();
  mock.timers.tick(3_600_000);
  assert.equal(state.loads, 1);
  document.hidden = false;
  seen();
  assert.equal(state.loads, 2);
});

test("errors make the wait longer, up to a bound, and an answer ends that", async () => {
  const failure = new api.ApiError(503, "no");
  const state = polled(...Array(8).fill(failure), undefined, failure);
  for (let load = 0; load < 10; load++) {
    await settle();
    mock.timers.tick(80_000);
  }
  const waits = state.told.map(([, waitMs]) => waitMs);
  const bases = [2, 4, 8, 16, 32, 60, 60, 60];
  bases.forEach((base, at) => assert.ok(waits[at] >= base * 800 && waits[at] <= base * 1200, `${at}: ${waits[at]}`));
  assert.deepEqual(state.told[8], [null, 0]);
  assert.ok(waits[9] <= 2_400);
});

test("the server's wish to be left alone is honoured", async () => {
  const state = polled(new api.ApiError(429, "slow", 30_000));
  await settle();
  mock.timers.tick(29_999);
  assert.equal(state.loads, 1);
  mock.timers.tick(1);
  assert.equal(state.loads, 2);
});

test("a page that is hidden and seen again while it waits after an error waits on", async () => {
  const state = polled(new api.ApiError(429, "slow", 30_000));
  await settle();
  for (let flips = 0; flips < 5; flips++)
    for (document.hidden of [true, false]) {
      seen();
      mock.timers.tick(1_000);
    }
  assert.equal(state.loads, 1);
  mock.timers.tick(30_000);
  assert.equal(state.loads, 2);
});

test("a stopped poll asks and tells nothing more", async () => {
  const state = polled();
  state.poll.stop();
  await settle();
  mock.timers.tick(3_600_000);
  assert.deepEqual([state.loads, state.told.length, seen], [1, 0, undefined]);
});
