"""The configuration: one TOML file, every key overridable from the environment, frozen once read.

`load` merges, later over earlier: the defaults below, the file, the environment (`TALLYD_SECTION__KEY`), the embedded
stack's addresses where they apply. Every problem is reported at once, each with its key; an unknown key is a problem.

Who calls it: the commands, once, and each ingest worker, once. It opens no connection.
"""

from __future__ import annotations

import os
import re
import string
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field

from daemon.domain.action import Step
from daemon.domain.counter import NAME_PATTERN, RESERVED
from daemon.domain.rollup import KINDS, TOTALS, Kind
from daemon.domain.window import WINDOWS, Window, kind_of
from daemon.errors import ConfigError

FILE_DEFAULT = Path("tallyd.toml")
DATA_DEFAULT = Path(".tallyd")
ENV_PREFIX = "TALLYD_"
ENV_CONFIG = "TALLYD_CONFIG"
ENV_STACK_PREFIX = "TALLYD_STACK_"
ENV_NOT_KEYS = frozenset({ENV_CONFIG, "TALLYD_RUN_ID", "TALLYD_RUN_DIR", "TALLYD_DATA"})
"""Variables with our prefix that are not configuration keys; nor are those that choose the embedded stack's
programs."""

VALUE_MAX = 1_000_000_000
"""The largest value an action may allow: a call's sum of them stays exact in Lua's doubles."""

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
SqlName = Annotated[str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_$]{0,63}\Z")]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
CountOrOff = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
PortOrOff = Annotated[int, Meta(ge=0, le=65_535)]
Status = Annotated[int, Meta(ge=100, le=599)]
Bots = Literal["count", "skip"]
ProducerKey = Annotated[str, Meta(min_length=16, max_length=255, pattern=r"\A[!-~]+\Z")]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Http(Section, frozen=True):
    """Where the ingest daemon listens and what it takes."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    interface: Literal["asgi", "rsgi"] = "rsgi"
    """How Granian calls the worker: its own protocol, or ASGI. The same answers; RSGI costs less."""
    event_bytes_max: Count = 65_536
    """Largest body of the single-event path; over it 413."""
    batch_bytes_max: Count = 1_048_576
    """Largest body of the batch path; over it 413."""
    batch_events_max: Annotated[int, Meta(ge=1, le=2_000)] = 2_000
    """Most events in one batch; over it 422."""
    body_timeout_ms: Count = 10_000
    """How long a request's body may take to arrive; over it 408."""
    requests_in_flight_max: Count = 4_096
    """Requests one worker holds at a time, waiting ones included; over it 503."""
    header_bytes_max: Annotated[int, Meta(ge=8_192, le=1_048_576)] = 32_768
    """Largest head of a request; over it 431. A question for the totals of 500 UUIDs takes 20 KiB."""
    closing_ms: Count = 1_000
    """How long a stopping daemon goes on taking requests, each answer asking its client to connect elsewhere; less when
    none comes."""
    drain_timeout_s: Count = 10
    """How long a stopping worker may then take to answer what it has accepted; after that it is killed."""


class RedisSection(Section, frozen=True):
    url: str = ""
    timeout_ms: Count = 2_000
    """A call not answered by then has an unknown outcome; its connection is dropped."""
    reconnect_ms: Count = 200
    """After a failed connect, requests are refused without a new attempt for this long."""
    shards: Annotated[int, Meta(ge=1, le=16_384)] = 1
    """Scope of dedupe and unit of flushing: 1 on a single server. Fixed once data exists (`anl:layout`)."""


class MongoSection(Section, frozen=True):
    url: str = ""
    timeout_ms: Count = 20_000
    """Bound on one write or read, server selection included."""


class MysqlSection(Section, frozen=True):
    url: str = ""
    """Empty: no replica columns are written."""
    timeout_ms: Count = 10_000
    lock_timeout_s: Count = 5
    """How long to wait for another flusher's advisory lock before trying again later."""
    rows_max: Annotated[int, Meta(ge=1, le=50_000)] = 5_000
    """Rows of one UPDATE."""


