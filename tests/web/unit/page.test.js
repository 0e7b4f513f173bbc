// A page's life: its tag, what is seen and clicked in it, prerendering, hiding, leaving, coming back.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { accept, Client, fail, load, never, queued, settle, Store } from "./page.js";

let local, session, observers;
beforeEach(() => {
  [local, session, observers] = [new Store(), new Store(), []];
  globalThis.IntersectionObserver = class {
    constructor(tell) {
      this.observed = new Set();
      this.see = (...targets) => tell(targets.map((target) => ({ isIntersecting: true, target })));
      observers.push(this);
    }
    observe(element) {
      this.observed.add(element);
    }
    unobserve(element) {
      this.observed.delete(element);
    }
  };
});
afterEach(() => {
  delete globalThis.IntersectionObserver;
  mock.restoreAll();
});

async function page(httpClient, dataset = {}, globals = {}) {
  const loaded = await load({ local, session, dataset: { endpoint: "/t", ...dataset }, ...globals });
  loaded.analytics.httpClient = httpClient;
  return loaded;
}

test("the tag's attributes are the configuration", async () => {
  const { analytics } = await page(new Client(accept()), {
    endpoint: "https://count.example/t",
    domain: "shop",
    actions: "buy view",
    types: "book",
    ranges: "buy:1-9",
    windowS: "7200",
  });
  assert.equal(await analytics.track("buy", "book", 1, { value: 9, domain: "shop" }), true);
  assert.equal(await analytics.track("view", "movie", 1), false);
  assert.equal(analytics.httpClient.posts[0].url, "https://count.example/t");
  assert.equal(analytics.httpClient.posts[0].payload.domain, "shop");
});

test('data-storage="none" stores nothing, and counts once all the same', async () => {
  const { analytics } = await page(new Client(fail, accept()), { storage: "none" });
  assert.equal(await analytics.track("view", "movie", 1), false);
  assert.equal(await analytics.track("view", "movie", 1), true);
  assert.equal(await analytics.track("view", "movie", 1), false);
  assert.deepEqual([Object.keys(local), Object.keys(session)], [[], []]);
});

test('data-storage="session" is the default', async () => {
  const { analytics } = await page(new Client(accept()), { storage: "session" });
  await analytics.track("view", "movie", 1);
  assert.equal(session["anl:track:v1:view:movie:1"], "1");
});

for (const signal of [{ globalPrivacyControl: true }, { doNotTrack: "1" }]) {
  test(`data-privacy="respect" sends and stores nothing with ${Object.keys(signal)}`, async () => {
    const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
    Object.defineProperty(globalThis, "navigator", { value: signal, configurable: true });
    try {
      const { analytics } = await page(new Client(accept()), { privacy: "respect" });
      assert.equal(await analytics.track("view", "movie", 1), false);
      const open = await page(new Client(accept()));
      assert.equal(await open.analytics.track("view", "movie", 2), true);
      assert.deepEqual(analytics.httpClient.posts, []);
    } finally {
      Object.defineProperty(globalThis, "navigator", before);
    }
  });
}

test("data-global gives the page a name for it, and without it there is none", async () => {
  const { analytics } = await page(new Client(accept()), { global: "counter" });
  assert.equal(globalThis.window.counter, analytics);
  assert.equal((await page(new Client(accept())), globalThis.window.analytics), undefined);
});

const movie = (id) => ({ dataset: { track: `view movie ${id}` } });

test("data-track counts at first sight, and once", async () => {
  const elements = [movie(1), movie(2)];
  const querySelectorAll = (selector) => (selector === "[data-track]" ? elements : []);
  const { analytics, fire } = await page(new Client(accept()), {}, { querySelectorAll });
  const [observer] = observers;
  assert.equal(observer.observed.size, 2);
  observer.see(elements[0]);
  observer.see(elements[0]);
  await settle();
  assert.deepEqual([observer.observed.size, analytics.httpClient.posts.length], [1, 1]);
  fire("DOMContentLoaded");
  assert.equal(observer.observed.size, 2); // observed again it is told of again, which is no new event
  observer.see(elements[0]);
  await settle();
  assert.equal(analytics.httpClient.posts.length, 1);
});

