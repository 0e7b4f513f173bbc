"""Every problem of a configuration, each with its key: unknown and missing keys, wrong types and values, and values
that do not go together.

Who calls it: `load`. It says what is wrong, `load` says where; it shows no value that may be a secret.
"""

from __future__ import annotations

import datetime as dt
import difflib
import ipaddress
import json
import re
import string
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from daemon.config.effective import domain_actions, domain_counters, effective_actions, raw_counter, robot_counter
from daemon.config.keyfile import HASH_PREFIX
from daemon.config.schema import UNIX, Config, ImportRoute, Section, bare, bounds_of, extra_of, keys_of, section_of
from daemon.config.url import FORMS, problem_of
from daemon.domain.counter import NAME_PATTERN, RESERVED
from daemon.domain.id_rule import id_rule

KeyPath = tuple[str | int, ...]
"""Where a value stands: `("import", "routes", 0, "domain")`."""

_TYPES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list", dict: "a table",
}  # fmt: skip

_PATHS = (
    "/api/v1/analytics/",
    "/healthz/",
    "/livez/",
    "/readyz/",
    "/version/",
    "/metrics/",
    "/openapi.json/",
    "/analytics.",
    "/counts.js/",
    "/dashboard/",
)
"""How the paths of the ingest daemon begin, with a / at the end, and those of the tracker."""


class Problem(NamedTuple):
    path: KeyPath
    text: str


def dotted(path: KeyPath) -> str:
    """A path as messages show it: `import.routes[0].domain`."""
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in path).lstrip(".")


