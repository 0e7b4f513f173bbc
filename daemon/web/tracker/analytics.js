/**
 * tallyd's tracker: sends events from a page, so that each is counted exactly once.
 *
 * An event has one id for its whole life: through a lost reply, a reload, an outage and other tabs. The server counts an
 * id once, so sending it again is always safe. Until the server confirms an event, localStorage holds it, one key an
 * event. It is given up before the server may have forgotten its id.
 *
 * A dedupe key (action, entity type, entity id) is absent, then pending with the id of its event, then done.
 */

const SESSION_PREFIX = 'anl:track:v1:';
const QUEUE_PREFIX = 'anl:q:v1:';

const TRACK_MS_MAX = 5_000; // then track() says false, whatever happens
const POST_MS_MAX = 10_000; // then a request has failed
const LEASE_MS = 15_000; // longer than a request: so long nobody else sends the event
const WINDOW_MS = 250; // events within it share a request
const BATCH_EVENTS_MAX = 20;
const BATCH_CHARS_MAX = 10_000; // at most 30,000 bytes: half of what a page may have under way with keepalive
const QUEUE_EVENTS_MAX = 200;
const QUEUE_CHARS_MAX = 65_000; // an entry's numbers grow a little: so it is less than 64 KiB
const AGE_MS_MAX = 86_400_000;
const TRIES_MAX = 200; // at the usual pace they take longer than AGE_MS_MAX
const BACKOFF_S_MAX = 600;
const RETRY_AFTER_S_MAX = 3_600;
const WAIT_MS_MAX = 6_000_000; // longer than any wait: a later time is of a wrong clock
const READ_IDS_MAX = 100;

/** As the server wants an id: 1 to 255 characters, none a control character or half of one. */
const ID = /^[^\0-\x1f\x7f-\x9f\ud800-\udfff]{1,255}$/u;

const { document, navigator } = globalThis;

/** The result of `work`; undefined if it throws. */
const attempt = (work) => {
    try {
        return work();
    } catch {
        return undefined;
    }
};

/** A timer that keeps no process alive: in Node it has `unref`. */
const later = (work, ms) => {
    const timer = setTimeout(() => attempt(work), ms);
    timer.unref?.();
    return timer;
};

/** Calls `start`: at once, or if the document has to wait, at its next event of this type. */
const when = (waits, type, start) => (waits ? document.addEventListener(type, start, { once: true }) : start());

/** Calls `hear` with each event of these types, before the page's own listeners. */
const listen = (types, hear) => types.split(' ').forEach((type) => addEventListener(type, hear, true));

/** The parts of an attribute, as in "view movie ID". Only the id may hold spaces. */
const parts = (text) => /(\S+)\s+(\S+)\s+(.*\S)/.exec(text).slice(1);

const keyOf = (event) => `${SESSION_PREFIX}${event.action}:${event.entity_type}:${event.entity_id}`;

/** Sends by fetch. Resolves and rejects as axios does, which can stand in its place. */
const fetchClient = {
    async post(url, payload, { keepalive }) {
        const answer = await fetch(url, {
            method: 'POST',
            // Each event by itself: on some pages a library changes the JSON of arrays.
            body: payload.map ? `[${payload.map((event) => JSON.stringify(event))}]` : JSON.stringify(payload),
            headers: { 'content-type': 'text/plain;charset=UTF-8' }, // needs no preflight
            credentials: 'omit',
            keepalive,
            signal: globalThis.AbortSignal?.timeout?.(POST_MS_MAX),
        });
        const response = { status: answer.status, headers: Object.fromEntries(answer.headers) };
        // 202 is the daemon's. 200 may be the login page that a request was redirected to.
        if (answer.status != 202) {
            throw { response };
        }
        response.data = await answer.json();
        return response;
    },
};