class RateLimit(Section, frozen=True):
    per_minute: CountOrOff = 60
    """Requests of one client address in a minute, counted from its first; 0: no limit."""
    blocked_addresses_max: Count = 65_536
    """Addresses over their limit that a worker remembers, so that it can refuse them without asking Redis."""


class Producers(Section, frozen=True):
    keys: dict[Name, ProducerKey] = {}
    """Name of a trusted producer → the key it sends as `X-Tallyd-Key`; it is exempt from the rate limit."""


class Ingest(Section, frozen=True):
    queue_events_max: Count = 20_000
    """Events of one worker that wait for a Lua call; over it 503."""
    call_events_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Events of one Lua call; a larger batch takes several. A call holds Redis up for 4 to 7 µs an event."""
    calls_in_flight_max: Annotated[int, Meta(ge=1, le=64)] = 2
    retry_after_s: Count = 1
    """What a 503 tells the client to wait."""
    future_max_s: CountOrOff = 300
    """Further ahead of the server's clock than this, an event is counted under the server's time."""
    max_age_s: CountOrOff = 0
    """Older than this, an event is refused (422); 0: any age is accepted."""
    slice_us: Annotated[int, Meta(ge=0, le=100_000)] = 100
    """How long Linux (6.12 and later) lets a worker run before it looks at who waits for the core. With less than the
    kernel's own 1,400 or more, worker and Redis answer each other at once where they share cores. 0: the kernel's own;
    less than 100 is 100. Read at the start."""


class Dedupe(Section, frozen=True):
    window_s: Annotated[int, Meta(ge=1, le=30 * 86_400)] = 172_800
    """A second delivery within this many seconds is recognised (within at most twice as many)."""
    events_per_window: Count = 10_000_000
    """What the first window's memory is laid out for; later windows follow what the one before them saw."""


class SpoolSection(Section, frozen=True):
    """Where events wait while Redis does not take them."""

    dir: str = ".tallyd/spool"
    """Folder on a local disk, shared by the workers of one machine; empty: no spool, 503 instead."""
    bytes_max: Annotated[int, Meta(ge=1_048_576)] = 1_073_741_824
    """Most bytes the folder may hold; over it 503. About 90 bytes an event."""
    segment_bytes: Annotated[int, Meta(ge=65_536, le=268_435_456)] = 16_777_216
    """A file this large is closed and another begun. A replay holds one in memory."""
    probe_ms: Count = 500
    """How often a worker that spools asks whether Redis takes events again, and looks for segments others left."""
    replay_call_events_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Events of one Lua call of a replay: small, so that new events wait little behind it."""


class Flush(Section, frozen=True):
    threshold: Count = 500
    """Dirty entities of a shard that start a flush at once."""
    interval_s: Annotated[float, Meta(gt=0, le=86_400)] = 5.0
    """The longest a counted event waits for a flush to start."""
    poll_ms: Count = 250
    """How often the flusher looks at the number of dirty entities."""
    claim_entities_max: Annotated[int, Meta(ge=1, le=20_000)] = 5_000
    claim_fields_max: Annotated[int, Meta(ge=1, le=100_000)] = 20_000
    """Counter-days in one claim; an entity that holds more is in several."""
    claim_us_max: Count = 500
    """Microseconds after which one script of a claim stops taking more: how long it may keep Redis from everyone else.
    A claim is made by as many scripts as it takes, and others get in between."""
    lease_ms: Count = 10_000
    """A claim that is not acknowledged by then may be taken over by another flusher."""
    retry_ms: Count = 500
    """First pause after a failed flush; doubled up to `retry_max_ms`."""
    retry_max_ms: Count = 10_000
    stop_timeout_s: Count = 10
    """How long a stopping flusher may take to finish the claim under way; after that it is left, whole, to the next."""
    niceness: Annotated[int, Meta(ge=0, le=19)] = 10
    """By how much the flusher gives way to the ingest daemon where they share cores (nice(2)); read at the start. Where
    systemd gives each service a share of its own, the unit's CPUWeight= decides."""
    metrics_port: PortOrOff = 0
    """Where the flusher serves /metrics on loopback; 0: nowhere."""


