// The queue: what it holds, what an answer does with an event, when it is sent again, and when it is given up.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { accept, answer, Client, fail, load, never, queued, settle, Store } from "./page.js";

const NOON = Date.parse("2026-02-19T12:00:00Z");
const HOUR_MS = 3_600_000;

let local, session;

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: NOON });
  mock.method(Math, "random", () => 0.5);
  [local, session] = [new Store(), new Store()];
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

const entries = () => queued(local).map((name) => JSON.parse(local[name]));
const tick = async (ms) => {
  mock.timers.tick(ms);
  await settle();
};

async function page(httpClient, options = {}) {
  const loaded = await load({ local, session, dataset: { endpoint: "/t" } });
  loaded.analytics.httpClient = httpClient;
  Object.assign(loaded.analytics, options);
  await tick(1);
  return loaded;
}

test("an event is in both storages before it is sent", async () => {
  let seen;
  const client = new Client(async () => (seen = [queued(local).length, session["anl:track:v1:view:movie:7"]]));
  const { analytics } = await page(client, { uuidFactory: () => "id-1" });
  assert.equal(await analytics.track("view", "movie", 7), true);
  assert.deepEqual(seen, [1, `id-1 ${NOON + 1}`]);
});

test("a confirmed event leaves nothing but its key, which is done", async () => {
  const { analytics } = await page(new Client(accept()));
  assert.equal(await analytics.track("view", "movie", 7), true);
  assert.deepEqual([queued(local), session["anl:track:v1:view:movie:7"]], [[], "1"]);
});

test("an event without an answer waits, is sent again with its id, and then its key is done", async () => {
  const client = new Client(fail, accept());
  const { analytics } = await page(client);
  assert.equal(await analytics.track("view", "movie", 7), false);
  assert.equal(entries().length, 1);
  await tick(1_499);
  assert.equal(client.posts.length, 1);
  await tick(2);
  const [[first], [second]] = client.ids;
  assert.equal(first, second);
  assert.deepEqual([queued(local), session["anl:track:v1:view:movie:7"]], [[], "1"]);
  assert.equal(await analytics.track("view", "movie", 7), false);
});

test("tracked again while it waits, an event goes at once, under the same id", async () => {
  const client = new Client(fail, accept());
  const { analytics } = await page(client);
  await analytics.track("view", "movie", 7);
  await tick(300);
  assert.equal(await analytics.track("view", "movie", 7), true);
  assert.equal(new Set(client.ids.flat()).size, 1);
  assert.deepEqual(client.posts[0].payload.occurred_at, client.posts[1].payload.occurred_at);
});

test("after a reload a pending event keeps its id and its time", async () => {
  const before = new Client(never);
  (await page(before)).analytics.track("view", "movie", 7);
  mock.timers.tick(5_000);
  const after = new Client(accept());
  assert.equal(await (await page(after)).analytics.track("view", "movie", 7), true);
  assert.equal(after.posts[0].payload.event_id, before.posts[0].payload.event_id);
  assert.equal(after.posts[0].payload.occurred_at, before.posts[0].payload.occurred_at);
});

test("the next page sends what the last one left", async () => {
  const first = await page(new Client(never));
  first.analytics.track("download", "movie", 7);
  first.fire("pagehide");
  const client = new Client(accept());
  await page(client);
  assert.equal(client.posts[0].payload.action, "download");
  assert.deepEqual(queued(local), []);
});

test("what another page is sending is left to it, for 15 s", async () => {
  (await page(new Client(never))).analytics.track("view", "movie", 7);
  const client = new Client(accept());
  await page(client);
  await tick(14_000);
  assert.equal(client.posts.length, 0);
  await tick(1_500);
  assert.equal(client.posts.length, 1);
});

for (const status of [400, 401, 403, 404, 413, 415, 422]) {
  test(`${status} ends an event, and its key is free`, async () => {
    const { analytics } = await page(new Client(answer(status), accept()));
    assert.equal(await analytics.track("view", "movie", 7), false);
    assert.deepEqual(queued(local), []);
    await tick(300);
    assert.equal(await analytics.track("view", "movie", 7), true);
  });
}

for (const status of [408, 429, 500, 502, 503, 200, 204]) {
  test(`${status} keeps an event`, async () => {
    const { analytics } = await page(new Client(answer(status)));
    assert.equal(await analytics.track("view", "movie", 7), false);
    assert.equal(entries().length, 1);
  });
}

test("Retry-After is waited for, by the event and by those that come", async () => {
  const client = new Client(answer(503, { "retry-after": "60" }), accept());
  const { analytics, fire } = await page(client);
  await analytics.track("view", "movie", 7);
  analytics.track("view", "movie", 8);
  for (let turn = 0; turn < 59; turn++) {
    fire(turn % 2 ? "visibilitychange" : "online");
    await tick(1_000);
  }
  assert.equal(client.posts.length, 1);
  await tick(40_000);
  assert.deepEqual(new Set(client.ids.flat()).size, 2);
  assert.deepEqual(queued(local), []);
});

