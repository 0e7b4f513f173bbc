"""Every key of the configuration: its type, bounds, default and text. The only place that declares a key.

The rest derives from here: the checks and their messages, `ops/tallyd.example.toml`, the JSON Schema, the keys that a
daemon reads at its start only, and the secrets that nothing shows. The docstring under a key is its text in the
example and in the JSON Schema. The key's name ends with its unit. After a change, run
`tallyd config --example > ops/tallyd.example.toml`.

Who calls it: everyone who is handed a Config or a section of one. It reads no file and no variable.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta, Struct, field

from daemon.domain.action import Step
from daemon.domain.counter import NAME_PATTERN
from daemon.domain.window import WINDOWS, Window

Daemon = Literal["ingest", "flush"]

AT_INGEST_START = Meta(extra={"at_start": "ingest"})
"""On a key or a section: the ingest daemon reads it at its start only, never at a reload."""
AT_FLUSH_START = Meta(extra={"at_start": "flush"})
"""The same for the flush daemon."""
AT_START = Meta(extra={"at_start": "both"})
"""The same for both."""
SECRET = Meta(extra={"mask": "all"})
"""On a key: no output shows its value."""

UNIX = "unix"
"""In the place of an address: the peer behind a unix socket, which has none."""
VALUE_MAX = 1_000_000_000
"""The largest value an action may allow. A call's sum of them stays exact in Lua's doubles."""


_KEY_RULE = "must have 16 to 255 characters: ASCII, no spaces"
_NAME_RULE = "must begin with a-z and hold only a-z, 0-9 and _, 32 characters at most"
_SQL_NAME_RULE = "must begin with a letter or _ and hold only letters, digits, _ and $, 64 characters at most"
_PATH_PATTERN = r"\A(?:(?:/[A-Za-z0-9._~-]+)+)?\Z"
_PATH_RULE = 'must be a path like "/t": letters, digits, - . _ ~, and no / at the end'
_PREFIX_RULE = "must begin with a-z and hold only a-z, 0-9, _ and -, 32 characters at most"
_HOST_RULE = "must be a host name in lower case, without a port"
_ORIGIN_RULE = 'must be like https://shop.example, or "*"'
_PAGE_PATTERN = r"\Ahttps?://[A-Za-z0-9._:\[\]-]+[/?#][!-z|~]*\{id\}[!-z|~]*\Z"
_PAGE_RULE = 'must be like "https://shop.example/movies/{id}", with {id} once, behind the host'

Name = Annotated[str, Meta(pattern=NAME_PATTERN, extra={"rule": _NAME_RULE})]
SqlName = Annotated[str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_$]{0,63}\Z", extra={"rule": _SQL_NAME_RULE})]
Url = Annotated[str, Meta(extra={"mask": "password"})]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
CountOrOff = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
PortOrOff = Annotated[int, Meta(ge=0, le=65_535)]
Status = Annotated[int, Meta(ge=100, le=599)]
Bots = Literal["count", "skip"]
ProducerKey = Annotated[str, Meta(min_length=16, max_length=255, pattern=r"\A[!-~]+\Z", extra={"rule": _KEY_RULE})]
ReaderKey = Annotated[str, Meta(max_length=255, pattern=r"\A(?:[!-~]{16,})?\Z", extra={"rule": _KEY_RULE})]
IdRuleText = Annotated[str, Meta(min_length=1, max_length=255, extra={"rule": "must have 1 to 255 characters"})]
HostName = Annotated[str, Meta(pattern=r"\A(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])\Z", extra={"rule": _HOST_RULE})]
KeyPrefix = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]{0,31}\Z", extra={"rule": _PREFIX_RULE})]
PathOrOff = Annotated[str, Meta(pattern=_PATH_PATTERN, extra={"rule": _PATH_RULE})]
PageUrl = Annotated[str, Meta(pattern=_PAGE_PATTERN, extra={"rule": _PAGE_RULE})]
Origin = Annotated[str, Meta(pattern=r"\A(?:\*|https?://[!-.0-~]+)\Z", extra={"rule": _ORIGIN_RULE})]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Http(Section, frozen=True):
    """Where the ingest daemon listens, and what a request may be."""

    host: Annotated[str, AT_INGEST_START] = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[Port, AT_INGEST_START] = 8080
    """The port to listen on."""
    metrics_port: Annotated[PortOrOff, AT_INGEST_START] = 9_464
    """The daemon serves /metrics, /livez, /readyz and /version on this port of loopback. 0: it does not."""
    unix_socket: Annotated[str, AT_INGEST_START] = ""
    """Path of a unix socket to listen on, instead of host and port. Its user and group may connect (mode 0660). A proxy
    that connects by it is "unix" in `trusted_proxies`."""
    workers: Annotated[int, Meta(ge=1, le=256), AT_INGEST_START] = 1
    """Worker processes."""
    interface: Annotated[Literal["asgi", "rsgi"], AT_INGEST_START] = "rsgi"
    """How Granian calls a worker. Both give the same answers; RSGI costs less."""
    event_bytes_max: Count = 65_536
    """Largest body of a single event. A larger one gets 413."""
    batch_bytes_max: Count = 1_048_576
    """Largest body of a batch. A larger one gets 413."""
    batch_events_max: Annotated[int, Meta(ge=1, le=2_000)] = 2_000
    """Most events in one batch. More get 422."""
    body_timeout_ms: Count = 10_000
    """How long the body of a request may take to arrive. A slower one gets 408."""
    answer_timeout_ms: Annotated[Count, AT_INGEST_START] = 10_000
    """How long a client may take nothing of its answer. Then its connection is closed."""
    requests_in_flight_max: Count = 4_096
    """Whole requests that one worker works on at a time. More get 503."""
    unfinished_max: Count = 8_192
    """Bodies that one worker waits for at a time. More get 503."""
    header_bytes_max: Annotated[int, Meta(ge=8_192, le=1_048_576), AT_INGEST_START] = 32_768
    """Largest head of a request. A larger one gets 431. A request for the totals of 500 UUIDs takes 20 KiB."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of your own proxies, or "unix" for one that connects by a unix socket. A request of theirs
    is that of the client they name. From anybody else the header counts for nothing. See ops/proxy."""
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """The header in which they name it. Only this one is read, because a proxy passes the other one on as a client made
    it up."""
    hosts: tuple[HostName, ...] = ()
    """Host names under which the daemon answers. Others get 421, so that no foreign name leads a browser to it (DNS
    rebinding). Empty: all."""
    closing_ms: Count = 1_000
    """How long a stopping daemon goes on taking requests. Each answer asks its client to connect elsewhere. The time is
    shorter when no requests come."""
    drain_timeout_s: Count = 10
    """How long a stopping worker may then take to answer the requests it has accepted. After that it is killed."""


class RedisSection(Section, frozen=True):
    """The buffer: new counts, and the ids of counted events."""

    url: Url = ""
    """redis://user:password@host:6379/0, rediss://… or unix:///path/of/the/socket. Several hosts with commas between
    them are nodes of one Redis Cluster: name two or more, and it finds the others. rediss:// is TLS, with the
    certificate and the name verified. Options for it: `?ssl_ca_certs=FILE` (your own authority), `ssl_certfile`,
    `ssl_keyfile` and `ssl_password` (your certificate), `ssl_check_hostname=false`. Percent-encode the password: @ is
    %40, : is %3A, / is %2F, # is %23, ? is %3F, % is %25."""
    address_map: dict[str, str] = {}
    """Of a Redis Cluster, whose nodes say addresses that this machine does not reach (Docker, NAT): what a node says,
    and what to connect to. {"10.0.0.5:6379" = "127.0.0.1:16379"}."""
    timeout_ms: Count = 2_000
    """How long one call may take. After that its outcome is unknown, and its connection is dropped."""
    reconnect_ms: Count = 200
    """How long requests are refused after a failed connect, before the next attempt."""
    shards: Annotated[int, Meta(ge=1, le=16_384)] = 1
    """Each shard has its own dedupe and its own flushes. A single server needs 1. The number is fixed once data exists
    (`anl:layout`)."""
    replicas: Annotated[int, Meta(ge=0, le=16)] = 0
    """How many replicas each primary has at least. What it answered is safe once all that follow it hold it, and no
    fewer than this. Until then the ingest daemon keeps it, and sends it again if another Redis answers: ids decide."""
    durability: Literal["resent", "replicated"] = "resent"
    """When an event is answered 202. resent: once Redis counted it. A crash of Redis loses nothing, unless the host of
    the ingest daemon loses its power in the same moment. replicated: once the `replicas` hold it, too."""
    unsynced_ms: CountOrOff = 2_500
    """How long a Redis that is killed and started again can lack what it answered: with `appendfsync everysec` 2 s, and
    a margin. What it answered is kept for so long in any case. 0: with `appendfsync always`. If it has replicas then,
    set `replicas`, too."""
    unconfirmed_bytes_max: Annotated[int, Meta(ge=65_536, le=2**34)] = 134_217_728
    """Bytes of calls that one worker keeps, in a cluster one for each shard. Above that, events go to the spool."""
    prefix: KeyPrefix = "anl"
    """All keys begin with it and a colon. Two systems on one Redis have two prefixes. Each has its own `spool.dir` and
    database of MongoDB, too. With another prefix a system begins to count anew. So before a change, stop ingest and run
    `tallyd flush --once`: nothing looks for counts under the old one."""


