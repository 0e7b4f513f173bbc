// A page for unit tests: storages, the events of its life, and a tracker that was loaded into it.

let loads = 0;

/** A window's storage. Object.keys() lists what it holds, as of a real one. */
export class Store {
  getItem(key) {
    return Object.hasOwn(this, key) ? this[key] : null;
  }
  setItem(key, value) {
    this[key] = String(value);
  }
  removeItem(key) {
    delete this[key];
  }
}

/** Takes what is posted. `answers`: of the requests in order; the last one is repeated. */
export class Client {
  constructor(...answers) {
    this.answers = answers;
    this.posts = [];
  }
  post(url, payload) {
    this.posts.push({ url, payload });
    return this.answers[Math.min(this.posts.length, this.answers.length) - 1]?.();
  }
  get ids() {
    return this.posts.map(({ payload }) => [payload].flat().map((event) => event.event_id));
  }
}

export const accept = (data) => async () => ({ data });
export const fail = async () => {
  throw new TypeError("Failed to fetch");
};
export const never = () => new Promise(() => {});
export const answer =
  (status, headers = {}) =>
  async () => {
    throw { response: { status, headers: new Headers(headers) } };
  };

/** The tracker's module, loaded anew in a page of these globals. Without any it is Node, as on a server. */
export async function load({ local, session, dataset, ...globals } = {}) {
  for (const name of ["document", "window", "addEventListener"]) {
    delete globalThis[name];
  }
  if (local || session) {
    globalThis.window = { localStorage: local, sessionStorage: session };
  }
  const events = new EventTarget();
  if (dataset) {
    globalThis.window ??= {};
    globalThis.document = Object.assign(events, {
      hidden: false,
      readyState: "interactive",
      querySelector: (selector) => (selector === "script[data-endpoint]" ? { dataset } : null),
      querySelectorAll: () => [],
      ...globals,
    });
    globalThis.addEventListener = (...args) => events.addEventListener(...args);
  }
  const module = await import(`../../../daemon/web/tracker/analytics.js?${++loads}`);
  return {
    ...module,
    analytics: module.default,
    fire: (type) => events.dispatchEvent(new Event(type)),
    document: events,
  };
}

/** The entries of the queue, by name. */
export const queued = (local) => Object.keys(local).filter((key) => key.startsWith("anl:q:v1:"));

/** Lets everything run that waits for nothing but promises. */
export const settle = () => new Promise((done) => setImmediate(done));