test("clicks with the first and the middle button count, with another one not", async () => {
  const { analytics, document } = await page(new Client(accept()));
  const closest = (selector) =>
    selector === "[data-track-click]" ? { dataset: { trackClick: "download movie 7" } } : null;
  const click = (type, button, target = { closest }) =>
    document.dispatchEvent(
      Object.defineProperties(new Event(type), { button: { value: button }, target: { value: target } }),
    );
  click("auxclick", 2);
  click("click", 0, { closest: () => null });
  click("click", 0, {});
  assert.deepEqual(analytics.httpClient.posts, []);
  click("auxclick", 1);
  await settle();
  analytics.reset();
  click("click", 0);
  await new Promise((done) => setTimeout(done, 300));
  assert.deepEqual(
    analytics.httpClient.posts.map(({ payload }) => payload.action),
    ["download", "download"],
  );
});

test("a prerendered page sends and stores nothing until it is shown", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { analytics, fire, document } = await page(new Client(accept()), {}, { prerendering: true, hidden: true });
  const told = analytics.track("view", "movie", 1);
  mock.timers.tick(5_000);
  assert.deepEqual(
    [await told, analytics.httpClient.posts, Object.keys(local), Object.keys(session)],
    [false, [], [], []],
  );
  document.prerendering = document.hidden = false;
  fire("prerenderingchange");
  await settle();
  assert.equal(analytics.httpClient.posts.length, 1);
  mock.timers.reset();
});

test("when the page is left, what waits is sent at once", async () => {
  const { analytics, fire, document } = await page(new Client(never));
  [1, 2, 3].forEach((id) => analytics.track("view", "movie", id));
  assert.equal(analytics.httpClient.posts.length, 1);
  fire("pagehide");
  document.hidden = true;
  fire("visibilitychange");
  assert.deepEqual(
    analytics.httpClient.ids.map((ids) => ids.length),
    [1, 2],
  );
});

test("when the page is hidden, what waits is sent at once, and only once", async () => {
  const { analytics, fire, document } = await page(new Client(accept()));
  const told = [1, 2, 3].map((id) => analytics.track("view", "movie", id));
  document.hidden = true;
  fire("visibilitychange");
  assert.deepEqual(await Promise.all(told), [true, true, true]);
  document.hidden = false;
  fire("visibilitychange");
  await settle();
  assert.deepEqual([analytics.httpClient.ids.map((ids) => ids.length), queued(local)], [[1, 2], []]);
});

test("in a hidden page an event waits for nothing", async () => {
  const { analytics } = await page(new Client(accept()), {}, { hidden: true });
  analytics.track("view", "movie", 1);
  analytics.track("view", "movie", 2);
  assert.equal(analytics.httpClient.posts.length, 2);
});

test("what is under way when the page is left is free for the next one", async () => {
  const { analytics, fire } = await page(new Client(never));
  analytics.track("view", "movie", 1);
  const free = () => JSON.parse(local[queued(local)[0]]).a - Date.now();
  assert.ok(free() > 14_000);
  fire("pagehide");
  assert.ok(free() <= 0);
});

test("a page that comes back from the cache sends what waits, and views nothing anew", async () => {
  const element = movie(1);
  const querySelectorAll = (selector) => (selector === "[data-track]" ? [element] : []);
  const { analytics, fire } = await page(new Client(never, accept()), {}, { querySelectorAll });
  observers[0].see(element);
  fire("pagehide");
  fire("visibilitychange");
  await settle();
  assert.equal(new Set(analytics.httpClient.ids.flat()).size, 1);
  assert.deepEqual([analytics.httpClient.posts.length, queued(local)], [2, []]);
});