class MongoSection(Section, frozen=True):
    """The rollups: what was counted, for good."""

    url: Url = ""
    """mongodb://user:password@host:27017/database or mongodb+srv://… For TLS: `?tls=true`, and `tlsCAFile=FILE` (your
    own authority), `tlsCertificateKeyFile=FILE` (your certificate and its key). Name all members of a replica set.
    Encode the password as for Redis."""
    timeout_ms: Count = 20_000
    """How long one write or read may take, the choice of a server included."""


class MysqlSection(Section, frozen=True):
    """The replica: totals in columns of the application's own tables."""

    url: Url = ""
    """mysql://user:password@host:3306/database. Empty: no replica columns are written. Of a Galera cluster, name the
    one node that your application writes to. For TLS, with the certificate and the name verified: `?ssl=true`, or any
    of `ssl_ca=FILE` (your own authority; else the system's), `ssl_cert=FILE` and `ssl_key=FILE` (your certificate),
    `ssl_check_hostname=false`. A socket: mysql://user@/database?unix_socket=FILE. Encode the password as for Redis."""
    timeout_ms: Count = 10_000
    """How long one statement may take."""
    lock_timeout_s: Count = 5
    """How long a flusher waits for the advisory lock of another one. Then it tries again later."""
    rows_max: Annotated[int, Meta(ge=1, le=50_000)] = 5_000
    """Rows of one UPDATE, and ids that MySQL is asked about at once."""


