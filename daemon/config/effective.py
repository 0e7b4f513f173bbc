"""What follows from a Config: the actions, counters and tables in force, and the values that may be shown.

Who calls it: everyone who needs more than a single value. Pure; it opens no connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from daemon.config.keyfile import at_rest
from daemon.config.schema import (
    ACTIONS_BUILT_IN,
    DOMAINS_DEFAULT,
    DOMAINS_OF_STACK,
    REPLICA_DEFAULT,
    ActionSection,
    Config,
    Key,
    ReplicaTable,
    keys_of,
    section_of,
)
from daemon.config.stack import DATA_DEFAULT, is_down, stopped
from daemon.config.url import masked_url
from daemon.domain.rollup import COMPLETE, KINDS, Kind
from daemon.domain.window import ROLLING, WINDOWS, Window, kinds_of
from daemon.errors import ConfigError

NOTHING_MAPPED = (
    "mysql.url is set, but no entity type is mapped: no column is written. Add [replica.DOMAIN.TYPE] to the"
    " configuration, or leave mysql.url empty"
)
"""The built-in mapping holds only while the domains are the built-in ones. One more domain or type ends it."""


def effective_actions(config: Config) -> dict[str, ActionSection]:
    """The configured actions over the built-in ones, with each one's counters filled in."""
    merged = {**ACTIONS_BUILT_IN, **config.actions}
    return {
        name: action if action.counters else msgspec.structs.replace(action, counters={name: "value"})
        for name, action in merged.items()
    }


def domain_actions(config: Config, domain: str) -> tuple[str, ...]:
    """The names of the actions a domain takes."""
    return config.domains[domain].actions or tuple(effective_actions(config))


def valued_actions(config: Config) -> frozenset[str]:
    """The actions whose value says something: one of their counters was given as "value"."""
    return frozenset(name for name, action in config.actions.items() if "value" in action.counters.values())


def robot_counter(counter: str) -> str:
    """What an event of a robot moves in place of a counter, if robots are counted apart."""
    return f"{counter}_robot"


def raw_counter(counter: str) -> str:
    """What every event moves beside a counter, if repetitions of visitors don't move that."""
    return f"{counter}_raw"


def moved_counters(config: Config, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Every counter that these actions move, or all actions, sorted."""
    actions = effective_actions(config)
    moved = [actions[name] for name in (actions if names is None else names)]
    counters = {counter for action in moved for counter in action.counters}
    raw = {raw_counter(counter) for action in moved if action.visitor_window_s for counter in action.counters}
    robots = set(map(robot_counter, counters)) if config.browser.robots == "apart" else set()
    return tuple(sorted(counters | raw | robots))


def has_windows(config: Config) -> bool:
    """Whether an action does not count what its visitors repeat."""
    return any(action.visitor_window_s for action in effective_actions(config).values())


def domain_counters(config: Config, domain: str) -> tuple[str, ...]:
    """Every counter a domain's actions move, sorted."""
    return moved_counters(config, domain_actions(config, domain))


def hourly_domains(config: Config) -> frozenset[str]:
    """The domains that count by hours, too."""
    return frozenset(name for name, section in config.domains.items() if section.hourly)


def kept_kinds(config: Config) -> tuple[Kind, ...]:
    """The rollups that the domains have."""
    return KINDS if hourly_domains(config) else COMPLETE


def replica_tables(config: Config) -> dict[tuple[str, str], ReplicaTable]:
    """(domain, entity type) → table, for every mapped type; empty without MySQL."""
    if not config.mysql.url:
        return {}
    are_default = config.domains in (DOMAINS_DEFAULT, DOMAINS_OF_STACK)
    mapping = config.replica or (REPLICA_DEFAULT if are_default else {})
    return {(domain, kind): table for domain, kinds in mapping.items() for kind, table in kinds.items()}


def unmapped_types(config: Config) -> list[str]:
    """The entity types without a table ("jav.actor"), while `mysql.url` is set."""
    if not config.mysql.url:
        return []
    tables = replica_tables(config)
    return [
        f"{name}.{kind}"
        for name, domain in config.domains.items()
        for kind in domain.entity_types
        if (name, kind) not in tables
    ]


def chosen_tables(config: Config, types: list[str] | None = None) -> dict[tuple[str, str], ReplicaTable]:
    """The mapped tables of the entity types that `--type` names ("jav.movie"); without any, all of them. Raises
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


def producer_names(config: Config) -> set[str]:
    """Every producer that has a key."""
    return {*config.producers.keys, *(entry.name for entry in config.keys.entries if entry.kind == "producer")}


def reads_are_keyed(config: Config) -> bool:
    """Whether readers need a key. An expired one counts: with the last key reading ends, and does not become public."""
    return bool(key_hashes(config, "reader"))


def key_hashes(config: Config, kind: Literal["reader", "operator"]) -> dict[str, str]:
    """The hash of each reader's or operator's key → the first day on which it is refused, or ""."""
    hashes = {entry.hash: entry.expires for entry in config.keys.entries if entry.kind == kind}
    if key := config.read.key if kind == "reader" else config.dashboard.key:
        hashes[at_rest(key)] = ""
    return hashes


def signs(config: Config) -> bool:
    """Whether a request may come with a signature in place of a key. An expired one counts: it is refused, too."""
    return any(entry.secret for entry in config.keys.entries)


def ranked_kinds(config: Config) -> tuple[Kind, ...]:
    """The rollups that keep top lists: totals always, the others for the windows the read API offers."""
    return kinds_of(("total", *(offered_windows(config) if config.read.enabled else ())))


def offered_windows(config: Config, domain: str = "") -> tuple[Window, ...]:
    """The windows that a top list of this domain can be about; of any domain, if it is ""."""
    hourly = hourly_domains(config)
    has_hours = domain in hourly if domain else bool(hourly)
    offered = [window for window in WINDOWS if window in config.read.top_windows]
    return tuple(window for window in offered if window != ROLLING or has_hours) or WINDOWS[:1]


def require(config: Config, *stores: Literal["redis", "mongo", "mysql"]) -> None:
    """Raises ConfigError naming each of these stores that has no address."""
    missing = [f"  {store}.url: not set" for store in stores if not getattr(config, store).url]
    if missing and len(missing) == len(stores) and is_down(DATA_DEFAULT):
        raise ConfigError(stopped(DATA_DEFAULT))
    if missing:
        raise ConfigError(
            "No address for:\n" + "\n".join(missing) + "\nSet it in the file or as TALLYD_<STORE>__URL, or name an"
            " embedded stack with --data DIR (`tallyd stack up --data DIR` starts one)."
        )


def masked(config: Config) -> dict[str, Any]:
    """The effective values as plain data, with passwords and keys replaced by `***`."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    for name, table in keys_of(Config).items():
        section = section_of(table.kind)
        for key in keys_of(section).values() if section else ():
            plain[name][key.name] = _masked(plain[name][key.name], key)
    return plain


def _masked(value: Any, key: Key) -> Any:
    if key.mask is None or not value:
        return value
    if key.mask == "all":
        return dict.fromkeys(value, "***") if isinstance(value, dict) else "***"
    return masked_url(value)