for (const text of ["Wed, 21 Oct 2026 07:28:00 GMT", "abc", "-5", "", "1, 2"]) {
  test(`Retry-After "${text}" is as none`, async () => {
    const client = new Client(answer(503, { "retry-after": text }));
    const { analytics } = await page(client);
    await analytics.track("view", "movie", 7);
    await tick(1_499);
    assert.equal(client.posts.length, 1);
    await tick(2);
    assert.equal(client.posts.length, 2);
  });
}

test("a Retry-After of ages is an hour, or a little more", async () => {
  const client = new Client(answer(503, { "retry-after": "99999999999" }), accept());
  const { analytics } = await page(client);
  await analytics.track("view", "movie", 7);
  await tick(HOUR_MS - 2);
  assert.equal(client.posts.length, 1);
  await tick(HOUR_MS);
  assert.equal(client.posts.length, 2);
});

test("each wait is longer than the one before, up to ten minutes and jitter", async () => {
  const client = new Client(fail);
  const { analytics } = await page(client);
  analytics.track("view", "movie", 7);
  const at = [];
  const post = client.post;
  client.post = (...args) => {
    at.push(Date.now());
    return post.apply(client, args);
  };
  for (let s = 0; s < 12_000; s++) {
    await tick(1_000);
  }
  const waits = at.slice(1).map((time, index) => time - at[index]);
  assert.ok(at.length < 25, String(at.length));
  assert.ok(Math.max(...waits) <= 902_000 && Math.max(...waits) >= 890_000, String(waits));
});

test("all browsers come back at different moments", async () => {
  const pauses = new Set();
  for (const random of [0, 0.3, 0.9]) {
    Math.random.mock.mockImplementation(() => random);
    [local, session] = [new Store(), new Store()];
    const { analytics } = await page(new Client(fail));
    await analytics.track("view", "movie", 7);
    pauses.add(Math.round(entries()[0].a - Date.now()));
  }
  assert.deepEqual([...pauses], [1_000, 1_300, 1_900]);
});

for (const [window, lives] of [
  [172_800, 24 * HOUR_MS],
  [7_200, HOUR_MS],
]) {
  test(`an event is given up after ${lives / HOUR_MS} h if the server remembers ids for ${window} s`, async () => {
    const { analytics } = await page(new Client(fail), { windowS: window, debug: true });
    const warned = mock.method(console, "warn", () => {});
    await analytics.track("view", "movie", 7);
    await tick(lives - 1_000);
    const late = new Client(accept());
    mock.timers.tick(1_001);
    await settle();
    analytics.httpClient = late;
    assert.equal(await analytics.track("view", "movie", 7), false);
    assert.deepEqual([late.posts, warned.mock.callCount() > 0 || queued(local).length === 1], [[], true]);
    const next = await page(new Client(accept()), { windowS: window });
    assert.equal(await next.analytics.track("view", "movie", 7), false);
    assert.deepEqual([next.analytics.httpClient.posts, session["anl:track:v1:view:movie:7"]], [[], "1"]);
  });
}

test("a clock that is set back by days gives an event up, by hours it does not", async () => {
  const { analytics } = await page(new Client(fail));
  await analytics.track("view", "movie", 7);
  const kept = { ...local };
  mock.timers.setTime(NOON - 12 * HOUR_MS);
  const hours = new Client(accept());
  await page(hours);
  assert.equal(hours.posts.length, 1);
  Object.assign(local, kept);
  mock.timers.setTime(NOON - 48 * HOUR_MS);
  const days = new Client(accept());
  await page(days);
  assert.deepEqual([days.posts, queued(local)], [[], []]);
});

test("the queue holds at most 200 events and 64 KiB", async () => {
  const { analytics } = await page(new Client(fail));
  for (let id = 0; id < 300; id++) {
    analytics.track("view", "movie", `${"é".repeat(id % 2 ? 200 : 1)}${id}`);
  }
  await settle();
  assert.ok(queued(local).length <= 200 && queued(local).length > 90, String(queued(local).length));
  const chars = queued(local).reduce((sum, name) => sum + name.length + local[name].length, 0);
  assert.ok(chars <= 65_536, String(chars));
});

for (const damage of [
  { e: { event_id: { toString: 1 } } },
  { e: { event_id: "h" }, t: { toString: 1 } },
  { e: { event_id: "h" }, t: NOON, a: { valueOf: 1, toString: 1 } },
  { e: { event_id: "h" }, t: NOON, a: 0, s: 1, p: 1, u: 1, k: { toString: 1 } },
]) {
  test(`an entry ${JSON.stringify(damage)} does not keep a good one from being sent`, async () => {
    const good = { event_id: "good", domain: "jav", entity_type: "movie", entity_id: "1", action: "view", value: 1 };
    local["anl:q:v1:/t:h"] = JSON.stringify(damage);
    local["anl:q:v1:/t:good"] = JSON.stringify({ e: good, k: "", t: NOON, a: 0 });
    const client = new Client(accept());
    const { fire } = await page(client);
    fire("visibilitychange");
    await settle();
    assert.ok(client.ids.flat().includes("good"));
    assert.deepEqual(queued(local), []);
  });
}