class RateLimit(Section, frozen=True):
    """How many events one client address may send without a key. What is beyond gets 429."""

    per_minute: CountOrOff = 60
    """Events of one address in a minute. They may come at once; then the budget refills evenly. A batch is taken as far
    as it reaches. A refused event or request counts as one. 0: no limit."""
    new_entities_per_minute: CountOrOff = 0
    """Entities that events of one address may make dirty in a minute. It bounds the work of the flusher where
    `per_minute` is large. 0: as many as events."""


class Browser(Section, frozen=True):
    """Events that come without a producer's key, from browsers."""

    origins: tuple[Origin, ...] = ()
    """Pages of these origins ("https://shop.example") may send events. Events of other pages get 403. "*": pages of any
    origin. Empty: no answer speaks of origins."""
    alias: PathOrOff = ""
    """A second path for single events, as "/t", and "/t/batch" for batches. Ad blockers know the first one."""
    tracker: bool = True
    """Whether the daemon serves the tracker for pages: /analytics.js and its other names. `tallyd snippet` prints the
    tag."""
    script: PathOrOff = ""
    """A further path of the tracker, as "/s.js". Ad blockers know the first one. Beside it the same file has a name
    with its hash, which `tallyd snippet` prints."""
    pixel: PathOrOff = ""
    """A path, as "/p.gif", that counts a GET, for pages without scripts: `?d=DOMAIN&t=TYPE&id=ID&a=ACTION`. Robots
    and prefetches do not count, and actions with a value get 422. Such a request has no event id, so what a client
    repeats counts again. Empty: none."""
    badge: PathOrOff = ""
    """A path, as "/b.svg", of an image that shows a count: `?d=DOMAIN&t=TYPE&id=ID&c=COUNTER&label=TEXT`. Anyone
    may read counts so, also where readers need a key. Empty: none."""
    robots: Literal["count", "skip", "apart"] = "count"
    """Events of robots, told by their user agent: "count" as all others, "skip", or count "apart": in place of the
    counter `view` they move `view_robot`. All are answered 202. Programs such as curl are robots, too, and so is a
    client without a user agent: servers should send a key."""


class Budget(Section, frozen=True):
    """What one address may cost a worker, beside its counted events: refused events and requests, reads, half-sent
    bodies. Beyond it: 429."""

    per_minute: CountOrOff = 3_000
    """Cost in a minute. A refused event costs 1, a refused request 5, a cached read 1, a read that asks a store 10, a
    top list, a summary or a read of more than 1,000 documents 150. A reader with a key pays nothing. 0: no budget."""
    unfinished_max: Count = 32
    """Bodies that one address may be sending at a time, once a worker waits for an eighth of `http.unfinished_max`.
    More get 429."""
    addresses_max: Count = 65_536
    """Addresses that one worker remembers."""


class Producers(Section, frozen=True):
    """Trusted senders of events."""

    keys: Annotated[dict[Name, ProducerKey], SECRET] = {}
    """Name of a producer → the key it sends as `X-Tallyd-Key`, or the hash of that key, `sha256:…`. The rate limit
    does not apply to it."""
    max_age_s: CountOrOff = 0
    """An older event of a producer gets 422. 0: any age."""


class KeyEntry(Section, frozen=True):
    """A key of a producer or a reader. `tallyd key new` writes it to `keys.file`."""

    id: Annotated[str, Meta(pattern=r"\A[a-z0-9]{4,32}\Z", extra={"rule": "must have 4 to 32 of a-z and 0-9"})]
    """What tells it from the other keys. A signature names it."""
    name: Name
    """Whose it is. One may have several keys, so that an old one can go once all use the new one."""
    kind: Literal["producer", "reader", "operator"] = "producer"
    """Who sends it: a producer events, a reader GETs. An operator sees the dashboard, too."""
    hash: Annotated[str, Meta(pattern=r"\A(?:sha256:[0-9a-f]{64})?\Z", extra={"rule": "must be sha256:… in hex"})] = ""
    """SHA-256 of the key. Empty: it signs."""
    secret: ReaderKey = ""
    """Of a producer that signs its requests: the key itself, which its signature is made with."""
    domains: tuple[Name, ...] = ()
    """The domains that its events may have. Others get 422. Empty: all."""
    actions: tuple[Name, ...] = ()
    """The same for actions."""
    events_per_minute: CountOrOff = 0
    """Events that all keys of this producer's name may send in a minute. 0: no limit."""
    expires: str = ""
    """The first UTC day on which it is refused, as 2027-01-31. Empty: never."""


