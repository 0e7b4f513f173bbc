"""Checks whether Redis keeps its data, in memory and on disk. Plain functions, listed in `redis_checks`."""

from __future__ import annotations

from daemon.doctor.finding import Verdict, fatal, ok, warning
from daemon.doctor.redis_facts import RedisFacts

MEMORY_WARN_PERCENT = 80
INTSET_ENTRIES_MIN = 512
"""A bucket of the dedupe memory can grow to this within a window (daemon/buffer/DESIGN.md)."""


FAILED_SNAPSHOT_FIX = "see its log for the reason (often sysctl vm.overcommit_memory=1 helps), then {cli} BGSAVE"


def eviction(facts: RedisFacts) -> Verdict:
    policy = str(facts.told("maxmemory_policy"))
    if policy == "noeviction":
        return ok(policy)
    return fatal(
        f"maxmemory-policy is {policy}",
        "When memory is short, Redis deletes keys: counts, or the ids of counted events.",
        f"{facts.cli} CONFIG SET maxmemory-policy noeviction && {facts.cli} CONFIG REWRITE",
    )


def append_only(facts: RedisFacts) -> Verdict:
    if not int(facts.told("aof_enabled")):
        save = facts.setting_or("save", "?")
        return warning(
            f"appendonly no; snapshots: {save or 'none'}",
            f"When Redis stops, {'counts since its last snapshot are' if save else 'all counts are'} lost."
            " With appendonly yes, at most 2 s of them are.",
            f"{facts.cli} CONFIG SET appendonly yes && {facts.cli} CONFIG REWRITE",
        )
    if facts.server.get("aof_last_write_status", "ok") != "ok":
        return fatal(
            "the last write to the append-only file failed",
            "Redis refuses every write until one succeeds: nothing is counted.",
            f"free space on the disk of {facts.setting_or('dir', 'its data directory')}; Redis then recovers by itself",
        )
    fsync = facts.setting("appendfsync")
    if fsync in ("always", "everysec"):
        at_risk = "nothing" if fsync == "always" else "at most 2 s of counts"
        return ok(f"appendonly yes, appendfsync {fsync}: {at_risk} at risk when Redis or the machine dies")
    return warning(
        f"appendfsync is {fsync}",
        "When the machine dies, the counts of up to 30 s are lost: the kernel writes them that late.",
        f"{facts.cli} CONFIG SET appendfsync everysec && {facts.cli} CONFIG REWRITE",
    )


def snapshots(facts: RedisFacts) -> Verdict:
    info = facts.server
    failed = info.get("rdb_last_bgsave_status", "ok") != "ok"
    if failed and facts.setting_or("save", "") and facts.setting_or("stop-writes-on-bgsave-error", "") == "yes":
        return fatal(
            "the last snapshot failed, and stop-writes-on-bgsave-error is yes",
            "Redis refuses every write until one succeeds: nothing is counted.",
            FAILED_SNAPSHOT_FIX.format(cli=facts.cli),
        )
    if failed:
        return warning(
            "the last snapshot failed",
            "The rewrite of the append-only file fails for the same reason: the file grows without bound.",
            FAILED_SNAPSHOT_FIX.format(cli=facts.cli),
        )
    save, stops = facts.setting("save"), facts.setting("stop-writes-on-bgsave-error") == "yes"
    if save and not stops and not int(facts.told("aof_enabled")):
        return warning(
            "stop-writes-on-bgsave-error is no, and there is no append-only file",
            "A full disk goes unnoticed until Redis restarts and has lost what it could not save.",
            f"{facts.cli} CONFIG SET stop-writes-on-bgsave-error yes && {facts.cli} CONFIG REWRITE",
        )
    return ok(f"save '{save}', stop-writes-on-bgsave-error {'yes' if stops else 'no'}; the last one succeeded")


def memory(facts: RedisFacts) -> Verdict:
    info = facts.server
    used, limit, name = int(facts.told("used_memory")), int(facts.told("maxmemory")), "maxmemory"
    if not limit:
        limit, name = int(info.get("total_system_memory", 0)), "the machine's memory (maxmemory is not set)"
    if not limit:
        return ok(f"{_mib(used)} used, maxmemory is not set")
    percent = 100 * used / limit
    found = f"{_mib(used)} used, {percent:.0f} % of {name}, {_mib(limit)}"
    if percent <= MEMORY_WARN_PERCENT:
        return ok(found)
    more = f"give it more: {facts.cli} CONFIG SET maxmemory {2 * used}"
    less = "or lower dedupe.window_s; or flush more often, if `tallyd status` shows many dirty entities"
    if percent < 100:
        return warning(found, "At 100 % Redis refuses to count. Events then go to the spool.", f"{more}; {less}")
    return fatal(found, "Redis refuses to count. Events go to the spool, or are answered 503.", f"{more}; {less}")


def intset(facts: RedisFacts) -> Verdict:
    entries = int(facts.setting("set-max-intset-entries"))
    if entries >= INTSET_ENTRIES_MIN:
        return ok(str(entries))
    return warning(
        f"set-max-intset-entries is {entries}, below {INTSET_ENTRIES_MIN}",
        "The sets of event ids turn into hash tables, which take seven times the memory.",
        f"{facts.cli} CONFIG SET set-max-intset-entries {INTSET_ENTRIES_MIN} && {facts.cli} CONFIG REWRITE",
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
