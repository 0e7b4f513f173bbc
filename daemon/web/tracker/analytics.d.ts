/** A storage, as the window's: what it throws is caught. */
export interface TrackerStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem?(key: string): void;
}

/** Sends one event (`payload` is an object) or a batch (an array). axios 1 can stand in its place. */
export interface TrackerHttpClient {
  /** Resolves: the events are counted, but for those that `data` refuses. Rejects: see `response.status`. */
  post(url: string, payload: any): Promise<unknown>;
}

export interface AnalyticsOptions {
  httpClient?: TrackerHttpClient;
  /**
   * Where dedupe keys are kept: sessionStorage. Events that are not confirmed wait in localStorage. null: nothing is
   * stored, so a page that is closed loses what waits.
   */
  storage?: TrackerStorage | null;
  /** Where single events go, an absolute path or a URL. Batches go to `${endpoint}/batch`. */
  endpoint?: string;
  defaultDomain?: string;
  /** Actions that are sent, separated by spaces. */
  actions?: string;
  /** Entity types that are sent, separated by spaces. */
  types?: string;
  /** What values an action takes, as in "rating:1-5 download:1-1". Default: 1 to 100. */
  ranges?: string;
  /** Seconds for which the server remembers an event's id. An event is given up after half of it, or 24 hours. */
  windowS?: number | string;
  /** "respect": nothing is sent or stored if the browser says so (Global Privacy Control, Do Not Track). */
  privacy?: "respect" | "";
  /** Given at all: the console is warned of each event that is given up. */
  debug?: true | "";
  uuidFactory?: () => string;
  nowFactory?: () => Date;
}

export interface TrackOptions {
  /** Default: `defaultDomain`. Another one is refused. */
  domain?: string | null;
  /** An integer. Default: 1. */
  value?: number | null;
  /** Sent with the first try, and never stored. */
  userId?: number | null;
  eventId?: string | null;
  /** RFC 3339. Default: now. */
  occurredAt?: string | null;
  /** false: count it although it was counted in this session. */
  dedupe?: boolean | null;
}

export declare class AnalyticsService {
  constructor(options?: AnalyticsOptions);

  httpClient: TrackerHttpClient;
  storage: TrackerStorage | null | undefined;
  endpoint: string;
  defaultDomain: string;
  actions: string;
  types: string;
  ranges?: string;
  windowS: number | string;
  privacy?: "respect" | "";
  debug?: true | "";
  uuidFactory: () => string;
  nowFactory: () => Date;
  /** What no storage takes: dedupe keys and events, as text. */
  readonly inMemory: Map<string, string>;

  /**
   * Counts an event. Never throws, never rejects, and settles within 5 seconds.
   *
   * True: the server has it. False: it was refused, it was counted before, or it is not confirmed yet and goes on in the
   * queue.
   */
  track(
    action: string,
    entityType: string,
    entityId: string | number | null | undefined,
    options?: TrackOptions | number | null,
  ): Promise<boolean>;

  /** Forgets what was tracked: the next `track()` of any key is a new event. What waits in the queue goes on. */
  reset(): void;

  /** Follows `data-track` and fills `data-count` of the elements inside `root` (default: the document). */
  scan(root?: ParentNode): void;
}

/** The service of this page, configured by the attributes of its `<script data-endpoint>`. */
declare const analytics: AnalyticsService;
export default analytics;
