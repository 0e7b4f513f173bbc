"""Checks what MongoDB said about itself. Plain functions; `CHECKS` lists them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from daemon.config import kept_kinds, moved_counters, ranked_kinds
from daemon.doctor import version
from daemon.doctor.clock import NO_LIMIT_S, check_clock
from daemon.doctor.finding import Verdict, fatal, known, ok, warning
from daemon.doctor.mongo_facts import MongoFacts, is_writable
from daemon.domain.rollup import HOURLY, Kind
from daemon.rollups.collections import DEAD_LETTERS

VERSION_MIN = (4, 4, 0)
"""The driver supports no older one."""
VERSION_TRIED = (6, 0, 0)
"""The tests run on it."""
DISK_WARN_PERCENT = 90
NOT_FLUSHED = "Nothing is flushed: counts pile up in Redis."
UPGRADE = "upgrade MongoDB, one major version at a time, to 6.0 or later"
HOURS_LATE_DAYS = 10
"""So much older than `retention.hourly_days` an hour may be: it is quiet for a week before it goes, and `expire` runs
once a day."""
_MONITOR = 'db.getSiblingDB("admin").grantRolesToUser("USER", ["clusterMonitor"])'
"""The right to read a set's configuration."""

Keys = tuple[tuple[str, int], ...]


def release(facts: MongoFacts) -> Verdict:
    if version.parse(facts.release) < VERSION_MIN:
        found = f"{facts.release}, older than {version.dotted(VERSION_MIN)}"
        return fatal(found, "The driver does not support it.", UPGRADE)
    if version.parse(facts.release) < VERSION_TRIED:
        found = f"{facts.release}, older than {version.dotted(VERSION_TRIED)}"
        return warning(found, "tallyd is not tested on it, and it gets no security fixes any more.", UPGRADE)
    return ok(facts.release)


def primary(facts: MongoFacts) -> Verdict:
    if is_writable(facts.hello):
        return ok(f"{_topology(facts)}, takes writes")
    elected = facts.hello.get("primary", "not elected")
    return fatal(
        f"{facts.hello.get('me', facts.address)} takes no writes; the primary is {elected}",
        NOT_FLUSHED,
        f"{_shell(facts, 'rs.status()')} shows why; mongo.url should name all members and the set: "
        f"mongodb://a,b,c/{facts.database}?replicaSet={facts.hello.get('setName', 'NAME')}",
    )


def write(facts: MongoFacts) -> Verdict:
    if facts.write_error is None and is_writable(facts.hello):
        return ok("one document was written with majority and journal, and removed")
    fix = f"{_shell(facts, 'rs.status()')} shows whether a majority of the members is there"
    if "authoriz" in (facts.write_error or ""):
        fix = _grant(facts)
    return fatal(facts.write_error or "not tried: this server takes no writes", NOT_FLUSHED, fix)


def majority(facts: MongoFacts) -> Verdict:
    """Whether the set still acknowledges writes while one of its members with data is away."""
    if "setName" not in facts.hello:
        return ok("no replica set")
    # `hello` hides some members. Such a member can only add to what may be away.
    data, arbiters = len(facts.hello.get("hosts", ())), len(facts.hello.get("arbiters", ()))
    settings = facts.replica_set if isinstance(facts.replica_set, Mapping) else {}
    if data + arbiters > 1 and _spare(data, arbiters) < 1:
        settings = known(facts.replica_set, _shell(facts, _MONITOR))
        voters = [member for member in settings.get("members", ()) if member.get("votes", 1)]
        arbiters = sum(bool(member.get("arbiterOnly")) for member in voters)
        data = len(voters) - arbiters
    found = f"{data} with data, {arbiters} arbiter{'s' if arbiters != 1 else ''}"
    if not settings.get("writeConcernMajorityJournalDefault", True):
        # Tried on 6.0: while a secondary cannot write its journal, a majority is acknowledged then, and one with
        # `j: true` is not.
        found += "; writeConcernMajorityJournalDefault is off, but tallyd asks for the journal itself"
    if data < 2 or _spare(data, arbiters) > 0:
        return ok(found)
    return warning(
        f"{found}: a write needs all {data} members with data",
        "An arbiter stores nothing. While a member with data is away, nothing is flushed: counts pile up in Redis.",
        f"give the set a third member with data, in place of an arbiter: {_shell(facts, 'rs.conf()')} names them",
    )