export class AnalyticsService {
    constructor(options = {}) {
        const self = this;
        self.httpClient = fetchClient;
        self.storage = attempt(() => window.sessionStorage); // throws where it is denied
        self.queue = attempt(() => window.localStorage);
        self.endpoint = '/api/v1/analytics/events';
        self.defaultDomain = 'jav';
        self.actions = 'view download';
        self.types = 'movie actor tag';
        self.ranges = '';
        self.windowS = 172_800;
        // 128 random bits. crypto.randomUUID is missing on plain http.
        self.uuidFactory = () => crypto.getRandomValues(new Uint32Array(4)).join('-');
        self.nowFactory = () => new Date();
        for (const name in options) {
            if (options[name] !== undefined) {
                self[name] = options[name];
            }
        }
        const inMemory = (self.inMemory = new Set()); // keys that are done

        // The two storages. What one does not take is kept in memory.

        const memory = new Map();
        const place = (name) => self[name.startsWith(QUEUE_PREFIX) ? 'queue' : 'storage'];
        const names = (prefix) =>
            [...memory.keys(), ...(attempt(() => Object.keys(place(prefix))) || [])].filter((name) => name.startsWith(prefix));
        const read = (name) => memory.get(name) ?? attempt(() => place(name).getItem(name));
        const remove = (name) => {
            memory.delete(name);
            attempt(() => place(name).removeItem(name));
        };
        const write = (name, text) => {
            remove(name);
            try {
                place(name).setItem(name, text);
            } catch {
                memory.set(name, text);
            }
        };

        // Keys.

        /** '1': done. '<event id> <ms>': pending. */
        const stateOf = (key) => (inMemory.has(key) ? '1' : read(key));
        const done = (key) => {
            write(key, '1');
            memory.delete(key);
            inMemory.add(key);
        };
        /** Before the server forgets an id. A clock that was set back counts, too. */
        const isOld = (since) => Math.abs(Date.now() - since) > Math.min(AGE_MS_MAX, self.windowS * 500);

        // The queue. An item: e event, t made at, n tries, a not again before, l nobody before; and of this page
        // alone: k key, s settles its promises.

        /** Of an event in the queue. Each endpoint has a queue of its own. */
        const nameOf = (id) => `${QUEUE_PREFIX}${self.endpoint}:${id}`;
        /** An entry; nothing if it is damaged. */
        const load = (name) =>
            attempt(() => {
                const item = JSON.parse(read(name));
                return nameOf(item.e.event_id) == name && item.t > 0 && item.n >= 0 && item;
            });
        /** Writes an entry, unless the queue is full. Nobody else sends it within the next `lease` ms. */
        const save = ({ e, t, n, a }, lease) => {
            const name = nameOf(e.event_id);
            const all = read(name) ? [] : names(nameOf(''));
            if (all.length < QUEUE_EVENTS_MAX && (all + all.map(read)).length < QUEUE_CHARS_MAX) {
                // Nobody's identity is stored.
                write(name, JSON.stringify({ e: { ...e, user_id: undefined }, t, n, a, l: Date.now() + lease }));
                return true;
            }
        };
        /** Ends an event. `isKnown`: its key is done. */
        const end = ({ e, s }, isKnown, counted) => {
            const key = keyOf(e);
            remove(nameOf(e.event_id));
            if (`${stateOf(key)}`.startsWith(`${e.event_id} `)) {
                (isKnown ? done : remove)(key);
            }
            if (!counted && self.debug) {
                console.warn('analytics: given up', e);
            }
            s?.(!!counted);
        };

        // Sending.

        const waiting = []; // items of the current window
        const live = new Set(); // items that this page sends
        let most = BATCH_EVENTS_MAX;
        let heldUntil = 0; // the server asked to wait
        let opened; // the window's timer
        let timer;
        let draining;

        /** Sends a batch of the items, and does with each what the answer says. Never rejects. */
        const send = async (items) => {
            let count = 0;
            let chars = 0;
            while (count < most && items[count] && chars < BATCH_CHARS_MAX) {
                chars += JSON.stringify(items[count++].e).length;
            }
            const batch = items.splice(0, count);
            const events = batch.map((item) => item.e);
            const single = count < 2;
            let answer;
            let status;
            batch.forEach((item) => live.add(item));
            try {
                answer = await Promise.race([
                    self.httpClient.post(self.endpoint + (single ? '' : '/batch'), single ? events[0] : events, {
                        keepalive: !batch[0].n, // its budget may be spent by others: not a second time
                    }),
                    new Promise((_, fail) => later(fail, POST_MS_MAX)),
                ]);
            } catch (error) {
                answer = error?.response;
                status = answer?.status || 1;
            }
            const { rejected, rejected_more, limited } = (!status && answer?.data) || {};
            const wrong = attempt(() => rejected.map((each) => events[each.index])) || [];
            const refused = /^4(?!08|29)/.test(status);
            // The limited ones are the last good ones. Refused ones that are not listed may be among them.
            const good = events.filter((event) => !wrong.includes(event));
            const again = status ? events : limited ? good.slice(-limited - (rejected_more || 0)) : [];
            const after = Math.min(answer?.headers?.['retry-after'], RETRY_AFTER_S_MAX) || 0;
            // With jitter: after an outage all browsers would come back at once.
            const hold = after * (1000 + 500 * Math.random());
            const backoff = refused ? 0 : Math.min(2 ** batch[0].n, BACKOFF_S_MAX) * (500 + 1000 * Math.random());
            if (after) {
                heldUntil = Date.now() + hold;
            }
            if (refused) {
                most = 1; // perhaps only the batch is refused: too large, or its path is not served
            }
            batch.forEach((item) => {
                live.delete(item);
                if (wrong.includes(item.e) || (refused && single)) {
                    end(item);
                } else if (!again.includes(item.e)) {
                    end(item, true, true);
                } else if (++item.n > TRIES_MAX) {
                    end(item, true);
                } else {
                    item.a = Date.now() + backoff;
                    save(item, hold);
                    item.s?.(false);
                }
            });
            draining = false;
            wake(again.length && Date.now() + Math.max(hold, backoff));
        };

        /** Sends what waits, and what comes later after a window. All of it at once if the page is being left. */
        const flush = (leaving) => {
            clearTimeout(opened);
            opened = waiting.length && setTimeout(flush, WINDOW_MS);
            do {
                waiting.length && send(waiting);
            } while (leaving === true && waiting.length);
        };

        /** Sends what is queued and due. `isFresh`: the page or the network is, so no backoff. */
        const drain = (isFresh) => {
            const now = Date.now();
            const due = [];
            let next = now + WAIT_MS_MAX;
            names(nameOf('')).forEach((name) => {
                const item = load(name);
                if (!item) {
                    return remove(name);
                }
                const free = Math.max(item.l, heldUntil, isFresh ? 0 : item.a);
                if (isOld(item.t)) {
                    end(item, true);
                } else if (free > now && free < now + WAIT_MS_MAX) {
                    next = Math.min(next, free);
                } else {
                    due.push(item);
                }
            });
            if (due.length && !draining) {
                draining = true;
                due.slice(0, most).forEach((item) => save(item, LEASE_MS));
                send(due);
            } else {
                wake(next);
            }
        };

        const wake = (at) => {
            clearTimeout(timer);
            timer = later(drain, at - Date.now());
        };

        /** True if `settle` will be called. */
        const enter = (settle, action, entityType, entityId, options) => {
            const { userId, domain, value, dedupe, eventId, occurredAt } = {
                __proto__: null,
                ...(typeof options == 'object' ? options : { userId: options }), // older callers give the user alone
            };
            const e = {
                domain: domain ?? self.defaultDomain,
                entity_type: entityType,
                entity_id: Number.isSafeInteger(entityId) ? `${entityId}` : entityId,
                action,
                value: value ?? 1,
            };
            const [, lowest, highest] = RegExp(`\\b${action}:(\\d+)-(\\d+)`).exec(self.ranges) || [0, 1, 100];
            const k = dedupe ?? true ? keyOf(e) : '';
            const state = k && stateOf(k);
            if (
                !self.actions.split(' ').includes(action) ||
                !self.types.split(' ').includes(entityType) ||
                e.entity_id !== `${e.entity_id}` ||
                !ID.test(e.entity_id) ||
                e.domain !== self.defaultDomain ||
                !Number.isInteger(e.value) ||
                e.value < lowest ||
                e.value > highest ||
                (self.privacy && (navigator?.globalPrivacyControl || navigator?.doNotTrack == 1)) ||
                state == '1'
            ) {
                return;
            }
            for (const item of live) {
                if (k && item.k == k) {
                    const { s } = item;
                    return (item.s = (counted) => {
                        s(counted);
                        settle(counted);
                    });
                }
            }
            const now = Date.now();
            const [, id = eventId ?? self.uuidFactory(), t = now] = /^(.+) (\d+)$/.exec(state) || [];
            if (isOld(t)) {
                return done(k); // at most once: the server may have forgotten the id
            }
            e.event_id = id;
            e.occurred_at = occurredAt ?? (t == now ? self.nowFactory() : new Date(+t)).toISOString();
            if (typeof userId == 'number') {
                e.user_id = userId;
            }
            const kept = load(nameOf(id));
            const item = kept && keyOf(kept.e) == keyOf(e) ? kept : { e, t: +t, n: 0, a: now };
            item.s = settle;
            item.k = k;
            const isHeld = now < heldUntil;
            if (!save(item, isHeld ? 0 : LEASE_MS) && opened) {
                return; // the queue is full, too
            }
            if (k) {
                write(k, `${id} ${t}`);
            }
            if (isHeld) {
                return wake(heldUntil);
            }
            live.add(item);
            waiting.push(item);
            if (!opened || document?.hidden) {
                flush(document?.hidden);
            }
            return true;
        };

        /** Counts an event. True: the server has it. False: refused, known, or not confirmed yet. Never rejects. */
        self.track = (...what) =>
            new Promise((settle) => {
                later(() => settle(false), TRACK_MS_MAX);
                when(document?.prerendering, 'prerenderingchange', () => attempt(() => enter(settle, ...what)) || settle(false));
            });

        /** Forgets what was tracked: the next track() of any key is a new event. What waits in the queue goes on. */
        self.reset = () => {
            names(SESSION_PREFIX).forEach(remove);
            inMemory.clear();
            live.forEach((item) => (item.k = ''));
        };

        if (document) {
            listen('visibilitychange pagehide pageshow online', ({ type }) => {
                if (document.hidden || type == 'pagehide') {
                    flush(true);
                    live.forEach((item) => save(item, 0)); // the next page need not wait
                } else {
                    drain(type == 'online');
                }
            });
            later(() => drain(true));
        }
    }