class Keys(Section, frozen=True):
    """Keys of producers, readers and operators that can be exchanged, scoped and expire: see `tallyd key`."""

    file: str = ""
    """The file in which `tallyd key` keeps them, hashed. A reload reads it again. Missing: no keys yet."""
    signature_window_s: Count = 300
    """How far the time of a signed request may be from the server's. Sent again within it, its ids are known."""
    entries: Annotated[tuple[KeyEntry, ...], SECRET] = ()
    """The keys themselves: those of the file, and more if you manage them in another way."""


class Ingest(Section, frozen=True):
    """How events reach Redis, and which event times are taken."""

    queue_events_max: Count = 20_000
    """Events of one worker that wait for a Lua call. More get 503."""
    call_events_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Events of one Lua call. A larger batch takes several calls. A call keeps Redis busy for 4 to 7 µs an event."""
    calls_in_flight_max: Annotated[int, Meta(ge=1, le=64)] = 2
    """Calls from one worker to one shard that are under way at a time."""
    retry_after_s: Count = 1
    """How long a 503 tells the client to wait."""
    require_key: bool = False
    """Whether events without a producer's key get 401."""
    future_max_s: CountOrOff = 300
    """An event further ahead of the server's clock is counted under the server's time."""
    max_age_s: CountOrOff = 172_800
    """An older event gets 422 if it comes without a producer's key: so the counts of a day that is over stay as they
    are. The default is that of `dedupe.window_s`, since an older event may have been counted and its id forgotten. 0:
    any age."""
    slice_us: Annotated[int, Meta(ge=0, le=100_000), AT_INGEST_START] = 100
    """How long Linux (6.12 and later) lets a worker run before another process may have its core. The kernel's own
    value is 1,400 or more. With less, worker and Redis answer each other at once where they share cores. 0: the
    kernel's own value. Less than 100 is taken as 100."""


class Dedupe(Section, frozen=True):
    """How long the ids of counted events are remembered."""

    window_s: Annotated[int, Meta(ge=1, le=30 * 86_400)] = 172_800
    """A second delivery within this time is always recognised, and after twice this time never."""
    events_per_window: Count = 10_000_000
    """The memory of the first window is laid out for so many events, of all shards together. Each later window is laid
    out for the number that the one before it saw."""


