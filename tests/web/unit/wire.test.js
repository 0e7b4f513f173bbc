// What a request is, as a server sees it: the default client against a real one.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before, beforeEach, test } from "node:test";

import { load } from "./page.js";

let server, endpoint, requests, answers;

before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    requests.push({ method: request.method, url: request.url, headers: request.headers, body });
    const [status, text, headers] = answers.shift() ?? [202, '{"status":"accepted"}'];
    response.writeHead(status, { "content-type": "application/json", ...headers }).end(text);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  endpoint = `http://127.0.0.1:${server.address().port}/t`;
});
after(() => {
  server.close();
  server.closeAllConnections();
});
beforeEach(() => ([requests, answers] = [[], []]));

async function service() {
  const { AnalyticsService } = await load();
  return new AnalyticsService({ endpoint });
}

test("a single event is a POST of one object, as plain text, without cookies", async () => {
  assert.equal(await (await service()).track("view", "movie", "ä"), true);
  const [{ method, url, headers, body }] = requests;
  assert.deepEqual([method, url, headers["content-type"]], ["POST", "/t", "text/plain;charset=UTF-8"]);
  assert.deepEqual([headers.cookie, headers.authorization, headers["x-tallyd-key"]], [undefined, undefined, undefined]);
  const { event_id, occurred_at, ...rest } = JSON.parse(body);
  assert.match(event_id, /^[0-9,]{20,43}$/);
  assert.match(occurred_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.deepEqual(rest, { domain: "jav", entity_type: "movie", entity_id: "ä", action: "view", value: 1 });
});

test("a batch is a list, at the path below", async () => {
  const analytics = await service();
  assert.deepEqual(await Promise.all([1, 2, 3].map((id) => analytics.track("view", "movie", id))), [true, true, true]);
  assert.equal(requests[1].url, "/t/batch");
  assert.deepEqual(
    JSON.parse(requests[1].body).map((event) => event.entity_id),
    ["2", "3"],
  );
});

test("no two ids are the same", async () => {
  const analytics = await service();
  const ids = Array.from({ length: 1_000 }, () => analytics.uuidFactory());
  assert.equal(new Set(ids).size, 1_000);
});

for (const [what, status, text, headers] of [
  ["a page of a captive portal", 200, "<html>", {}],
  ["a 202 that is not the daemon's", 202, "{}", {}],
  ["a 202 of nothing", 202, "null", {}],
  ["an accepted event whose answer is cut", 202, '{"sta', {}],
  ["a redirect to a login page", 302, "", { location: "/login" }],
]) {
  test(`${what} confirms nothing`, async () => {
    answers = [
      [status, text, headers],
      [200, "<html>", {}],
    ];
    assert.equal(await (await service()).track("view", "movie", 1), false);
  });
}

test("a 429 with Retry-After holds back what comes", async () => {
  const analytics = await service();
  answers = [[429, "{}", { "retry-after": "60" }]];
  assert.equal(await analytics.track("view", "movie", 1), false);
  analytics.track("view", "movie", 2);
  await new Promise((done) => setTimeout(done, 400));
  assert.equal(requests.length, 1);
});

test("nobody listens: false, and no exception", async () => {
  const analytics = await service();
  analytics.endpoint = "http://127.0.0.1:1/t";
  assert.equal(await analytics.track("view", "movie", 1), false);
});
