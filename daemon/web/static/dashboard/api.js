/** The reads of tallyd: one request, and the loop that repeats a page's requests. It knows nothing of any page. */

const BASE = new URL("api/v1/analytics/", location.href); // beside the page, so it works under a sub-path
const TIMEOUT_MS = 15_000;
const WAIT_MAX_MS = 60_000;

/** An answer that is no 200. `status` is 0 if none came. `retryMs`: what the server asked for, or 0. */
export class ApiError extends Error {
  constructor(status, message, retryMs = 0) {
    super(message);
    this.status = status;
    this.retryMs = retryMs;
  }
}

/** The JSON of a read. Ids belong into `query`, or encoded into `path`. A value of `query` may be a list; undefined ones are left out. Throws ApiError. */
export async function get(path, query = {}, signal = undefined) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat()) if (each !== undefined) url.searchParams.append(name, each);
  }
  // Not by the browser's cache: its copy would tell the `as_of` of the day it was made.
  return answered(url, { signal, cache: "no-store" });
}

/** Sends one event. Throws ApiError. */
export const post = (event) =>
  answered(new URL("events", BASE), {
    method: "POST",
    body: JSON.stringify(event),
    headers: { "content-type": "application/json" },
  });

async function answered(url, options) {
  const late = AbortSignal.timeout(TIMEOUT_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, late]) : late;
  let response, body;
  try {
    response = await fetch(url, { ...options, signal });
    body = await response.json().catch(() => ({}));
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "tallyd does not answer.");
  }
  if (response.ok) return body;
  const said = typeof body.message === "string" ? body.message : `The answer was ${response.status}.`;
  throw new ApiError(response.status, said, 1000 * (Number(response.headers.get("retry-after")) || 0));
}

/**
 * Repeats `load(signal)` every `everyMs` while the page is visible. After an error it waits longer each time, and at
 * least as long as the server asked for. `failed(error, waitMs)` is told; after a success it is told (null, 0).
 */
export class Poll {
  #timer;
  #aborting;
  #errors = 0;
  #notBefore = 0; // after an error, even if it is hidden and seen again
  #load;
  #everyMs;
  #failed;

  constructor(load, everyMs, failed) {
    this.#load = load;
    this.#everyMs = everyMs;
    this.#failed = failed;
    document.addEventListener("visibilitychange", this.#seen);
    this.now();
  }

  /** Loads at once. A load that is under way is given up. */
  now = async () => {
    clearTimeout(this.#timer);
    this.#aborting?.abort();
    this.#notBefore = 0;
    const { signal } = (this.#aborting = new AbortController());
    let wait = this.#everyMs;
    try {
      await this.#load(signal);
      if (signal.aborted) return;
      this.#errors = 0;
      this.#failed(null, 0);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) console.error(error);
      const backOff = Math.min(WAIT_MAX_MS, 2000 * 2 ** this.#errors++) * (0.8 + 0.4 * Math.random());
      wait = Math.max(error.retryMs ?? 0, backOff);
      this.#notBefore = Date.now() + wait;
      this.#failed(error, wait);
    }
    this.#aborting = undefined;
    if (!document.hidden) this.#timer = setTimeout(this.now, wait);
  };

  stop() {
    clearTimeout(this.#timer);
    this.#aborting?.abort();
    document.removeEventListener("visibilitychange", this.#seen);
  }

  #seen = () => {
    clearTimeout(this.#timer);
    if (document.hidden || this.#aborting) return;
    const wait = this.#notBefore - Date.now();
    if (wait > 0) this.#timer = setTimeout(this.now, wait);
    else this.now();
  };
}