class SpoolSection(Section, frozen=True):
    """Where events wait while Redis does not take them."""

    dir: str = ".tallyd/spool"
    """Folder on a local disk, shared by the workers of one machine. Empty: no spool, and a 503 instead. The default of
    a configuration below /etc is /var/lib/tallyd/spool."""
    bytes_max: Annotated[int, Meta(ge=1_048_576)] = 1_073_741_824
    """Most bytes in the folder. When it is full, events get 503. An event takes about 90 bytes."""
    address_percent_max: Annotated[int, Meta(ge=1, le=100)] = 10
    """Share of `bytes_max` that one client address without a key may fill in one outage. Then its events get 503."""
    producers_percent: Annotated[int, Meta(ge=0, le=99)] = 20
    """Share of `bytes_max` that is kept for producers with a key. When the rest is full, other events get 503."""
    ready_percent: Annotated[int, Meta(ge=1, le=100)] = 90
    """While Redis is away and this much of the room for events is used, /readyz answers 503: a load balancer then sends
    events elsewhere. The room of `producers_percent` is left out, unless `ingest.require_key` is set."""
    segment_bytes: Annotated[int, Meta(ge=65_536, le=268_435_456)] = 16_777_216
    """A file of this size is closed, and a new one begun. A replay holds one file in memory."""
    timeout_ms: Count = 10_000
    """How long a write, or a step of a replay, may take. Then its events get 503, and until it ends the worker is not
    ready and the watchdog is not fed."""
    probe_ms: Count = 500
    """How often a spooling worker asks whether Redis takes events again. It then also looks for files that other
    workers left."""
    replay_call_events_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Events of one Lua call of a replay. New events wait behind such a call, so it is small."""


class Flush(Section, frozen=True):
    """When the flusher writes to MongoDB and MySQL, and how much at a time."""

    threshold: Count = 500
    """A flush starts at once when a shard has so many dirty entities."""
    interval_s: Annotated[float, Meta(gt=0, le=86_400)] = 5.0
    """The longest that a counted event waits for a flush to start."""
    poll_ms: Count = 250
    """How often the flusher looks at the number of dirty entities."""
    claim_entities_max: Annotated[int, Meta(ge=1, le=20_000)] = 5_000
    """Entities in one claim."""
    claim_fields_max: Annotated[int, Meta(ge=1, le=100_000)] = 20_000
    """Counter-days in one claim, or counter-hours of a domain with hours. An entity that holds more is in several
    claims."""
    claim_us_max: Count = 500
    """How long one script of a claim may keep Redis from other clients. A claim takes as many scripts as it needs, and
    other calls run between them."""
    claims_in_flight_max: Annotated[int, Meta(ge=1, le=64)] = 2
    """Claims that one process applies at the same time, whatever the number of shards, and as many syncs of MySQL. It
    bounds memory and connections, and lets several flush daemons share the shards."""
    journal_claims: Annotated[int, Meta(ge=2, le=1_000)] = 100
    """Claims of a shard whose content MongoDB keeps. A Redis that comes back without its last claims is put right with
    it. One holds up to 2 MB. Redis falls back by two seconds, or by what a replica lacks."""
    fall_back_s: Annotated[float, Meta(gt=0, le=86_400)] = 20.0
    """How far Redis can fall back in a crash: two seconds, or what a replica lacks. It must be above
    cluster-node-timeout (15 s): a primary that is cut off goes on for so long. If the claims that Redis forgot are from
    a longer time, it was restored, and its shard is held: `tallyd shards`."""
    replicated_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1_000
    """How long a claim waits for the replicas of Redis before it goes to MongoDB. If they do not have it by then, it
    goes on. A replica that takes over without it is put right with the journal."""
    lease_ms: Count = 10_000
    """Another flusher may take over a claim that is not acknowledged by then."""
    retry_ms: Count = 500
    """First pause after a failed flush. It doubles with each failure, up to `retry_max_ms`."""
    retry_max_ms: Count = 10_000
    """Longest pause after a failed flush."""
    stop_timeout_s: Count = 10
    """How long a stopping flusher may take to finish its claim. After that the next flusher gets the claim whole."""
    niceness: Annotated[int, Meta(ge=0, le=19), AT_FLUSH_START] = 10
    """How far the flusher gives way to the ingest daemon where they share cores (nice(2)). Where systemd gives each
    service its own share, the unit's CPUWeight= decides."""
    metrics_port: Annotated[PortOrOff, AT_FLUSH_START] = 9_465
    """The flusher serves /metrics, /livez, /readyz and /version on this port of loopback. 0: it does not."""
    metrics_interval_s: Annotated[float, Meta(gt=0, le=3_600)] = 5.0
    """How often it asks the stores for what its /metrics tell of them."""


class Retention(Section, frozen=True):
    """How long the fine rollups are kept. `tallyd expire` deletes older ones. Totals, months and years stay."""

    hourly_days: Annotated[int, Meta(ge=0, le=36_500)] = 8
    """Days that `hourly` reaches back, in domains with hours: 24 hours each, this one included. An older event makes no
    hour. 0: for ever, however old an event is."""
    daily_days: CountOrOff = 0
    """Days that `daily` reaches back, today included. 0: for ever."""
    weekly_weeks: CountOrOff = 0
    """Weeks that `weekly` reaches back, this one included. 0: for ever."""


class Read(Section, frozen=True):
    """What the ingest daemon answers to GET. It needs `mongo.url`, and for exact totals `redis.url`."""

    enabled: bool = True
    """False: every read gets 404."""
    key: Annotated[ReaderKey, SECRET] = ""
    """Readers send it as `X-Tallyd-Key`, as `Authorization: Bearer`, or as the password of `Basic`. It may be a hash,
    `sha256:…`, and `tallyd key new --read` makes more of them. Others get 401. Without any key, anyone may read."""
    cors_origins: tuple[Origin, ...] = ()
    """Pages of these origins ("https://shop.example") may read from a browser. "*": pages of any origin."""
    timeout_ms: Annotated[Count, AT_INGEST_START] = 2_000
    """How long one query of totals, lists and series may take. A slower one gets 503."""
    sum_timeout_ms: Count = 10_000
    """How long one query that sums documents may take: the days of a summary, or a top list that no index serves."""
    reads_in_flight_max: Count = 256
    """Different questions of one worker that wait for a store. More get 503. Cached answers are given all the same."""
    series_at_once_max: Count = 16
    """Series that one worker asks MongoDB for at once. Others wait."""
    tops_at_once_max: Count = 2
    """The same of top lists, and of questions that read thousands of documents."""
    summaries_at_once_max: Count = 1
    """The same of summaries."""
    retry_after_s: Count = 1
    """How long a 503 tells the client to wait."""
    cache_bytes_max: Annotated[int, Meta(ge=1_048_576)] = 67_108_864
    """Most bytes of one worker's cached answers."""
    cache_ttl_ms: CountOrOff = 1_000
    """How old cached totals and series may get. 0: they are not cached."""
    top_cache_ttl_ms: CountOrOff = 10_000
    """How old cached top lists and summaries may get. 0: they are not cached."""
    stale_s: CountOrOff = 60
    """A top list or summary that cannot be read now is answered from the cache although it got older than
    `top_cache_ttl_ms`, by so much at most. Its `as_of` says how old it is. 0: it gets 503."""
    ids_max: Annotated[int, Meta(ge=1, le=500)] = 500
    """Most entities of one request for totals. More get 422."""
    top_limit_max: Annotated[int, Meta(ge=1, le=100)] = 100
    """Most entities of one top list. More get 422. Also the most entities that a search by label finds."""
    series_points_max: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    """Most points of one series. More get 422."""
    series_ids_max: Annotated[int, Meta(ge=1, le=100)] = 100
    """Most entities of one request for series. More get 422."""
    series_all_points_max: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    """Most points of the series of one request, all together. More get 422."""
    fresh_fields_max: Annotated[Count, AT_INGEST_START] = 500
    """Counts of an entity in Redis, a counter and day (or hour) each, that an exact total (`fresh=1`) may have to add.
    With more of them it gets 503 until they are flushed. 500 take Redis less than 1 ms."""
    fresh_at_once_max: Count = 4
    """The same of exact totals."""
    names_at_once_max: Count = 4
    """The same of searches by label. MySQL is asked one question after the other."""
    wait_ms: Count = 1_000
    """How long a read waits for others of its kind. After that it gets 503."""
    top_windows: tuple[Window, ...] = WINDOWS
    """Windows that a top list can be about. "24h" is this hour and the 23 before, in domains with hours. Windows of
    days need indexes on the daily documents, "24h" on the hourly and "year" on the yearly ones. The flusher keeps these
    indexes."""