class Retention(Section, frozen=True):
    """How long the fine rollups are kept; `tallyd expire` gives up what is older. Totals, months and years stay."""

    daily_days: CountOrOff = 0
    """Days that `daily` reaches back, today included; 0: for ever."""
    weekly_weeks: CountOrOff = 0
    """Weeks that `weekly` reaches back, this one included; 0: for ever."""


class ActionSection(Section, frozen=True):
    value_min: Annotated[int, Meta(ge=1, le=VALUE_MAX)] = 1
    value_max: Annotated[int, Meta(ge=1, le=VALUE_MAX)] = 100
    counters: dict[Name, Step] = {}
    """Counter → "one" (moved by 1) or "value" (by the event's value). Empty: the counter of the action's own name, by
    the value."""


class DomainSection(Section, frozen=True):
    entity_types: Annotated[tuple[Name, ...], Meta(min_length=1)]
    actions: tuple[Name, ...] = ()
    """Empty: every configured action."""


class ReplicaTable(Section, frozen=True):
    """Where the totals of one entity type are copied to."""

    table: SqlName
    key: SqlName
    """The column that holds the entity id; unique."""
    columns: Annotated[dict[Name, SqlName], Meta(min_length=1)]
    """Counter → column."""
    label: SqlName | None = None
    """A column people know the rows by, shown beside the key in reports."""
    shadow: dict[Name, SqlName] = {}
    """Counter → the column the application still counts in by itself; see `tallyd shadow-compare`."""
    enrich: tuple[SqlName, ...] = ()
    """Columns that a top list shows beside the counts (`enrich=1`)."""


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
    """Regular expression searched for in the path (as logged, query string cut off)."""
    domain: str
    """This and the next three may hold `{0}`, the whole path, and `{1}` or `{name}`, a group of the pattern."""
    entity_type: str
    entity_id: str
    action: str
    methods: tuple[str, ...] | None = None
    """These three default to those of the section."""
    statuses: tuple[Status, ...] | None = None
    bots: Bots | None = None


class Import(Section, frozen=True):
    methods: tuple[str, ...] = ("GET",)
    statuses: tuple[Status, ...] = (200, 304)
    bots: Bots = "skip"
    """Whether requests of programs (see `bot_pattern`) count."""
    bot_pattern: str = BOT_PATTERN
    """Regular expression searched for in the user agent; a log without user agents has no bots."""
    routes: tuple[ImportRoute, ...] = ()
    line_bytes_max: Annotated[int, Meta(ge=64, le=16_777_216)] = 65_536
    """A longer line is rejected."""
    call_events_max: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Events sent in one Lua call, and between two checkpoints."""
    calls_in_flight_max: Annotated[int, Meta(ge=1, le=16)] = 2
    """Calls Redis works on while the next lines are read; one of each shard counts as one."""
    store_wait_ms_max: Count = 60_000
    """How long to go on asking a Redis that does not answer before the import stops."""


class Read(Section, frozen=True):
    """What the ingest daemon answers to GET. It takes `mongo.url`, and for exact totals `redis.url`."""

    enabled: bool = True
    """False: 404."""
    key: Annotated[str, Meta(max_length=255, pattern=r"\A(?:[!-~]{16,})?\Z")] = ""
    """Who reads sends it as `X-Tallyd-Key` or `Authorization: Bearer`; else 401. Empty: anyone may read."""
    cors_origins: tuple[Annotated[str, Meta(pattern=r"\A(?:\*|https?://[!-.0-~]+)\Z")], ...] = ()
    """Pages of these origins may read from a browser; "*": of any."""
    timeout_ms: Count = 2_000
    """Bound on one query of totals, lists and series; over it 503."""
    sum_timeout_ms: Count = 10_000
    """Bound on one query that adds documents up: a summary's days, a top list the indexes say too little for."""
    reads_in_flight_max: Count = 1_024
    """Reads of one worker that wait for a store; over it 503. What is cached is answered all the same."""
    retry_after_s: Count = 1
    """What a 503 tells the client to wait."""
    cache_bytes_max: Annotated[int, Meta(ge=1_048_576)] = 67_108_864
    """Most bytes of one worker's cached answers."""
    cache_ttl_ms: CountOrOff = 1_000
    """How old cached totals and series may get; 0: they are not cached."""
    top_cache_ttl_ms: CountOrOff = 10_000
    """The same for top lists and summaries."""
    closed_day_ttl_s: Count = 3_600
    """How long a summary remembers the sums of a day before yesterday, which only late events change."""
    ids_max: Annotated[int, Meta(ge=1, le=500)] = 500
    """Most entities of one request for totals; over it 422."""
    top_limit_max: Annotated[int, Meta(ge=1, le=100)] = 100
    """Longest top list; over it 422."""
    series_points_max: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    """Most points of one series; over it 422."""
    top_windows: tuple[Window, ...] = WINDOWS
    """Windows a top list can be about. Those of days need indexes on the daily documents, `year` on the yearly ones,
    which the flusher then keeps."""