test("what waits is not sent where the browser asks for privacy", async () => {
  await (await page(new Client(fail))).analytics.track("view", "movie", 7);
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { globalPrivacyControl: true }, configurable: true });
  mock.timers.tick(20_000);
  const client = new Client(accept());
  const { fire } = await page(client, { privacy: "respect" });
  fire("visibilitychange");
  await settle();
  Object.defineProperty(globalThis, "navigator", before);
  assert.deepEqual([client.posts, queued(local).length], [[], 1]);
});

test("damaged entries of our name are removed, and others are not touched", async () => {
  Object.assign(local, {
    "anl:q:v1:/t:a": "{",
    "anl:q:v1:/t:b": "null",
    "anl:q:v1:/t:c": '{"e":{"event_id":"other"}}',
    "anl:q:v1:/t:d": "5",
    "anl:q:v1:/other:e": "{",
    theirs: "{",
  });
  const client = new Client(accept());
  await page(client);
  assert.deepEqual([Object.keys(local), client.posts], [["anl:q:v1:/other:e", "theirs"], []]);
});

test("an entry whose times are wrong is sent, and does not make a loop", async () => {
  for (const wrong of [{ a: 1e18 }, { a: "x" }, { a: null }, { t: NOON + 12 * HOUR_MS }, { a: -1 }]) {
    const e = { event_id: "h", domain: "jav", entity_type: "movie", entity_id: "1", action: "view", value: 1 };
    local["anl:q:v1:/t:h"] = JSON.stringify({ e, k: "", t: NOON, a: 0, ...wrong });
    const client = new Client(fail);
    await page(client);
    await tick(900);
    assert.equal(client.posts.length, 1, JSON.stringify(wrong));
    local.removeItem("anl:q:v1:/t:h");
  }
});

test("each endpoint has its own queue", async () => {
  const { AnalyticsService } = await page(new Client(accept()));
  const [here, there] = [new Client(fail, accept()), new Client(fail, accept())];
  const one = new AnalyticsService({ httpClient: here, endpoint: "/a", storage: new Store() });
  const two = new AnalyticsService({ httpClient: there, endpoint: "https://b.example/t", storage: new Store() });
  await Promise.all([one.track("view", "movie", 1), two.track("view", "movie", 2)]);
  await tick(3_000);
  assert.deepEqual(
    [here, there].map(({ posts }) => posts.map(({ url, payload }) => [url, payload.entity_id])),
    [Array(2).fill(["/a", "1"]), Array(2).fill(["https://b.example/t", "2"])],
  );
});

test("two tabs send what a third left, and the server gets one id", async () => {
  (await page(new Client(fail))).analytics.track("view", "movie", 7);
  await settle();
  mock.timers.tick(20_000);
  const clients = [new Client(accept()), new Client(accept())];
  await page(clients[0]);
  await page(clients[1]);
  assert.deepEqual(
    clients.map(({ posts }) => posts.length),
    [1, 0],
  );
});

test("what this page sends for another tab is not this tab's event", async () => {
  const other = await page(new Client(fail));
  await other.analytics.track("view", "movie", 7);
  session = new Store();
  mock.timers.tick(20_000);
  const client = new Client(never, accept());
  const { analytics } = await page(client);
  assert.equal(client.posts.length, 1);
  assert.equal(await analytics.track("view", "movie", 7), true);
  assert.equal(new Set(client.ids.flat()).size, 2);
});

test("a server that hangs gets one request, however much is tracked", async () => {
  const client = new Client(never);
  const { analytics } = await page(client);
  for (let id = 0; id < 40; id++) {
    analytics.track("view", "movie", id);
    await tick(300);
  }
  assert.equal(client.posts.length, 1);
  assert.equal(queued(local).length, 40);
});

test("back online, the queue goes at once", async () => {
  const client = new Client(fail, accept());
  const { analytics, fire } = await page(client);
  await analytics.track("view", "movie", 7);
  const [entry] = queued(local);
  local[entry] = JSON.stringify({ ...JSON.parse(local[entry]), a: Date.now() + 500_000 });
  fire("online");
  await settle();
  assert.equal(client.posts.length, 2);
});

test("a user's id is sent at first, and never stored", async () => {
  const client = new Client(fail, accept());
  const { analytics } = await page(client);
  await analytics.track("view", "movie", 7, { userId: 99 });
  assert.ok(!JSON.stringify(local).includes("user_id"));
  await tick(3_000);
  assert.deepEqual(
    client.posts.map(({ payload }) => payload.user_id),
    [99, undefined],
  );
});