class Dashboard(Section, frozen=True):
    """The page that shows the counts, and whether all is well: GET /dashboard of the ingest daemon."""

    enabled: bool = False
    """Whether the page is served. It needs `read.enabled`. Without an operator's key only a browser on this machine
    sees it, and only while `http.trusted_proxies` is empty."""
    key: Annotated[ReaderKey, SECRET] = ""
    """An operator's key. It opens the page, GET status, GET dead, and every read. It is sent as `X-Tallyd-Key`, as
    `Authorization: Bearer`, or as the password that a browser asks for (any user). It may be a hash, `sha256:…`, and
    `tallyd key new --operator` makes more of them."""
    status_ttl_ms: Annotated[int, Meta(ge=100, le=60_000)] = 2_000
    """How old a cached answer to GET status or GET dead may get. A worker asks the stores no more often."""
    letters_max: Annotated[int, Meta(ge=1, le=1_000)] = 100
    """Most dead letters of one GET dead. More get 422."""
    demo: bool = False
    """For `tallyd dev`: / leads to the page, and the page has a button that sends an event."""


class Log(Section, frozen=True):
    """What tallyd logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are logged."""
    format: Literal["text", "json"] = "text"
    """A line of text for people, or a JSON object for collectors. Both have the time with its zone, the level, the
    logger, `run_id` (of a daemon and its workers) and `pid`. Some have `worker`, `shard` or `request_id`."""
    counts: Annotated[bool, AT_INGEST_START] = False
    """Log what is counted (at most two lines a second, worker and shard), and what each claim wrote. `tallyd dev` has
    it on."""


class Traces(Section, frozen=True):
    """Spans of Redis calls, claims, bulk writes and UPDATEs, for OpenTelemetry: `pip install 'tallyd[otel]'`."""

    endpoint: Url = ""
    """A collector that takes OTLP over HTTP: http://127.0.0.1:4318/v1/traces. Empty: there are no spans. Headers, such
    as a token, are in the variable OTEL_EXPORTER_OTLP_HEADERS."""
    calls_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """Share of the ingest daemon's calls that have a span. Claims and syncs of the flush daemon all have one."""


BOT_PATTERN = (
    r"(?i)https?://|@[a-z]"  # an address or a contact: robots are asked to give one, browsers don't
    r"|(?<!cu)bots?(?![a-z])"  # but not the telephones called CUBOT
    r"|crawl|spider|slurp|nutch|archiv|scan|sourcer"  # search engines and archives
    r"|feed|rss|oldreader|fetch|preview|proxy"  # programs that read for someone, or beforehand
    r"|monitor|scout|validator|xenu|protocol discovery|phantom|headless"  # and those that look whether it works
    r"|curl|wget|python|perl|ruby|java/|php/|go-http|http_?client|http_request|cfnetwork|indy library"  # scripts
    r"|^-?$"  # who gives no name at all
)
"""Tells programs from people by their user agent. `tests/data/semicomplete-bots.txt` is what it is held against."""


class ImportRoute(Section, frozen=True):
    """Which requests of an access log count, and as what. The first route whose pattern matches the path wins."""

    pattern: str
    """Regular expression searched for in the path. The path is as logged, without the query string."""
    domain: str
    """The event's domain. This and the next three may hold `{0}`, the whole path, and `{1}` or `{name}`, a group of the
    pattern."""
    entity_type: str
    """The event's entity type."""
    entity_id: str
    """The event's entity id."""
    action: str
    """The event's action."""
    methods: tuple[str, ...] | None = None
    """Default: `methods` of the section."""
    statuses: tuple[Status, ...] | None = None
    """Default: `statuses` of the section."""
    bots: Bots | None = None
    """Default: `bots` of the section."""


