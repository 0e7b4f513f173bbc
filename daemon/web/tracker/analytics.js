/**
 * tallyd's tracker: sends events from a page, so that each is counted exactly once.
 *
 * An event has one id for its whole life: through a lost reply, a reload, an outage and other tabs. The server counts an
 * id once, so sending it again is always safe. Until the server confirms an event, localStorage holds it, one key an
 * event. It is given up before the server may have forgotten its id.
 *
 * A dedupe key (action, entity type, entity id) is absent, then pending with the id of its event, then done.
 */

const SESSION_PREFIX = "anl:track:v1:";
const QUEUE_PREFIX = "anl:q:v1:";

const TRACK_MS_MAX = 5_000; // then track() says false, whatever happens
const POST_MS_MAX = 10_000; // then a request has failed
const LEASE_MS = 15_000; // longer than a request: so long nobody else sends the event
const WINDOW_MS = 250; // after an answer: events until then share a request
// An event is at most 2.3 KB (two ids of 255 characters, four bytes each): so a batch is less than 32 KiB, which is half
// of what a page may have under way with keepalive.
const BATCH_EVENTS_MAX = 14;
const QUEUE_EVENTS_MAX = 200;
const QUEUE_CHARS_MAX = 60_000; // and one entry: less than 64 KiB
const AGE_MS_MAX = 86_400_000;
const BACKOFF_MS_MIN = 1_000;
const BACKOFF_MS_MAX = 600_000;
const RETRY_AFTER_S_MAX = 3_600;
const WAIT_MS_MAX = 8_000_000; // longer than any pause: a later time is of a clock that was wrong

/** As the server wants an id: 1 to 255 characters, none a control character or half of one. */
const ID = /^[^\p{Cc}\p{Cs}]{1,255}$/u;

const { document } = globalThis;

/** The result of `work`; nothing if it throws. */
const attempt = (work) => {
  try {
    return work();
  } catch {}
};

/** Sets a timer in place of an earlier one. In Node it keeps a process alive for no longer than a window. */
const later = (work, ms, earlier) => {
  clearTimeout(earlier);
  const timer = setTimeout(() => attempt(work), ms);
  ms > WINDOW_MS && timer.unref?.();
  return timer;
};

/** Calls `hear` with each event of these types, before the page's own listeners. */
const listen = (types, hear) => types.split(" ").forEach((type) => addEventListener(type, hear, true));

/** Sends by fetch. Resolves and rejects as axios does, which can stand in its place. */
const fetchClient = {
  async post(url, payload) {
    const response = await fetch(url, {
      method: "POST",
      body: JSON.stringify(payload),
      headers: { "content-type": "text/plain;charset=UTF-8" }, // needs no preflight
      credentials: "omit",
      signal: AbortSignal.timeout?.(POST_MS_MAX),
      keepalive: true,
    });
    // Anything else is not the daemon's: a login page that a request was redirected to says 200.
    response.data = response.status == 202 && (await response.json());
    if (!response.data.status) {
      throw { response };
    }
    return response;
  },
};