class Log(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


_SCHEMES = {"redis": ("redis", "rediss", "unix"), "mongo": ("mongodb", "mongodb+srv"), "mysql": ("mysql", "mariadb")}
_ACTIONS_BUILT_IN = {"view": ActionSection(), "download": ActionSection()}
_DOMAIN_DEFAULT = {"jav": DomainSection(entity_types=("movie", "actor", "tag"), actions=("view", "download"))}
_REPLICA_DEFAULT = {
    "jav": {
        "movie": ReplicaTable(table="jav", key="uuid", columns={"view": "views", "download": "downloads"}, label="code")
    }
}


class Config(Section, frozen=True):
    """Everything tallyd can be told. See `ops/tallyd.example.toml` for a file with every key."""

    enabled: bool = True
    """The rollback switch: false answers every event 202 and stores nothing, and writes no column of MySQL: they are
    the application's then."""
    http: Http = field(default_factory=Http)
    redis: RedisSection = field(default_factory=RedisSection)
    mongo: MongoSection = field(default_factory=MongoSection)
    mysql: MysqlSection = field(default_factory=MysqlSection)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    producers: Producers = field(default_factory=Producers)
    ingest: Ingest = field(default_factory=Ingest)
    dedupe: Dedupe = field(default_factory=Dedupe)
    spool: SpoolSection = field(default_factory=SpoolSection)
    flush: Flush = field(default_factory=Flush)
    retention: Retention = field(default_factory=Retention)
    read: Read = field(default_factory=Read)
    log: Log = field(default_factory=Log)
    import_: Import = field(default_factory=Import, name="import")
    actions: dict[Name, ActionSection] = field(default_factory=dict)
    """Added to the built-in `view` and `download`, which may be redefined here."""
    domains: dict[Name, DomainSection] = field(default_factory=lambda: dict(_DOMAIN_DEFAULT))
    """Given here, they replace the default domain `jav`."""
    replica: dict[Name, dict[Name, ReplicaTable]] = field(default_factory=dict)
    """Domain → entity type → table. Default: `jav.movie`, when the domains are the default ones."""


def load(path: Path | None = None, *, data: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads and checks the configuration.

    `path`: the file; else `TALLYD_CONFIG`; else `tallyd.toml` if there is one. `data`: the folder of the embedded stack
    whose stores to use; without it and without a configured store, `./.tallyd`.

    Raises ConfigError with every problem found.
    """
    raw = _read_file(path, environ)
    problems = _apply_environ(raw, environ)
    _apply_stack(raw, data)
    config, wrong = _decode(raw)
    problems += wrong
    if config is not None:
        problems += _cross_check(config)
    if problems or config is None:
        raise ConfigError("The configuration is wrong:\n" + "\n".join(f"  {problem}" for problem in problems))
    return config


def masked(config: Config) -> dict[str, Any]:
    """The effective values as plain data, with passwords and producer keys replaced by `***`."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    for store in ("redis", "mongo", "mysql"):
        url = re.sub(r"(://[^:/@]*:).*@", r"\1***@", plain[store]["url"])
        plain[store]["url"] = re.sub(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", r"\1***", url)
    plain["read"]["key"] = "***" if config.read.key else ""
    plain["producers"]["keys"] = dict.fromkeys(plain["producers"]["keys"], "***")
    return plain


def require(config: Config, *stores: Literal["redis", "mongo", "mysql"]) -> None:
    """Raises ConfigError naming each of these stores that has no address."""
    missing = [f"  {store}.url: not set" for store in stores if not getattr(config, store).url]
    if missing:
        raise ConfigError(
            "No address for:\n" + "\n".join(missing) + "\nSet it in the file or as TALLYD_<STORE>__URL, or name an"
            " embedded stack with --data DIR (`tallyd stack up --data DIR` starts one)."
        )


def _read_file(path: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    named = path or (Path(environ[ENV_CONFIG]) if environ.get(ENV_CONFIG) else None)
    if named is None and not FILE_DEFAULT.exists():
        return {}
    file = named or FILE_DEFAULT
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration file {file}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {file} is not TOML: {error}.") from None


def _apply_environ(raw: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Writes each `TALLYD_A__B=x` into `raw` as `a.b`; what starts like a JSON list or object is read as one, unless
    the key wants text."""
    problems = []
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable.startswith(ENV_STACK_PREFIX) or variable in ENV_NOT_KEYS:
            continue
        *tables, key = variable[len(ENV_PREFIX) :].lower().split("__")
        target: Any = raw
        for table in tables:
            target = target.setdefault(table, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            problems.append(f"{variable}: {'.'.join(tables)} is not a table")
            continue
        text = environ[variable]
        is_json = text[:1] in ("[", "{") and not _wants_text((*tables, key))
        try:
            target[key] = msgspec.json.decode(text) if is_json else _FromEnviron(text)
        except msgspec.DecodeError as error:
            problems.append(f"{variable}: not JSON: {error}")
    return problems


def _wants_text(path: Iterable[str]) -> bool:
    """Whether the key at this path is a string."""
    kind: Any = Config
    for name in path:
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, Section):
            hints = get_type_hints(kind, include_extras=True)
            kind = next((hints[each.name] for each in msgspec.structs.fields(kind) if each.encode_name == name), None)
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else None
    return _bare(kind) is str


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


class _FromEnviron(str):
    """Text of an environment variable: read as a number or a boolean where the key wants one."""

    __slots__ = ()


def _apply_stack(raw: dict[str, Any], data: Path | None) -> None:
    """Fills in the stores' addresses from the embedded stack's `stack.json`, and puts the spool beside it."""
    stores = ("redis", "mongo", "mysql")
    if data is None:
        if any(isinstance(raw.get(s), dict) and raw[s].get("url") for s in stores):
            return
        data = DATA_DEFAULT
        if not (data / "stack.json").exists():
            return
    try:
        addresses = msgspec.json.decode((data / "stack.json").read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise ConfigError(
            f"No embedded stack is up in {data}: start one with `tallyd stack up --data {data}`."
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"Cannot read {data / 'stack.json'}: {error}.") from None
    for store in stores:
        section = raw.setdefault(store, {})
        if isinstance(section, dict):
            section["url"] = addresses.get(store, "")
    spool = raw.setdefault("spool", {})
    if isinstance(spool, dict):
        spool.setdefault("dir", str(data / "spool"))


def _decode(raw: dict[str, Any]) -> tuple[Config | None, list[str]]:
    problems = list(_problems(raw, Config, ""))
    return (None, problems) if problems else (msgspec.convert(_plain(raw), Config, strict=False), [])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, _FromEnviron) else value


def _problems(value: Any, kind: Any, key: str) -> Iterator[str]:
    """Every problem of a value against its type; msgspec alone would stop at the first one."""
    bare = _bare(kind)
    if isinstance(bare, type) and issubclass(bare, Section):
        yield from _table_problems(value, bare, key)
    elif get_origin(bare) is dict and isinstance(value, dict):
        name_kind, inner_kind = get_args(bare)
        for name, inner in value.items():
            yield from _problems(name, name_kind, f"{key}.{name}")
            yield from _problems(inner, inner_kind, f"{key}.{name}")
        if not value:
            yield from _convert_problem(value, kind, key)
    elif get_origin(bare) is tuple and isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _problems(inner, get_args(bare)[0], f"{key}[{index}]")
    else:
        yield from _convert_problem(value, kind, key)


def _table_problems(value: Any, section: type[Section], key: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{key}: must be a table"
        return
    prefix = f"{key}." if key else ""
    kinds = get_type_hints(section, include_extras=True)
    known = {spec.encode_name: (kinds[spec.name], spec.required) for spec in msgspec.structs.fields(section)}
    for name in sorted(value.keys() - known.keys()):
        yield f"{prefix}{name}: unknown key; known here: {', '.join(sorted(known))}"
    for name, (kind, required) in known.items():
        if name in value:
            yield from _problems(value[name], kind, f"{prefix}{name}")
        elif required:
            yield f"{prefix}{name}: missing"


def _convert_problem(value: Any, kind: Any, key: str) -> Iterator[str]:
    try:
        msgspec.convert(_plain(value), kind, strict=not isinstance(value, _FromEnviron))
    except msgspec.ValidationError as error:
        yield f"{key}: {error}"


def effective_actions(config: Config) -> dict[str, ActionSection]:
    """The configured actions over the built-in ones, with each one's counters filled in."""
    merged = {**_ACTIONS_BUILT_IN, **config.actions}
    return {
        name: action if action.counters else msgspec.structs.replace(action, counters={name: "value"})
        for name, action in merged.items()
    }


def domain_actions(config: Config, domain: str) -> tuple[str, ...]:
    """The names of the actions a domain takes."""
    return config.domains[domain].actions or tuple(effective_actions(config))


def domain_counters(config: Config, domain: str) -> tuple[str, ...]:
    """Every counter a domain's actions move, sorted."""
    actions = effective_actions(config)
    return tuple(sorted({c for name in domain_actions(config, domain) for c in actions[name].counters}))


def chosen_tables(config: Config, types: list[str] | None = None) -> dict[tuple[str, str], ReplicaTable]:
    """Those of the mapped tables whose entity types `--type` names ("jav.movie"); without any, all of them. Raises
    ConfigError if nothing is mapped, or a type named is not."""
    tables = replica_tables(config)
    by_name = {f"{domain}.{kind}": (domain, kind) for domain, kind in tables}
    if not by_name:
        raise ConfigError(
            "No entity type is mapped to a table: name the table, its key and its columns in [replica.DOMAIN.TYPE] of"
            " the configuration (see ops/tallyd.example.toml)."
        )
    unknown = [name for name in types or () if name not in by_name]
    if unknown:
        raise ConfigError(f"--type: {', '.join(unknown)} is mapped to no table; mapped: {', '.join(by_name)}.")
    return {by_name[name]: tables[by_name[name]] for name in types or by_name}


def replica_tables(config: Config) -> dict[tuple[str, str], ReplicaTable]:
    """(domain, entity type) → table, for every mapped type; empty without MySQL."""
    if not config.mysql.url:
        return {}
    mapping = config.replica or (_REPLICA_DEFAULT if config.domains == _DOMAIN_DEFAULT else {})
    return {(domain, kind): table for domain, kinds in mapping.items() for kind, table in kinds.items()}


def ranked_kinds(config: Config) -> tuple[Kind, ...]:
    """The rollups that keep top lists: totals always, the others for the windows the read API offers."""
    windows = config.read.top_windows if config.read.enabled else ()
    wanted = {TOTALS, *map(kind_of, windows)}
    return tuple(kind for kind in KINDS if kind in wanted)


def _cross_check(config: Config) -> list[str]:
    """Problems no single key shows."""
    problems = []
    actions = effective_actions(config)
    for name, action in actions.items():
        if action.value_min > action.value_max:
            problems.append(f"actions.{name}: value_min {action.value_min} is above value_max {action.value_max}")
        problems += [
            f"actions.{name}.counters.{counter}: a rollup document uses this name itself; choose another"
            for counter in action.counters
            if counter in RESERVED
        ]
    for domain, section in config.domains.items():
        problems += [
            f"domains.{domain}.actions: there is no action {name!r}; known: {', '.join(sorted(actions))}"
            for name in section.actions
            if name not in actions
        ]
    if not problems:
        problems += _replica_problems(config)
    problems += _import_problems(config)
    problems += _url_problems(config)
    if config.ingest.queue_events_max < config.http.batch_events_max:
        problems.append("ingest.queue_events_max: below http.batch_events_max, so a full batch would never fit")
    if config.flush.retry_ms > config.flush.retry_max_ms:
        problems.append("flush.retry_ms: above flush.retry_max_ms")
    return problems


def _url_problems(config: Config) -> Iterator[str]:
    for store, schemes in _SCHEMES.items():
        url: str = getattr(config, store).url
        if not url:
            continue
        try:
            parts = urlsplit(url)
            hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
            named = all(host.hostname and (host.port is None or host.port) for host in hosts)
        except ValueError:  # its text may hold a part of the password
            yield f"{store}.url: is no address; percent-encode what is special in a user name or password"
            continue
        if parts.scheme not in schemes:
            yield f"{store}.url: must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
        elif not (named or parts.scheme == "unix"):
            yield f"{store}.url: names no host"
        elif store == "mysql" and not parts.path.strip("/"):
            yield "mysql.url: names no database; must look like mysql://user:password@host:3306/database"


def _replica_problems(config: Config) -> Iterator[str]:
    for domain, kinds in config.replica.items():
        for kind, table in kinds.items():
            key = f"replica.{domain}.{kind}"
            if domain not in config.domains or kind not in config.domains[domain].entity_types:
                yield f"{key}: there is no such domain and entity type"
                continue
            for counter in table.columns:
                if counter not in domain_counters(config, domain):
                    yield f"{key}.columns.{counter}: domain {domain!r} has no such counter"
            for counter, column in table.shadow.items():
                if counter not in table.columns:
                    yield f"{key}.shadow.{counter}: is not among the columns, so there is nothing to compare it with"
                elif column in table.columns.values():
                    yield f"{key}.shadow.{counter}: tallyd writes column {column!r} itself"


def _import_problems(config: Config) -> Iterator[str]:
    try:
        re.compile(config.import_.bot_pattern)
    except re.error as error:
        yield f"import.bot_pattern: not a regular expression: {error}"
    for index, route in enumerate(config.import_.routes):
        yield from _route_problems(config, route, f"import.routes[{index}]")


def _route_problems(config: Config, route: ImportRoute, key: str) -> Iterator[str]:
    try:
        pattern = re.compile(route.pattern)
    except re.error as error:
        yield f"{key}.pattern: not a regular expression: {error}"
        return
    groups = {str(number) for number in range(pattern.groups + 1)} | set(pattern.groupindex)
    for name in ("domain", "entity_type", "entity_id", "action"):
        yield from (f"{key}.{name}: {problem}" for problem in _template_problems(getattr(route, name), groups))
    domain = config.domains.get(route.domain)
    if domain is None:
        if "{" not in route.domain:
            yield f"{key}.domain: there is no domain {route.domain!r}; known: {', '.join(sorted(config.domains))}"
        return
    for name, known in (("entity_type", domain.entity_types), ("action", domain_actions(config, route.domain))):
        chosen = getattr(route, name)
        if "{" not in chosen and chosen not in known:
            yield f"{key}.{name}: domain {route.domain!r} has no {chosen!r}; known: {', '.join(sorted(known))}"


def _template_problems(template: str, groups: set[str]) -> Iterator[str]:
    try:
        fields = [(field, spec, conversion) for _, field, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        yield f"{template!r}: {error}"
        return
    for name, spec, conversion in fields:
        if spec or conversion:
            yield f"{template!r}: only {{name}} and {{number}}, nothing behind the name"
        elif name is not None and name not in groups:
            known = ", ".join(f"{{{group}}}" for group in sorted(groups))
            yield f"{template!r}: there is no {{{name}}}; known: {known}"