class Import(Section, frozen=True):
    """How `tallyd import` reads access logs and files of events."""

    methods: tuple[str, ...] = ("GET",)
    """Requests with these methods count."""
    statuses: tuple[Status, ...] = (200, 304)
    """Requests with these statuses count."""
    bots: Bots = "skip"
    """Whether requests of programs (see `bot_pattern`) count."""
    bot_pattern: str = BOT_PATTERN
    """Regular expression searched for in the user agent. A log without user agents has no bots."""
    line_bytes_max: Annotated[int, Meta(ge=64, le=16_777_216)] = 65_536
    """A longer line is rejected."""
    call_events_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Events of one Lua call, and between two checkpoints."""
    calls_in_flight_max: Annotated[int, Meta(ge=1, le=16)] = 2
    """Calls under way while the next lines are read. Calls to several shards at once count as one."""
    store_wait_ms_max: Count = 60_000
    """How long the import waits for a Redis that does not answer. Then it stops."""
    routes: tuple[ImportRoute, ...] = ()
    """Which requests of an access log count, and as what: [[import.routes]]. See weblog.example.toml."""


class ActionSection(Section, frozen=True):
    """What clients may report."""

    value_min: Annotated[int, Meta(ge=1, le=VALUE_MAX)] = 1
    """Smallest value of an event. A smaller one gets 422."""
    value_max: Annotated[int, Meta(ge=1, le=VALUE_MAX)] = 100
    """Largest value of an event. A larger one gets 422."""
    visitor_window_s: Annotated[int, Meta(ge=0, le=86_400)] = 0
    """An event does not count if its visitor (address, user agent) sent the same action for the same entity less than
    so many seconds before: 30, as COUNTER counts clicks, or hours. `view` is then the filtered counter, and `view_raw`
    counts every event. Events with a producer's key all count. 0: no window."""
    counters: dict[Name, Step] = {}
    """Counter → "one" (an event adds 1) or "value" (it adds its value). Empty: the counter of the action's own name, by
    the value."""


class DomainSection(Section, frozen=True):
    """What is counted, and which actions count."""

    entity_types: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """The kinds of things that events can be about."""
    actions: tuple[Name, ...] = ()
    """The actions that clients may report. Empty: every configured action."""
    hourly: bool = False
    """Count by UTC hours, too, for `retention.hourly_days`: series of hours, and top lists of the last 24. Hours begin
    when this is set. Stop flush daemons of a version before 0.6.0 first."""
    entity_id: dict[Name, IdRuleText] = {}
    """Entity type → what its ids look like: "uuid" (in lower case), "integer", or a pattern of the whole id such as
    "[a-z0-9-]{1,64}". Other ids get 422. A type without a rule takes any id of 1 to 255 characters."""
    urls: dict[Name, PageUrl] = {}
    """Entity type → the page of an entity, as "https://shop.example/movies/{id}". `GET …/domains` tells it to readers,
    which put the percent-encoded id in. A dashboard links its lists so."""


class ReplicaTable(Section, frozen=True):
    """Where the totals of one entity type are copied to."""

    table: SqlName
    """The table of the application."""
    key: SqlName
    """The column that holds the entity id. It needs a unique index."""
    columns: Annotated[dict[Name, SqlName], Meta(min_length=1)]
    """Counter → the column that tallyd writes."""
    label: SqlName | None = None
    """A column that people know the rows by. Reports and `tallyd top` show it beside the key. With an index on it,
    readers find an entity by it: `GET …/entities/DOMAIN/TYPE?label=…`."""
    shadow: dict[Name, SqlName] = {}
    """Counter → the column in which the application still counts by itself. See `tallyd shadow-compare`."""
    enrich: tuple[SqlName, ...] = ()
    """Columns that reads show beside the counts (`enrich=1`)."""
    known: bool = False
    """Take only ids that the table has, byte for byte, when their counts are flushed. Those of other ids become dead
    letters ("unknown id"). `tallyd dead retry` brings them in. Insert a row before its first event, therefore. While
    MySQL is away, the counts of such a type wait in Redis, and with them those of its shard."""


ACTIONS_BUILT_IN = {"view": ActionSection(), "download": ActionSection()}
DOMAINS_DEFAULT = {"jav": DomainSection(entity_types=("movie", "actor", "tag"), actions=("view", "download"))}
DOMAINS_OF_STACK = {name: msgspec.structs.replace(section, hourly=True) for name, section in DOMAINS_DEFAULT.items()}
"""Those of an embedded stack: one sees at once what there is."""
REPLICA_DEFAULT = {
    "jav": {
        "movie": ReplicaTable(table="jav", key="uuid", columns={"view": "views", "download": "downloads"}, label="code")
    }
}


REPLICA_OF_STACK = {
    "jav": {"movie": msgspec.structs.replace(REPLICA_DEFAULT["jav"]["movie"], enrich=("code", "title"))}
}
"""That of an embedded stack, whose demo table has these columns."""