export class AnalyticsService {
  constructor(options = {}) {
    const self = this;
    Object.assign(self, {
      httpClient: fetchClient,
      storage: attempt(() => window.sessionStorage), // throws where it is denied
      endpoint: "/api/v1/analytics/events",
      defaultDomain: "jav",
      actions: "view download",
      types: "movie actor tag",
      windowS: 172_800,
      // 128 random bits. crypto.randomUUID is missing on plain http.
      uuidFactory: () => `${crypto.getRandomValues(new Uint32Array(4))}`,
      nowFactory: () => new Date(),
      inMemory: new Map(), // what a storage does not take: name → text
    });
    for (const name in options) {
      if (options[name] !== undefined) {
        self[name] = options[name];
      }
    }

    // The two storages: of keys, and of the queue. What one does not take is kept in memory.

    const memory = self.inMemory;
    const place = (name) => (name >= SESSION_PREFIX ? self.storage : self.storage && window.localStorage);
    const names = (prefix) =>
      [...memory.keys(), ...(attempt(() => Object.keys(place(prefix))) || [])].filter((name) =>
        name.startsWith(prefix),
      );
    const read = (name) => attempt(() => place(name).getItem(name)) ?? memory.get(name);
    const remove = (name) => {
      memory.delete(name);
      attempt(() => place(name).removeItem(name));
    };
    const write = (name, text) => {
      try {
        place(name).setItem(name, text);
      } catch {
        memory.set(name, text);
      }
    };

    /** Whether the browser asks for privacy, and the page respects it. */
    const isPrivate = () => self.privacy && (navigator.globalPrivacyControl || navigator.doNotTrack == 1);

    /** Before the server forgets an id. A clock that was set back counts, too. */
    const isOld = (since) => !(Math.abs(Date.now() - since) < Math.min(AGE_MS_MAX, self.windowS * 500));

    // The queue. An item: e event, k key, t made at, a not sent before; on this page alone: u user, s settles the promise p.

    /** Of an event in the queue. Each endpoint has a queue of its own. */
    const nameOf = (id) => `${QUEUE_PREFIX}${self.endpoint}:${id}`;
    /** Writes an entry, unless the queue is full. Nobody sends it within the next `ms`. */
    const save = ({ e, k, t }, ms) => {
      const name = nameOf(e.event_id);
      const all = read(name) ? [] : names(nameOf(""));
      if (all.length < QUEUE_EVENTS_MAX && (all + all.map(read)).length < QUEUE_CHARS_MAX) {
        write(name, JSON.stringify({ e, k, t, a: Date.now() + ms }));
        return true;
      }
    };
    /** Ends an event. `state`: of its key from now on. */
    const end = ({ e, k, s }, state, counted) => {
      remove(nameOf(e.event_id));
      if (`${read(k)}`.startsWith(`${e.event_id} `)) {
        write(k, state);
      }
      if (!counted && self.debug != null) {
        console.warn(e);
      }
      s?.(!!counted);
    };

    // Sending.

    const waiting = []; // items of the current window
    const live = new Set(); // items that this page sends
    let most = BATCH_EVENTS_MAX;
    let opened; // timer of the window
    let timer;
    let heldUntil = 0; // the server asked to wait

    /** Sends the first items, and does with each what the answer says. Never rejects. */
    const send = async (items) => {
      if (Date.now() < heldUntil || isPrivate()) {
        return; // they wait where they are
      }
      const batch = items.splice(0, most);
      const events = batch.map(({ e, u }) => ({ ...e, ...u }));
      let answer;
      let failed;
      batch.forEach((item) => {
        live.add(item);
        save(item, LEASE_MS);
      });
      try {
        answer = await self.httpClient.post(
          self.endpoint + (events[1] ? "/batch" : ""),
          events[1] ? events : events[0],
        );
      } catch (error) {
        answer = error?.response;
        failed = answer?.status || 1;
      }
      // Of a batch one event may be bad, a rest may be over the limit, or its path is not served: then they go one by one.
      const data = events[1] && answer?.data;
      const refused = data?.rejected?.[0] || data?.limited || /^4(?!08|29)/.test(failed);
      most = refused && events[1] ? 1 : most;
      const after = Math.min(answer?.headers?.get?.("retry-after"), RETRY_AFTER_S_MAX) * 1000 || 0;
      heldUntil = Date.now() + after;
      opened = later(flush, WINDOW_MS, opened);
      // With jitter: after an outage all browsers would come back at once.
      const pause = refused
        ? after
        : (1 + Math.random()) * Math.max(after, BACKOFF_MS_MIN, Math.min(Date.now() - batch[0].t, BACKOFF_MS_MAX));
      batch.forEach((item) => {
        live.delete(item);
        if (refused && !events[1]) {
          end(item, "");
        } else if (refused || failed) {
          save(item, pause);
          item.s?.(false);
        } else {
          end(item, "1", true);
        }
      });
      drain(failed ? pause : 0);
    };

    /** Sends what waits. What comes later waits for the answer and a window: a server that hangs gets no pile of requests. */
    const flush = () => {
      opened = waiting[0] && later(flush, LEASE_MS, opened);
      if (opened) {
        send(waiting);
      }
    };

    /** Sends what is queued and due after `pause` ms. An entry that has to wait for more than `longest` is due. */
    const drain = (pause = 0, longest = WAIT_MS_MAX) => {
      const due = [];
      let next = WAIT_MS_MAX;
      names(nameOf("")).forEach((name) => {
        const item = attempt(() => {
          const { e, k, t, a } = JSON.parse(read(name));
          return nameOf(e.event_id) == name && { e, k, t: +t, a: +a };
        });
        if (!item) {
          return remove(name); // damaged
        }
        const left = Math.max(item.a - Date.now(), pause);
        if (isOld(item.t)) {
          end(item, "1");
        } else if (left > 0 && left <= longest) {
          next = Math.min(next, left);
        } else {
          due.push(item);
        }
      });
      timer = later(drain, next, timer);
      if (due[0]) {
        send(due);
      }
    };

    /** Takes an event in. Returns the promise of its answer; nothing if it is not sent. */
    const enter = (action, entityType, entityId, options) => {
      const { userId, domain, value, dedupe, eventId, occurredAt } = { __proto__: null, ...options };
      const name = Number.isInteger(entityId) ? `${entityId}` : entityId;
      const amount = value ?? 1;
      const [, lowest, highest] = RegExp(`\\b${action}:(\\d+)-(\\d+)`).exec(self.ranges) || [0, 1, 100];
      const k = (dedupe ?? true) ? `${SESSION_PREFIX}${action}:${entityType}:${name}` : "";
      const state = read(k);
      if (
        !self.actions.split(" ").includes(action) ||
        !self.types.split(" ").includes(entityType) ||
        typeof name != "string" ||
        !ID.test(name) ||
        (domain ?? self.defaultDomain) !== self.defaultDomain ||
        !Number.isInteger(amount) ||
        amount < lowest ||
        amount > highest ||
        isPrivate() ||
        state == "1"
      ) {
        return;
      }
      for (const item of live) {
        if (k && item.p && item.k == k) {
          return item.p;
        }
      }
      const now = Date.now();
      const [, id = eventId ?? self.uuidFactory(), t = now] = /(.+) (\d+)$/.exec(state) || [];
      if (isOld(t)) {
        return write(k, "1"); // at most once: the server may have forgotten the id
      }
      const e = {
        event_id: id,
        domain: self.defaultDomain,
        entity_type: entityType,
        entity_id: name,
        action,
        value: amount,
        occurred_at: occurredAt ?? (t == now ? self.nowFactory() : new Date(+t)).toISOString(),
      };
      const item = { e, k, t: +t, u: typeof userId == "number" && { user_id: userId } };
      item.p = new Promise((settle) => (item.s = settle));
      if (k) {
        write(k, `${id} ${t}`);
      }
      if (!save(item, LEASE_MS) && opened) {
        return; // the queue is full, too: if it is tracked again, it is sent under this id
      }
      live.add(item);
      waiting.push(item);
      if (!opened || document?.hidden) {
        flush();
      }
      return item.p;
    };

    /** Counts an event. True: the server has it. False: refused, known, or not confirmed yet. Never rejects. */
    self.track = (...what) =>
      new Promise((settle) => {
        later(() => settle(false), TRACK_MS_MAX);
        const start = () => attempt(() => enter(...what).then(settle)) || settle(false);
        document?.prerendering ? document.addEventListener("prerenderingchange", start) : start();
      });

    /** Forgets what was tracked: the next track() of any key is a new event. What waits in the queue goes on. */
    self.reset = () => {
      names(SESSION_PREFIX).forEach(remove);
      live.forEach((item) => (item.k = ""));
    };

    // The page.

    const observer = attempt(
      () =>
        new IntersectionObserver((entries) =>
          entries.forEach(({ isIntersecting, target }) => {
            if (isIntersecting) {
              observer.unobserve(target);
              self.track(...target.dataset.track.split(" "));
            }
          }),
        ),
    );

    /** Follows `data-track` and fills `data-count` of the elements inside `root`, which was added to the page. */
    self.scan = (root = document) =>
      attempt(() => {
        root.querySelectorAll("[data-track]").forEach((element) => observer.observe(element));
        if (root.querySelector("[data-count]")) {
          import("./counts.js").then((counts) => counts.fill(self, root)).catch(() => {});
        }
      });

    if (document) {
      listen("visibilitychange pagehide online", ({ type }) => {
        if (type == "pagehide") {
          flush();
          live.forEach((item) => save(item, 0)); // the next page need not wait for the answers
        } else if (document.hidden) {
          flush();
        } else {
          drain(0, LEASE_MS);
        }
      });
      later(() => drain(0, LEASE_MS, read(SESSION_PREFIX)), 0); // a first look costs most: not in a click
    }
  }
}

/** The service of this page, as the attributes of its tag say: `<script type="module" data-endpoint=…>`. */
const tag = document?.querySelector("script[data-endpoint]")?.dataset || {};
const analytics = new AnalyticsService({
  ...tag,
  defaultDomain: tag.domain,
  storage: tag.storage == "none" ? null : undefined,
});
if (tag.global) {
  window[tag.global] = analytics;
}
if (document) {
  listen("click auxclick", ({ button, target }) => {
    if (button < 2) {
      attempt(() => analytics.track(...target.closest("[data-track-click]").dataset.trackClick.split(" ")));
    }
  });
  analytics.scan();
  listen("DOMContentLoaded", () => analytics.scan()); // of a tag with `async`, which may run earlier
}

export { analytics as default };
