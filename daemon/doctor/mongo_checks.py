"""Judges what a MongoDB said of itself. Plain functions; `CHECKS` is the list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from daemon.config import effective_actions, ranked_kinds
from daemon.doctor import version
from daemon.doctor.clock import NO_LIMIT_S, judge_clock
from daemon.doctor.finding import Verdict, fatal, known, ok, warning
from daemon.doctor.mongo_facts import MongoFacts, is_writable
from daemon.domain.rollup import KINDS, Kind
from daemon.rollups import dead_letters

VERSION_MIN = (4, 4, 0)
"""The driver talks to no older one."""
VERSION_TRIED = (6, 0, 0)
"""What the tests run on."""
DISK_WARN_PERCENT = 90

Keys = tuple[tuple[str, int], ...]


def release(facts: MongoFacts) -> Verdict:
    if version.parse(facts.release) < VERSION_MIN:
        return fatal(
            f"{facts.release}, older than {version.dotted(VERSION_MIN)}",
            "The driver does not talk to it.",
            "upgrade MongoDB, one major version at a time, to 6.0 or later",
        )
    if version.parse(facts.release) < VERSION_TRIED:
        return warning(
            f"{facts.release}, older than {version.dotted(VERSION_TRIED)}",
            "It should do, but tallyd's tests don't run on it, and it gets no security fixes any more.",
            "upgrade MongoDB, one major version at a time, to 6.0 or later",
        )
    return ok(facts.release)


def primary(facts: MongoFacts) -> Verdict:
    if is_writable(facts.hello):
        return ok(f"{_topology(facts)}, takes writes")
    elected = facts.hello.get("primary", "not elected")
    return fatal(
        f"{facts.hello.get('me', facts.address)} takes no writes; the primary is {elected}",
        "Nothing is flushed: counts pile up in Redis.",
        f"{_shell(facts, 'rs.status()')} shows why; mongo.url should name all members and the set: "
        f"mongodb://a,b,c/{facts.database}?replicaSet={facts.hello.get('setName', 'NAME')}",
    )


def write(facts: MongoFacts) -> Verdict:
    if facts.write_error is None and is_writable(facts.hello):
        return ok("one document was written with majority and journal, and removed")
    fix = f"{_shell(facts, 'rs.status()')} shows whether a majority of the members is there"
    if "authoriz" in (facts.write_error or ""):
        fix = _grant(facts)
    why = "Nothing is flushed: counts pile up in Redis."
    return fatal(facts.write_error or "not tried: this server takes no writes", why, fix)


def indexes(facts: MongoFacts) -> Verdict:
    missing, wrong, total = [], [], 0
    present = known(facts.indexes, _may_read(facts))
    for kind in KINDS:
        by_keys = {_keys(index): (name, index) for name, index in present[kind.collection].items()}
        for keys, unique in _wanted(facts, kind):
            total += 1
            name, index = by_keys.get(keys, ("", None))
            if index is None:
                missing.append(f"{kind.collection} ({', '.join(field for field, _ in keys)})")
            elif unique and not index.get("unique"):
                wrong.append((kind.collection, name))
    if wrong:
        collection, name = wrong[0]
        return fatal(
            f"not unique: {', '.join(f'{name} of {collection}' for collection, name in wrong)}",
            "The flusher wants it unique and fails to create it: nothing is flushed.",
            _shell(facts, f'db.{collection}.dropIndex("{name}")') + " && tallyd flush --once",
        )
    if missing:
        return warning(
            f"missing: {', '.join(missing)}" if len(missing) < total else f"none of the {total} is there",
            "Before the first flush that is as it should be. Later, top and series read whole collections.",
            "tallyd flush --once",
        )
    return ok(f"all {total} present, the natural keys unique")


def letters(facts: MongoFacts) -> Verdict:
    count = known(facts.dead_letters, _may_read(facts))
    if not count:
        return ok("none")
    return warning(
        f"{count} in {dead_letters.COLLECTION}",
        "Amounts that no document could take are in no rollup.",
        "tallyd dead list; once the reason is mended, tallyd dead retry --all",
    )


def storage(facts: MongoFacts) -> Verdict:
    stats = known(facts.storage, _may_read(facts)) or {}
    used, total = float(stats.get("fsUsedSize", 0)), float(stats.get("fsTotalSize", 0))
    if not total:
        return ok("the server does not tell how full its disk is")
    percent = 100 * used / total
    found = f"{percent:.0f} % of its disk used, {(total - used) / 2**30:,.1f} GiB free"
    if percent <= DISK_WARN_PERCENT:
        return ok(found)
    return warning(
        found, "A mongod whose disk is full stops: nothing is flushed.", "make room, or give it a larger disk"
    )


def clock(facts: MongoFacts) -> Verdict:
    return judge_clock(facts.clock, "tallyd doesn't use MongoDB's clock, but its logs and replication do.", NO_LIMIT_S)


CHECKS: Mapping[str, Callable[[MongoFacts], Verdict]] = {
    "mongo.version": release,
    "mongo.primary": primary,
    "mongo.write": write,
    "mongo.indexes": indexes,
    "mongo.dead_letters": letters,
    "mongo.storage": storage,
    "mongo.clock": clock,
}


def _topology(facts: MongoFacts) -> str:
    if facts.hello.get("msg") == "isdbgrid":
        return "a sharded cluster"
    if "setName" in facts.hello:
        members = len(facts.hello.get("hosts", ()))
        return f"replica set {facts.hello['setName']} of {members} member{'s' if members != 1 else ''}"
    return "a standalone server (journaled, but its disk is the only copy)"


def _wanted(facts: MongoFacts, kind: Kind) -> list[tuple[Keys, bool]]:
    """(keys, unique) of each index `MongoSink.ensure_indexes` creates; a test holds the two together."""
    natural = ["domain", "entity_type", "entity_id", *([kind.bucket_field] if kind.bucket_field else [])]
    wanted: list[tuple[Keys, bool]] = [(tuple((field, 1) for field in natural), True)]
    if kind in ranked_kinds(facts.config):
        bucket: Keys = ((kind.bucket_field, 1),) if kind.bucket_field else ()
        counters = sorted({c for action in effective_actions(facts.config).values() for c in action.counters})
        for counter in counters:
            of_type: Keys = (("domain", 1), ("entity_type", 1), *bucket)
            wanted += [((*of_type, (field, -1)), False) for field in (counter, f"base.{counter}")]
    return wanted


def _keys(index: Mapping[str, object]) -> Keys:
    keys = index["key"]
    assert isinstance(keys, list)
    return tuple((field, int(way) if isinstance(way, int | float) else 0) for field, way in keys)


def _may_read(facts: MongoFacts) -> str:
    return _grant(facts) if is_writable(facts.hello) else "see mongo.primary"


def _grant(facts: MongoFacts) -> str:
    return _shell(facts, 'db.grantRolesToUser("USER", ["readWrite"])')


def _shell(facts: MongoFacts, statement: str) -> str:
    base, _, _ = facts.address.partition("?")
    host = base.rpartition("/")[0] if base.count("/") > 2 else base
    return f"mongosh {host}/{facts.database} --eval '{statement}'"