    /** Follows `data-track` and fills `data-count` of the elements inside `root`, which was added to the page. */
    scan(root = document) {
        attempt(() => {
            this._observer = this._observer || new IntersectionObserver((entries) =>
                entries.forEach(({ isIntersecting, target }) => {
                    if (isIntersecting) {
                        this._observer.unobserve(target);
                        when(document.hidden, 'visibilitychange', () => this.track(...parts(target.dataset.track)));
                    }
                }),
            );
            root.querySelectorAll('[data-track]').forEach((element) => this._observer.observe(element));
            const types = {};
            root.querySelectorAll('[data-count]').forEach((element) => {
                const [counter, type, id] = parts(element.dataset.count);
                types[type] = [...(types[type] || []), { element, counter, id }];
            });
            for (const type in types) {
                this._fill(type, types[type].slice(0, READ_IDS_MAX)).catch(() => {});
            }
        });
    }

    /** Writes the counts of one entity type into their elements. */
    async _fill(type, wanted) {
        const ids = new URLSearchParams(wanted.map(({ id }) => ['id', id]));
        const path = `/api/v1/analytics/totals/${this.defaultDomain}/${type}?${ids}`;
        const answer = await fetch(new URL(path, new URL(this.endpoint, location)), { credentials: 'omit' });
        (await answer.json()).totals.forEach((total) =>
            wanted.forEach(({ element, counter, id }) => {
                if (id == total.entity_id) {
                    element.textContent = total.counters[counter];
                }
            }),
        );
    }
}

/** The service of this page, as the attributes of its tag say: `<script type="module" data-endpoint=…>`. */
const tag = document?.querySelector('script[data-endpoint]')?.dataset || {};
const nowhere = tag.storage == 'none' ? null : undefined;
const analytics = new AnalyticsService({
    ...tag,
    defaultDomain: tag.domain,
    debug: 'debug' in tag,
    storage: nowhere,
    queue: nowhere,
});
if (tag.global) {
    window[tag.global] = analytics;
}
if (document) {
    listen('click auxclick', ({ button, target }) => {
        const element = button < 2 && target.closest?.('[data-track-click]');
        if (element) {
            analytics.track(...parts(element.dataset.trackClick));
        }
    });
    when(document.readyState == 'loading', 'DOMContentLoaded', () => analytics.scan());
}

export default analytics;