def indexes(facts: MongoFacts) -> Verdict:
    missing, wrong, total = [], [], 0
    present = known(facts.indexes, _may_read(facts))
    for kind in kept_kinds(facts.config):
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
            "The flusher cannot create the unique index that it needs: nothing is flushed.",
            _shell(facts, f'db.{collection}.dropIndex("{name}")') + " && tallyd flush --once",
        )
    if missing:
        return warning(
            f"missing: {', '.join(missing)}" if len(missing) < total else f"none of the {total} is there",
            "Before the first flush this is normal. Later, top and series would read whole collections.",
            "tallyd flush --once",
        )
    return ok(f"all {total} are there, and the natural keys are unique")


def letters(facts: MongoFacts) -> Verdict:
    count = known(facts.dead_letters, _may_read(facts))
    if not count:
        return ok("none")
    return warning(
        f"{count} in {DEAD_LETTERS}",
        "These amounts are in no rollup: a document refused them.",
        "tallyd dead list; remove the reason; tallyd dead retry --all",
    )


def hours(facts: MongoFacts) -> Verdict:
    """Whether old hours are given up. Nothing does it but `tallyd expire`."""
    first, days = known(facts.first_hour, _may_read(facts)), facts.config.retention.hourly_days
    if first is None:
        return ok("none")
    now = dt.datetime.now(dt.UTC) - dt.timedelta(days=HOURS_LATE_DAYS)
    oldest = HOURLY.kept_from(now, {HOURLY.retention_key: days})
    if oldest is None or first >= oldest:
        return ok(f"they reach back to {first}")
    return warning(
        f"they reach back to {first}, and retention.hourly_days is {days}",
        "They are many: an entity has one for each hour in which it was counted. MongoDB grows by them.",
        "run `tallyd expire` each night: systemctl enable --now tallyd-expire.timer",
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
        found, "A mongod whose disk is full stops: nothing is flushed.", "free space, or give it a larger disk"
    )


def clock(facts: MongoFacts) -> Verdict:
    return check_clock(facts.clock, "MongoDB's logs and replication use its clock; tallyd does not.", NO_LIMIT_S)


CHECKS: Mapping[str, Callable[[MongoFacts], Verdict]] = {
    "mongo.version": release,
    "mongo.primary": primary,
    "mongo.write": write,
    "mongo.majority": majority,
    "mongo.indexes": indexes,
    "mongo.dead_letters": letters,
    "mongo.hours": hours,
    "mongo.storage": storage,
    "mongo.clock": clock,
}


def _spare(data: int, arbiters: int) -> int:
    """How many of a set's members with data may be away while writes are acknowledged."""
    return data - ((data + arbiters) // 2 + 1)


def _topology(facts: MongoFacts) -> str:
    if facts.hello.get("msg") == "isdbgrid":
        return "a sharded cluster"
    if "setName" in facts.hello:
        members = len(facts.hello.get("hosts", ()))
        return f"replica set {facts.hello['setName']} of {members} member{'s' if members != 1 else ''}"
    return "a standalone server (journaled, but its disk is the only copy)"


def _wanted(facts: MongoFacts, kind: Kind) -> list[tuple[Keys, bool]]:
    """(keys, unique) of each index that `MongoSink` creates. A test compares the two."""
    wanted: list[tuple[Keys, bool]] = [(tuple((field, 1) for field in kind.key_fields), True)]
    if kind in ranked_kinds(facts.config):
        of_type: Keys = tuple((field, 1) for field in kind.type_fields)
        for counter in moved_counters(facts.config):
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
