// track(): what it refuses, what it answers, that it never throws and never hangs; keys, batches, reset().

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { accept, answer, Client, fail, load, never, queued, settle, Store } from "./page.js";

let local, session;
beforeEach(() => ([local, session] = [new Store(), new Store()]));
afterEach(() => mock.restoreAll());

async function service(httpClient, options = {}) {
  const { AnalyticsService } = await load({ local, session });
  return new AnalyticsService({ httpClient, ...options });
}

test("it imports where there is no document, and opens no storage there", async () => {
  const { analytics } = await load();
  assert.deepEqual([analytics.storage, analytics.endpoint], [undefined, "/api/v1/analytics/events"]);
});

for (const [what, ...args] of [
  ["an unknown action", "favorite", "movie", "1"],
  ["another case", "VIEW", "movie", "1"],
  ["two actions", "view download", "movie", "1"],
  ["an unknown entity type", "view", "provider", "1"],
  ["no id", "view", "movie"],
  ["an empty id", "view", "movie", ""],
  ["a list as an id", "view", "movie", ["1"]],
  ["a fraction as an id", "view", "movie", 1.5],
  ["NaN as an id", "view", "movie", NaN],
  ["256 characters", "view", "movie", "x".repeat(256)],
  ["a control character", "view", "movie", "a\nb"],
  ["half a character", "view", "movie", "a\ud800"],
  ["a foreign domain", "view", "movie", "1", { domain: "other" }],
  ["a value above the range", "view", "movie", "1", { value: 101 }],
  ["a value of zero", "view", "movie", "1", { value: 0 }],
  ["half a value", "view", "movie", "1", { value: 1.5 }],
  ["a value as text", "view", "movie", "1", { value: "1" }],
  ["a symbol", Symbol("view"), "movie", "1"],
  ["an id without text", "view", "movie", Object.create(null)],
  ["a broken pattern as an action", "[", "movie", "1"],
]) {
  test(`${what} is refused without a request`, async () => {
    const client = new Client(accept());
    assert.equal(await (await service(client)).track(...args), false);
    assert.deepEqual([client.posts, queued(local)], [[], []]);
  });
}

test("255 characters of four bytes each, integers and zero are ids", async () => {
  const client = new Client(accept());
  const analytics = await service(client);
  for (const id of ["😀".repeat(255), 7, 0, -1]) {
    assert.equal(await analytics.track("view", "movie", id), true);
  }
  assert.deepEqual(
    client.posts.slice(1).map(({ payload }) => payload.entity_id),
    ["7", "0", "-1"],
  );
});

test("ranges and lists are those of the attributes", async () => {
  const client = new Client(accept());
  const analytics = await service(client, { actions: "rating view", types: "book", ranges: "rating:1-5 view:1-1" });
  const told = [];
  for (const [action, value] of [
    ["rating", 5],
    ["rating", 6],
    ["rating", 0],
    ["view", 1],
    ["view", 2],
    ["download", 1],
  ]) {
    told.push(await analytics.track(action, "book", `${action}${value}`, { value }));
  }
  assert.deepEqual(told, [true, false, false, true, false, false]);
});

for (const [what, options] of Object.entries({
  "a fetch that throws at once": {
    httpClient: {
      post() {
        throw new Error();
      },
    },
  },
  "a client that is none": { httpClient: null },
  "an id factory that throws": {
    uuidFactory() {
      throw new Error();
    },
  },
  "a clock that is broken": { nowFactory: () => new Date(NaN) },
  "a storage that throws": {
    storage: {
      getItem() {
        throw 1;
      },
      setItem() {
        throw 1;
      },
    },
    httpClient: { post: fail },
  },
  "a storage that is text": { storage: "none", httpClient: { post: fail } },
  "an answer that is a number": {
    httpClient: {
      post() {
        throw 5;
      },
    },
  },
})) {
  test(`${what} makes it false, and nothing is thrown`, async () => {
    const analytics = await service(new Client(accept()), options);
    assert.equal(await analytics.track("view", "movie", "1"), false);
  });
}

test("options that throw when they are read make it false", async () => {
  const options = {
    get value() {
      throw new Error();
    },
  };
  assert.equal(await (await service(new Client(accept()))).track("view", "movie", "1", options), false);
});

test("a user's id in place of the options, as older callers give it, is taken", async () => {
  const analytics = await service(new Client(accept()));
  for (const [id, user] of [
    [1, 99],
    [2, null],
    [3, undefined],
  ]) {
    assert.equal(await analytics.track("view", "movie", id, user), true);
  }
});