def check(raw: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    """The configuration, unless a value is wrong by itself, and every problem found."""
    problems = list(_table_problems(raw, Config, ()))
    if problems:
        return None, problems
    config = msgspec.convert(raw, Config)
    return config, list(_cross_problems(config))


def _table_problems(value: Any, section: type[Section], path: KeyPath) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield Problem(path, "must be a table")
        return
    known = keys_of(section)
    for name in sorted(value.keys() - known.keys()):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'did you mean "{near[0]}"? Known' if near else "known"
        yield Problem((*path, name), f"unknown key; {hint} here: {', '.join(sorted(known))}")
    for name, key in known.items():
        given = value.get(name, key.default)
        if given is msgspec.NODEFAULT:
            yield Problem((*path, name), "missing")
        elif name in value and not (given is None and key.default is None):  # null, in JSON from the environment
            yield from _value_problems(given, key.kind, (*path, name))


def _value_problems(value: Any, kind: Any, path: KeyPath) -> Iterator[Problem]:
    """Every problem of a value against its type; msgspec alone would stop at the first one."""
    section, plain = section_of(kind), bare(kind)
    if section is not None:
        yield from _table_problems(value, section, path)
    elif get_origin(plain) is dict and isinstance(value, dict) and value:
        name_kind, inner_kind = get_args(plain)
        for name, inner in value.items():
            yield from _value_problems(name, name_kind, (*path, name))
            yield from _value_problems(inner, inner_kind, (*path, name))
    elif get_origin(plain) is tuple and isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _value_problems(inner, get_args(plain)[0], (*path, index))
    elif not _fits(value, kind):
        yield Problem(path, _rule(value, kind))


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _rule(value: Any, kind: Any) -> str:
    """What a value of this type must be. It shows the value only if the type names the ones allowed."""
    plain = bare(kind)
    if get_origin(plain) is Literal:
        return f"invalid value {json.dumps(value, default=str)}; allowed: {', '.join(get_args(plain))}"
    if not _fits(value, plain):
        return f"must be {_TYPES[get_origin(plain) or plain]}"
    bounds = bounds_of(kind)
    return f"must be {bounds}" if bounds else extra_of(kind).get("rule", "must not be empty")


# Values that do not go together ---------------------------------------------------------------------------------------


def _cross_problems(config: Config) -> Iterator[Problem]:
    domains = list(_domain_problems(config))
    yield from domains
    if not domains:
        yield from _replica_problems(config)
    yield from _import_problems(config)
    yield from _key_problems(config)
    yield from _url_problems(config)
    for index, proxy in enumerate(config.http.trusted_proxies):
        if text := _proxy_problem(proxy):
            yield Problem(("http", "trusted_proxies", index), text)
    yield from _path_problems(config)
    if config.ingest.queue_events_max < config.http.batch_events_max:
        yield Problem(("ingest", "queue_events_max"), "below http.batch_events_max, so a full batch would never fit")
    if config.http.metrics_port == config.flush.metrics_port != 0:
        yield Problem(("flush", "metrics_port"), "is http.metrics_port, too, and one host may have both daemons")
    if config.dashboard.enabled and not config.read.enabled:
        yield Problem(("dashboard", "enabled"), "the page shows nothing with read.enabled = false")
    if config.redis.durability == "replicated" and not config.redis.replicas:
        yield Problem(("redis", "durability"), "replicated needs redis.replicas, and a Redis that has them")
    if config.flush.retry_ms > config.flush.retry_max_ms:
        yield Problem(("flush", "retry_ms"), "above flush.retry_max_ms")


def _path_problems(config: Config) -> Iterator[Problem]:
    """Of the paths that the configuration names: each is the daemon's only one of its kind."""
    browser = config.browser
    taken: dict[str, str] = {}
    for key in ("alias", "script", "pixel", "badge"):
        path: str = getattr(browser, key)
        paths = {path} if path else set()
        if path and key == "alias":
            paths.add(f"{path}/batch")
        if path and key == "script":
            paths.add(f"{path.rpartition('/')[0]}/counts.js")
        if path and (f"{path}/".startswith(_PATHS) or (key == "script" and path.endswith("/counts.js"))):
            yield Problem(("browser", key), f"{path} is or begins like a path that the daemon has already")
        yield from (
            Problem(("browser", key), f"{each} is a path of browser.{taken[each]} already")
            for each in sorted(paths & taken.keys())
        )
        taken |= dict.fromkeys(paths, key)
    if browser.pixel and config.ingest.require_key:
        yield Problem(("browser", "pixel"), "counts nothing with ingest.require_key, because an image sends no key")


def _domain_problems(config: Config) -> Iterator[Problem]:
    actions = effective_actions(config)
    for name, action in actions.items():
        if action.value_min > action.value_max:
            yield Problem(("actions", name), f"value_min {action.value_min} is above value_max {action.value_max}")
        for counter in action.counters:
            if counter in RESERVED:
                yield Problem(
                    ("actions", name, "counters", counter), "a rollup document uses this name itself; choose another"
                )
    yield from _twin_problems(config)
    for domain, section in config.domains.items():
        for name in section.actions:
            if name not in actions:
                known = ", ".join(sorted(actions))
                yield Problem(("domains", domain, "actions"), f"there is no action {name!r}; known: {known}")
        known = ", ".join(sorted(section.entity_types))
        for key in ("entity_id", "urls"):
            yield from (
                Problem(("domains", domain, key, kind), f"there is no such entity type; known: {known}")
                for kind in getattr(section, key)
                if kind not in section.entity_types
            )
        for kind, rule in section.entity_id.items():
            try:
                id_rule(rule)
            except ValueError as error:
                yield Problem(("domains", domain, "entity_id", kind), str(error))


def _twin_problems(config: Config) -> Iterator[Problem]:
    """Counters whose names tallyd makes of another's."""
    actions = effective_actions(config)
    own = {counter for action in actions.values() for counter in action.counters}
    for name, action in actions.items():
        for counter in action.counters:
            made = [raw_counter(counter)] if action.visitor_window_s else []
            made += [robot_counter(counter)] if config.browser.robots == "apart" else []
            path = ("actions", name, "counters", counter)
            for twin in made:
                if not re.match(NAME_PATTERN, twin):
                    yield Problem(path, f"there would be a counter {twin}, of more than 32 characters")
                if twin in own:
                    yield Problem(path, f"tallyd would count in {twin}, too")


def _replica_problems(config: Config) -> Iterator[Problem]:
    for domain, kinds in config.replica.items():
        for kind, table in kinds.items():
            path = ("replica", domain, kind)
            if domain not in config.domains or kind not in config.domains[domain].entity_types:
                yield Problem(path, "there is no such domain and entity type")
                continue
            for counter in table.columns:
                if counter not in domain_counters(config, domain):
                    yield Problem((*path, "columns", counter), f"domain {domain!r} has no such counter")
            for counter, column in table.shadow.items():
                shadow = (*path, "shadow", counter)
                if counter not in table.columns:
                    yield Problem(shadow, "is not among the columns, so there is nothing to compare it with")
                elif column in table.columns.values():
                    yield Problem(shadow, f"tallyd writes column {column!r} itself")


def _is_day(text: str) -> bool:
    """Only as 2027-01-31: days are compared as texts."""
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _url_problems(config: Config) -> Iterator[Problem]:
    for store in FORMS:
        url: str = getattr(config, store).url
        if url and (text := problem_of(store, url)):
            yield Problem((store, "url"), text)


def _key_problems(config: Config) -> Iterator[Problem]:
    actions = effective_actions(config)
    ids: set[str] = set()
    for index, entry in enumerate(config.keys.entries):
        path = ("keys", "entries", index)
        if entry.id in ids:
            yield Problem((*path, "id"), f"{entry.id} stands for another key, too")
        ids.add(entry.id)
        if bool(entry.hash) == bool(entry.secret):
            yield Problem(path, "needs one of hash and secret")
        if entry.kind != "producer" and (entry.secret or entry.domains or entry.actions or entry.events_per_minute):
            yield Problem(path, "only a producer's key has more than a hash and an expiry")
        yield from (
            Problem((*path, "domains"), f"there is no domain {name!r}")
            for name in entry.domains
            if name not in config.domains
        )
        yield from (
            Problem((*path, "actions"), f"there is no action {name!r}") for name in entry.actions if name not in actions
        )
        if entry.expires and not _is_day(entry.expires):
            yield Problem((*path, "expires"), "must be a day, as 2027-01-31")
    signs = any(entry.secret for entry in config.keys.entries)
    if signs and config.dedupe.window_s < 2 * config.keys.signature_window_s:
        yield Problem(
            ("keys", "signature_window_s"),
            "above half of dedupe.window_s, so a signed request that is sent again could count again",
        )
    given: dict[KeyPath, str] = {("producers", "keys", name): key for name, key in config.producers.keys.items()}
    given |= {("read", "key"): config.read.key, ("dashboard", "key"): config.dashboard.key}
    for place, key in given.items():
        if key.startswith(HASH_PREFIX) and not re.fullmatch(HASH_PREFIX + "[0-9a-f]{64}", key):
            yield Problem(place, "must be sha256: and 64 hex digits")


def _proxy_problem(proxy: str) -> str:
    if proxy == UNIX:
        return ""
    try:
        network = ipaddress.ip_network(proxy)
    except ValueError as error:
        return f'must be an address, a network like 10.0.0.0/8, or "{UNIX}": {error}'
    if network.prefixlen == 0:
        return "trusts every address, so any client could make up its own"
    return ""


def _import_problems(config: Config) -> Iterator[Problem]:
    try:
        re.compile(config.import_.bot_pattern)
    except re.error as error:
        yield Problem(("import", "bot_pattern"), f"not a regular expression: {error}")
    for index, route in enumerate(config.import_.routes):
        yield from _route_problems(config, route, ("import", "routes", index))


def _route_problems(config: Config, route: ImportRoute, path: KeyPath) -> Iterator[Problem]:
    try:
        pattern = re.compile(route.pattern)
    except re.error as error:
        yield Problem((*path, "pattern"), f"not a regular expression: {error}")
        return
    groups = {str(number) for number in range(pattern.groups + 1)} | set(pattern.groupindex)
    for name in ("domain", "entity_type", "entity_id", "action"):
        yield from (Problem((*path, name), text) for text in _template_problems(getattr(route, name), groups))
    domain = config.domains.get(route.domain)
    if domain is None:
        if "{" not in route.domain:
            known = ", ".join(sorted(config.domains))
            yield Problem((*path, "domain"), f"there is no domain {route.domain!r}; known: {known}")
        return
    for name, choice in (("entity_type", domain.entity_types), ("action", domain_actions(config, route.domain))):
        chosen = getattr(route, name)
        if "{" not in chosen and chosen not in choice:
            known = ", ".join(sorted(choice))
            yield Problem((*path, name), f"domain {route.domain!r} has no {chosen!r}; known: {known}")


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
