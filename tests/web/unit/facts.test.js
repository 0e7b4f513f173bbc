// What the browser service that this tracker replaces promised its pages, in 25 facts. Its users change one import,
// so each must hold here. Collaborators are given to the constructor, as that service's pages did.

import assert from "node:assert/strict";
import { test } from "node:test";

import analytics, { AnalyticsService } from "../../../daemon/web/tracker/analytics.js";

const NOON = "2026-02-19T12:00:00.000Z";
const noon = () => new Date(NOON);

/** Storage as the pages gave it: it reads and writes, and does nothing else. */
function storageOf(entries = {}) {
  const held = new Map(Object.entries(entries));
  return {
    getItem: (key) => held.get(key) ?? null,
    setItem: (key, value) => void held.set(key, String(value)),
  };
}

/** A client that keeps what it was given; it fails as long as `failing` is true. */
function clientOf() {
  const client = {
    failing: false,
    sent: [],
    async post(url, payload) {
      client.sent.push({ url, payload });
      if (client.failing) throw new Error("no network");
    },
  };
  return client;
}

function serviceOf(options = {}) {
  const client = clientOf();
  let made = 0;
  const service = new AnalyticsService({
    httpClient: client,
    storage: storageOf(),
    uuidFactory: () => `id-${++made}`,
    nowFactory: noon,
    ...options,
  });
  return { service, client };
}

/** Lends the singleton collaborators for one test, and gives its own back. */
function borrow(t) {
  const { httpClient, storage, uuidFactory, nowFactory } = analytics;
  const client = clientOf();
  Object.assign(analytics, { httpClient: client, storage: null, uuidFactory: () => "id-0", nowFactory: noon });
  analytics.inMemory.clear();
  t.after(() => {
    Object.assign(analytics, { httpClient, storage, uuidFactory, nowFactory });
    analytics.inMemory.clear();
  });
  return client;
}

test("a view is one POST of one object to the contract's path before the promise resolves", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", "m-1", { userId: 99 }), true);
  assert.deepEqual(client.sent, [
    {
      url: "/api/v1/analytics/events",
      payload: {
        event_id: "id-1",
        domain: "jav",
        entity_type: "movie",
        entity_id: "m-1",
        action: "view",
        value: 1,
        occurred_at: NOON,
        user_id: 99,
      },
    },
  ]);
});

test("a download is sent as a download", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("download", "movie", "m-1"), true);
  assert.deepEqual(
    client.sent.map(({ payload }) => payload.action),
    ["download"],
  );
});

test("actors and tags count as movies do", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "actor", "a-1"), true);
  assert.equal(await service.track("view", "tag", "t-1"), true);
  assert.deepEqual(
    client.sent.map(({ payload }) => payload.entity_type),
    ["actor", "tag"],
  );
});

test("the same event of a session is sent once", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", "m-1"), true);
  assert.equal(await service.track("view", "movie", "m-1"), false);
  assert.equal(client.sent.length, 1);
});

test("a view does not hide a download", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", "m-1"), true);
  assert.equal(await service.track("download", "movie", "m-1"), true);
  assert.equal(client.sent.length, 2);
});

test("one movie does not hide another", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", "m-1"), true);
  assert.equal(await service.track("view", "movie", "m-2"), true);
  assert.equal(client.sent.length, 2);
});

test("two instances with one session storage send an event once", async () => {
  const storage = storageOf();
  const one = serviceOf({ storage });
  const other = serviceOf({ storage });
  assert.equal(await one.service.track("view", "movie", "m-1"), true);
  assert.equal(await other.service.track("view", "movie", "m-1"), false);
  assert.equal(one.client.sent.length, 1);
  assert.equal(other.client.sent.length, 0);
});

test("what the session remembers as sent is not sent again", async () => {
  const { service, client } = serviceOf({ storage: storageOf({ "anl:track:v1:view:movie:m-1": "1" }) });
  assert.equal(await service.track("view", "movie", "m-1"), false);
  assert.equal(client.sent.length, 0);
});