test("what others put on Object.prototype is no option", async () => {
  const client = new Client(accept());
  const analytics = await service(client);
  Object.defineProperty(Object.prototype, "eventId", { value: "same", configurable: true });
  try {
    await analytics.track("view", "movie", 1);
  } finally {
    delete Object.prototype.eventId;
  }
  assert.notEqual(client.posts[0].payload.event_id, "same");
});

for (const data of [{ rejected: null }, { rejected: 5 }, { rejected: [null] }, { limited: "x" }, { limited: -1 }, 5]) {
  test(`an odd answer, ${JSON.stringify(data)}, is an answer`, async () => {
    assert.equal(await (await service(new Client(accept(data)))).track("view", "movie", 1), true);
    assert.deepEqual(queued(local), []);
  });
}

test("without an answer it is false after 5 s, and the event waits", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const told = (await service(new Client(never))).track("view", "movie", 1);
  mock.timers.tick(4_999);
  assert.equal(await Promise.race([told, settle()]), undefined);
  mock.timers.tick(1);
  assert.deepEqual([await told, queued(local).length], [false, 1]);
  mock.timers.reset();
});

test("calls of one key at the same time are one event and one answer", async () => {
  for (const [answered, wanted] of [
    [accept(), true],
    [fail, false],
  ]) {
    session = new Store();
    const client = new Client(answered);
    const analytics = await service(client);
    const told = await Promise.all([1, 2, 3].map(() => analytics.track("view", "movie", 1)));
    assert.deepEqual([told, client.posts.length], [Array(3).fill(wanted), 1]);
  }
});

test("dedupe: false counts each call", async () => {
  const client = new Client(accept());
  const analytics = await service(client);
  await analytics.track("view", "movie", 1, { dedupe: false });
  await analytics.track("view", "movie", 1, { dedupe: false });
  assert.deepEqual([new Set(client.ids.flat()).size, Object.keys(session), Object.keys(local)], [2, [], []]);
});

test("a key of rubbish is an absent one", async () => {
  for (const rubbish of ["", "x", "0", "null", "a b", '{"a":1}']) {
    session["anl:track:v1:view:movie:1"] = rubbish;
    assert.equal(await (await service(new Client(accept()))).track("view", "movie", 1), true, rubbish);
    session.removeItem("anl:track:v1:view:movie:1");
  }
});

test("a full storage keeps keys and events in memory", async () => {
  const full = {
    getItem: () => null,
    setItem() {
      throw new DOMException("full", "QuotaExceededError");
    },
    removeItem() {},
  };
  [local, session] = [full, full];
  const client = new Client(fail, accept());
  const analytics = await service(client);
  assert.equal(await analytics.track("view", "movie", 1), false);
  assert.equal(await analytics.track("view", "movie", 1), true);
  assert.equal(await analytics.track("view", "movie", 1), false);
  assert.equal(new Set(client.ids.flat()).size, 1);
});

test("the first event goes alone and at once, those until 250 ms after its answer together", async () => {
  const client = new Client(accept());
  const analytics = await service(client);
  const told = [1, 2, 3].map((id) => analytics.track("view", "movie", id));
  assert.equal(client.posts.length, 1);
  assert.deepEqual(await Promise.all(told), [true, true, true]);
  const [first, second] = client.posts;
  assert.deepEqual([first.url, first.payload.entity_id], ["/api/v1/analytics/events", "1"]);
  assert.deepEqual(
    [second.url, second.payload.map((event) => event.entity_id)],
    ["/api/v1/analytics/events/batch", ["2", "3"]],
  );
});

test("a single event that was late for the first goes alone, too", async () => {
  const client = new Client(accept());
  const analytics = await service(client);
  await analytics.track("view", "movie", 1);
  await analytics.track("view", "movie", 2);
  assert.deepEqual(
    client.posts.map(({ url }) => url),
    Array(2).fill("/api/v1/analytics/events"),
  );
});

test("a batch is at most 20 events and 32 KiB", async () => {
  const client = new Client(accept());
  const analytics = await service(client);
  await Promise.all(Array.from({ length: 40 }, (_, id) => analytics.track("view", "movie", "😀".repeat(250) + id)));
  const batches = client.posts.slice(1).map(({ payload }) => payload);
  assert.ok(Math.max(...batches.map((batch) => batch.length)) <= 20);
  assert.ok(Math.max(...batches.map((batch) => new TextEncoder().encode(JSON.stringify(batch)).length)) <= 32_768);
  assert.equal(client.ids.flat().length, 40);
});