class Config(Section, frozen=True):
    """Everything tallyd can be told. `ops/tallyd.example.toml` shows every key."""

    enabled: bool = True
    """The rollback switch. False: every event is answered 202, and nothing is stored. No column of MySQL is written
    then, because the columns are the application's."""
    http: Http = field(default_factory=Http)
    redis: Annotated[RedisSection, AT_INGEST_START] = field(default_factory=RedisSection)
    mongo: Annotated[MongoSection, AT_INGEST_START] = field(default_factory=MongoSection)
    mysql: Annotated[MysqlSection, AT_INGEST_START] = field(default_factory=MysqlSection)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    browser: Browser = field(default_factory=Browser)
    budget: Budget = field(default_factory=Budget)
    producers: Producers = field(default_factory=Producers)
    keys: Keys = field(default_factory=Keys)
    ingest: Ingest = field(default_factory=Ingest)
    dedupe: Annotated[Dedupe, AT_INGEST_START] = field(default_factory=Dedupe)
    spool: Annotated[SpoolSection, AT_INGEST_START] = field(default_factory=SpoolSection)
    flush: Flush = field(default_factory=Flush)
    retention: Retention = field(default_factory=Retention)
    read: Read = field(default_factory=Read)
    dashboard: Dashboard = field(default_factory=Dashboard)
    log: Log = field(default_factory=Log)
    traces: Annotated[Traces, AT_START] = field(default_factory=Traces)
    import_: Import = field(default_factory=Import, name="import")
    actions: dict[Name, ActionSection] = field(default_factory=dict)
    """[actions.NAME]: what clients may report. These two are built in, and a table of the same name replaces one. See
    actions.example.toml for more of them."""
    domains: dict[Name, DomainSection] = field(default_factory=lambda: dict(DOMAINS_DEFAULT))
    """[domains.NAME]: what is counted, and which actions count. Domains given here replace this one."""
    replica: dict[Name, dict[Name, ReplicaTable]] = field(default_factory=dict)
    """[replica.DOMAIN.TYPE]: the MySQL table that the totals of one entity type are copied to. This one holds while the
    domains are the default ones."""


class Key(NamedTuple):
    """What a section declares of one key."""

    name: str
    """As the file spells it."""
    kind: Any
    """The type with its bounds, and without `| None`: TOML has no null."""
    default: Any
    """`msgspec.NODEFAULT`: the key must be given."""
    at_start: Daemon | Literal["both"] | None
    """The daemon that reads it at its start only."""
    mask: Literal["all", "password"] | None
    """What of the value no output shows."""


@cache
def keys_of(section: type[Section]) -> dict[str, Key]:
    """The keys of a section by name, in the order of the file."""
    kinds = get_type_hints(section, include_extras=True)
    keys = {}
    for each in msgspec.structs.fields(section):
        kind = kinds[each.name]
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
        extra = extra_of(kind)
        default = each.default if each.default_factory is NODEFAULT else each.default_factory()
        keys[each.encode_name] = Key(each.encode_name, kind, default, extra.get("at_start"), extra.get("mask"))
    return keys


@cache
def secret_keys() -> tuple[tuple[str, Key], ...]:
    """Every secret key that may have a file of its own, with its section's name."""
    sections = ((table.name, section_of(table.kind)) for table in keys_of(Config).values())
    return tuple(
        (name, key)
        for name, kind in sections
        if kind
        for key in keys_of(kind).values()
        if key.mask and get_origin(bare(key.kind)) is not tuple
    )


def read_at_start(daemon: Daemon, key: str) -> bool:
    """Whether this daemon reads a dotted key at its start only, so that a reload leaves it as it was."""
    kind: Any = Config
    for name in key.split("."):
        section = section_of(kind)
        found = keys_of(section).get(name) if section else None
        if found is None:
            return False
        if found.at_start in (daemon, "both"):
            return True
        kind = found.kind
    return False


def extra_of(kind: Any) -> dict[str, Any]:
    """What this module notes on a type beside the bounds that msgspec checks."""
    return {name: value for meta in getattr(kind, "__metadata__", ()) for name, value in (meta.extra or {}).items()}


def bare(kind: Any) -> Any:
    """The type without its bounds."""
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


def section_of(kind: Any) -> type[Section] | None:
    """The section that describes a table of this type; None for any other type."""
    plain = bare(kind)
    return plain if isinstance(plain, type) and issubclass(plain, Section) else None


def bounds_of(kind: Any) -> str:
    """The bounds of a number in words, "" if it has none: "between 1 and 65535"."""
    metas = getattr(kind, "__metadata__", ())
    low, above, high = (
        next((value for meta in metas if (value := getattr(meta, name)) is not None), None)
        for name in ("ge", "gt", "le")
    )
    if low is None and above is None:
        return ""
    if high is None:
        return f"at least {low}"
    return f"between {low} and {high}" if above is None else f"above {above} and at most {high}"