for (const [fact, ...call] of [
  ["an action that nobody allowed is refused", "favorite", "movie", "m-1"],
  ["an action in capitals is refused", "VIEW", "movie", "m-1"],
  ["an entity type that nobody allowed is refused", "view", "provider", "p-1"],
  ["an empty entity id is refused", "view", "movie", ""],
  ["another domain is refused", "view", "movie", "m-1", { domain: "other" }],
]) {
  test(fact, async () => {
    const { service, client } = serviceOf();
    assert.equal(await service.track(...call), false);
    assert.equal(client.sent.length, 0);
  });
}

test("an entity id that is missing is refused", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", null), false);
  assert.equal(await service.track("view", "movie", undefined), false);
  assert.equal(client.sent.length, 0);
});

test("the own domain may be named", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", "m-1", { domain: "jav" }), true);
  assert.equal(client.sent[0].payload.domain, "jav");
});

test("another endpoint may be named", async () => {
  const { service, client } = serviceOf({ endpoint: "/elsewhere/events" });
  assert.equal(await service.track("view", "movie", "m-1"), true);
  assert.deepEqual(
    client.sent.map(({ url }) => url),
    ["/elsewhere/events"],
  );
});

test("the page may give the event's id and time", async () => {
  const { service, client } = serviceOf();
  const occurredAt = "2026-02-20T00:00:00Z";
  assert.equal(await service.track("view", "movie", "m-1", { eventId: "id-own", occurredAt }), true);
  assert.equal(client.sent[0].payload.event_id, "id-own");
  assert.equal(client.sent[0].payload.occurred_at, occurredAt);
});

test("a user id goes along only when it is a number", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", "m-1", { userId: "abc" }), true);
  assert.equal(await service.track("view", "movie", "m-2", { userId: null }), true);
  assert.equal(await service.track("view", "movie", "m-3", { userId: 7 }), true);
  assert.deepEqual(
    client.sent.map(({ payload }) => "user_id" in payload),
    [false, false, true],
  );
  assert.equal(client.sent[2].payload.user_id, 7);
});

test("without dedupe each call is an event", async () => {
  const { service, client } = serviceOf();
  assert.equal(await service.track("view", "movie", "m-1", { dedupe: false }), true);
  assert.equal(await service.track("view", "movie", "m-1", { dedupe: false }), true);
  assert.deepEqual(
    client.sent.map(({ payload }) => payload.event_id),
    ["id-1", "id-2"],
  );
});

test("without a storage the page's memory dedupes", async () => {
  const { service, client } = serviceOf({ storage: null });
  assert.equal(await service.track("view", "movie", "m-1"), true);
  assert.equal(await service.track("view", "movie", "m-1"), false);
  assert.equal(client.sent.length, 1);
});

test("a failure is no throw and no mark: the next call sends again, and under the same id", async () => {
  const { service, client } = serviceOf();
  client.failing = true;
  assert.equal(await service.track("view", "movie", "m-1"), false);
  assert.equal(await service.track("view", "movie", "m-1"), false);
  // The replaced service made a new id here, so a lost answer counted twice.
  assert.deepEqual(
    client.sent.map(({ payload }) => payload.event_id),
    ["id-1", "id-1"],
  );
});

test("a storage that throws is as good as none", async () => {
  const broken = () => {
    throw new Error("denied");
  };
  const { service, client } = serviceOf({ storage: { getItem: broken, setItem: broken } });
  assert.equal(await service.track("view", "movie", "m-1"), true);
  assert.equal(await service.track("view", "movie", "m-1"), false);
  assert.equal(client.sent.length, 1);
});

test("the singleton sends a first event to the contract's path", async (t) => {
  const client = borrow(t);
  assert.equal(await analytics.track("view", "movie", "m-singleton"), true);
  assert.equal(client.sent.length, 1);
  assert.equal(client.sent[0].url, "/api/v1/analytics/events");
  assert.equal(client.sent[0].payload.event_id, "id-0");
  assert.equal(client.sent[0].payload.action, "view");
});

test("the singleton sends a repeated event once", async (t) => {
  const client = borrow(t);
  assert.equal(await analytics.track("view", "movie", "m-singleton"), true);
  assert.equal(await analytics.track("view", "movie", "m-singleton"), false);
  assert.equal(client.sent.length, 1);
});

test("the singleton answers false when its client fails, after one try", async (t) => {
  const client = borrow(t);
  client.failing = true;
  assert.equal(await analytics.track("view", "movie", "m-singleton"), false);
  assert.equal(client.sent.length, 1);
});