/** A server that refuses event 2, alone or in a batch, as `refusal` says of a batch. What it took. */
async function refusing(refusal) {
  const taken = [];
  const client = new Client(async () => {
    const { payload } = client.posts.at(-1);
    const ids = [payload].flat().map((event) => event.entity_id);
    if (!Array.isArray(payload)) {
      if (ids[0] === "2") await answer(422)();
      taken.push(ids[0]);
      return { data: { status: "accepted" } };
    }
    const data = await refusal();
    const wrong = new Set(data.rejected?.map((each) => each.index));
    taken.push(...ids.filter((_, index) => !wrong.has(index)).slice(0, ids.length - wrong.size - (data.limited ?? 0)));
    return { data };
  });
  const analytics = await service(client);
  const told = await Promise.all([0, 1, 2, 3].map((id) => analytics.track("view", "movie", id)));
  for (let turn = 0; turn < 30; turn++) {
    await new Promise((done) => setTimeout(done, 5));
  }
  return { client, taken, told, analytics };
}

for (const [what, refusal] of [
  ...[400, 403, 404, 413, 422].map((status) => [`${status} to a batch`, answer(status)]),
  ["a batch with a rejected event", async () => ({ rejected: [{ index: 1 }] })],
  ["a batch with rejected events that are not listed", async () => ({ rejected: [{ index: 1 }], rejected_more: 1 })],
  ["a batch that was limited", async () => ({ rejected: [{ index: 1 }], limited: 1 })],
]) {
  test(`${what} loses nothing: its events go one by one, and the bad one is dropped alone`, async () => {
    const { client, taken } = await refusing(refusal);
    assert.deepEqual([...new Set(taken)].sort(), ["0", "1", "3"]);
    assert.equal(new Set(client.ids.flat()).size, 4);
    assert.deepEqual(queued(local), []);
    assert.deepEqual(
      [1, 2, 3].map((id) => session[`anl:track:v1:view:movie:${id}`]),
      ["1", "", "1"],
    );
  });
}

test("a single event that is refused changes nothing for batches", async () => {
  const client = new Client(answer(422), accept());
  const analytics = await service(client);
  await Promise.all([1, 2, 3].map((id) => analytics.track("view", "movie", id)));
  assert.deepEqual(
    client.ids.map((ids) => ids.length),
    [1, 2],
  );
});

test("a page that dies between its two storages leaves one id", async () => {
  const order = [];
  const setItem = Store.prototype.setItem;
  mock.method(Store.prototype, "setItem", function (key, value) {
    order.push(key.slice(0, 5));
    setItem.call(this, key, value);
  });
  (await service(new Client(never))).track("view", "movie", 1);
  assert.deepEqual(order.slice(0, 2), ["anl:t", "anl:q"]);
});

test("after reset() the next call is a new event, and what waits goes on", async () => {
  const client = new Client(fail, accept());
  const analytics = await service(client);
  await analytics.track("view", "movie", 1);
  session.theirs = "1";
  analytics.reset();
  assert.deepEqual([Object.keys(session), queued(local).length], [["theirs"], 1]);
  assert.equal(await analytics.track("view", "movie", 1), true);
  assert.notEqual(client.ids[0][0], client.ids[1][0]);
});

test("reset() while an event is under way does not make the next call a part of it", async () => {
  let release;
  const client = new Client(() => new Promise((done) => (release = done)), accept());
  const analytics = await service(client);
  const told = [analytics.track("view", "movie", 1)];
  analytics.reset();
  told.push(analytics.track("view", "movie", 1));
  release();
  assert.deepEqual(await Promise.all(told), [true, true]);
  assert.equal(new Set(client.ids.flat()).size, 2);
});

test("what does not fit into the queue keeps its id for the next call", async () => {
  const client = new Client(fail, never, accept());
  const analytics = await service(client);
  await analytics.track("view", "movie", "lost");
  const [name] = queued(local);
  const kept = local[name];
  local.removeItem(name); // as if another tab had sent it
  for (let id = 0; id < 250; id++) {
    local[name.replace(/[^:]*$/, id)] = kept;
  }
  analytics.track("view", "movie", "lost");
  assert.match(session["anl:track:v1:view:movie:lost"], new RegExp(`^${client.ids[0][0]} `));
});

test("5,000 calls in a row keep their bounds", async () => {
  const client = new Client(fail);
  const analytics = await service(client);
  for (let id = 0; id < 5_000; id++) {
    analytics.track("view", "movie", id);
  }
  assert.ok(queued(local).length <= 200);
  assert.equal(client.posts.length, 1);
});
