"""Checks what Redis said about itself. Plain functions; `CHECKS` lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from daemon.buffer.layout import Layout
from daemon.buffer.topology import SLOTS
from daemon.doctor import version
from daemon.doctor.clock import check_clock
from daemon.doctor.finding import Finding, Refusal, Verdict, fatal, known, ok, run_checks, warning
from daemon.doctor.redis_facts import Away, RedisFacts
from daemon.spool.origin import origin_of
from daemon.spool.segment import usage

VERSION_MIN = (6, 2, 0)
"""The first with HRANDFIELD, which `claim.lua` uses."""
DEFAULT_USER_VERSION = (7, 0)
"""The only one that checks the rights of a transaction when it replays it, as its default user."""
MEMORY_WARN_PERCENT = 80
INTSET_ENTRIES_MIN = 512
"""A bucket of the dedupe memory can grow to this within a window (daemon/buffer/DESIGN.md)."""
NODE_TIMEOUT_WARN_MS = 15_000
"""What Redis comes with."""
NODES_SHOWN = 2
"""Of the nodes that are well, so many different words are shown."""
DEDUPE_WARN_TIMES = 2
"""A window may see so many times the events it is laid out for, before its buckets are larger than that."""


def release(facts: RedisFacts) -> Verdict:
    found = f"{facts.server.get('server_name', 'redis')} {facts.told('redis_version')}"
    if version.parse(str(facts.told("redis_version"))) < VERSION_MIN:
        return fatal(
            f"{found}, older than {version.dotted(VERSION_MIN)}",
            "claim.lua needs HRANDFIELD: nothing would be flushed.",
            "install Redis 6.2 or later: apt-get install redis-server, on Debian 12 or later",
        )
    return ok(found)


def role(facts: RedisFacts) -> Verdict:
    info = facts.server
    if facts.told("role") == "master":
        return ok(f"primary, with {info.get('connected_slaves', 0)} replicas")
    primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    if facts.cluster:
        if info.get("master_link_status") == "up":
            return ok(f"replica of {primary}")
        return warning(
            f"a replica of {primary}, and not connected to it",
            "If its primary dies now, what this node does not have is asked of the workers again, or lost.",
            f"see its log; if it loads a snapshot of its primary, wait; {facts.cli} INFO replication",
        )
    return fatal(
        f"a replica of {primary}",
        "A replica refuses writes. A writable one drops them at its next resync.",
        f"set redis.url to the primary: TALLYD_REDIS__URL=redis://{primary}/0",
    )


def cluster(facts: RedisFacts) -> Verdict:
    if not int(facts.server.get("cluster_enabled", 0)):
        return ok("no cluster")
    if facts.elsewhere:
        return fatal(
            f"this node does not serve {len(facts.elsewhere)} of {facts.config.redis.shards} shards,"
            f" the first of them {facts.elsewhere[0]}",
            "A redis.url with one host is one Redis, and no redirection is followed: those shards cannot be counted.",
            "name two or more nodes of the cluster: TALLYD_REDIS__URL=redis://HOST:PORT,HOST:PORT (ops/cluster.md)",
        )
    if facts.nodes:
        return ok(f"a cluster of {len(facts.nodes)} nodes")
    return ok(f"a cluster, and this node serves all {facts.config.redis.shards} shards")


def nodes(facts: RedisFacts) -> Verdict:
    """Of one node of a cluster."""
    if not known(facts.cluster, f"{facts.cli} ACL SETUSER USER '+cluster|info'"):
        return ok("no cluster")
    told, at = facts.cluster, f"{facts.cli} CONFIG SET"
    assert not isinstance(told, Refusal)
    if told.get("cluster_state") != "ok":
        return fatal(
            f"cluster_state is {told.get('cluster_state')}: {told.get('cluster_slots_ok')} of {SLOTS} slots are served",
            "The node refuses to count (CLUSTERDOWN). Its events go to the spool.",
            "start the nodes that are away; redis-cli --cluster check HOST:PORT says which slots nobody has",
        )
    replicas, least = int(facts.server.get("connected_slaves", 0)), int(facts.setting_or("min-replicas-to-write", "0"))
    if facts.told("role") == "master" and replicas < least:
        return fatal(
            f"{replicas} replicas, and min-replicas-to-write is {least}",
            "The node refuses to count (NOREPLICAS). Its events go to the spool.",
            f"start its replicas, or {at} min-replicas-to-write {replicas}",
        )
    if facts.told("role") == "master" and not replicas:
        return warning(
            "a primary without a replica",
            "If it dies, nobody takes its shards over. What it counted and did not flush waits on its disk.",
            "add a node: redis-cli --cluster add-node NEW:PORT THIS:PORT --cluster-slave",
        )
    timeout_ms = int(facts.setting("cluster-node-timeout"))
    if timeout_ms > NODE_TIMEOUT_WARN_MS:
        return warning(
            f"cluster-node-timeout is {timeout_ms} ms",
            "A replica takes over only after that long. Until then the events of its shards go to the spool.",
            f"{at} cluster-node-timeout 5000 && {facts.cli} CONFIG REWRITE, on each node",
        )
    if facts.setting("cluster-require-full-coverage") == "yes":
        return warning(
            "cluster-require-full-coverage is yes",
            "If one primary is lost with its replicas, all other nodes refuse to count, too.",
            f"{at} cluster-require-full-coverage no && {facts.cli} CONFIG REWRITE, on each node",
        )
    of_role = f"primary with {replicas} replicas" if facts.told("role") == "master" else "replica"
    return ok(f"{of_role}, cluster-node-timeout {timeout_ms} ms, min-replicas-to-write {least}")


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


def replicas(facts: RedisFacts) -> Verdict:
    told = [facts.server[f"slave{number}"] for number in range(int(facts.told("connected_slaves")))]
    online, wanted = sum(each["state"] == "online" for each in told), facts.config.redis.replicas
    if online >= wanted:
        return ok(f"{online} replicas follow it" if online else "none, and none is promised (redis.replicas)")
    return warning(
        f"{online} replicas follow it, and redis.replicas is {wanted}",
        "Nothing that it answers is safe. The ingest daemon keeps it, up to redis.unconfirmed_bytes_max. Then events go"
        " to the spool.",
        f"bring the replicas back, or set TALLYD_REDIS__REPLICAS={online}",
    )


def default_user(facts: RedisFacts) -> Verdict:
    if version.parse(str(facts.told("redis_version")))[:2] != DEFAULT_USER_VERSION:
        return ok("only Redis 7.0 replays its append-only file as the default user")
    if not int(facts.told("aof_enabled")):
        return ok("without an append-only file, nothing is replayed")
    fix = f"{facts.cli} ACL SETUSER USER '+acl|dryrun', or look into its ACL file"
    refused = known(facts.default_refused, fix)
    if not refused:
        return ok("may run everything that an append-only file holds")
    return fatal(
        f"Redis 7.0, and its default user may not run {', '.join(refused)}",
        "At each restart it drops every transaction of its append-only file: what it counted since the last rewrite is"
        " lost, although it was answered 202.",
        f"{facts.cli} ACL SETUSER default off nopass '~*' '&*' +@all && {facts.cli} ACL SAVE (or CONFIG REWRITE); in an"
        " ACL file: user default off nopass ~* &* +@all. Do it before the next restart",
    )


def snapshots(facts: RedisFacts) -> Verdict:
    if facts.server.get("rdb_last_bgsave_status", "ok") != "ok":
        fix = f"see its log for the reason (often sysctl vm.overcommit_memory=1 helps), then {facts.cli} BGSAVE"
        if facts.setting_or("save", "") and facts.setting_or("stop-writes-on-bgsave-error", "") == "yes":
            found = "the last snapshot failed, and stop-writes-on-bgsave-error is yes"
            return fatal(found, "Redis refuses every write until one succeeds: nothing is counted.", fix)
        why = "The rewrite of the append-only file fails for the same reason: the file grows without bound."
        return warning("the last snapshot failed", why, fix)
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


def dedupe(facts: RedisFacts) -> Verdict:
    windows = known(facts.windows, f"{facts.cli} ACL SETUSER USER '{facts.keys.acl}' +hmget")
    if not windows:
        return ok("no event id is known yet")
    laid_out, events = max(windows, key=lambda window: window.events / window.laid_out_for)
    found = f"laid out for {laid_out:,} event ids in this window, {events:,} were seen"
    if events <= DEDUPE_WARN_TIMES * laid_out:
        return ok(found)
    return warning(
        found,
        "Sets of more than 512 ids are hash tables: an id takes 65 bytes in place of 9, until its window is forgotten.",
        f"the next window is laid out for what this one saw; for the first of a new Redis set"
        f" TALLYD_DEDUPE__EVENTS_PER_WINDOW={events * facts.config.redis.shards}",
    )


def layout(facts: RedisFacts) -> Verdict:
    if isinstance(facts.layout, Refusal) and facts.layout.answer.startswith("WRONGTYPE"):
        return fatal(
            f"{facts.keys.layout} is not a hash",
            "Another program uses this key: no daemon can start.",
            f"give tallyd a Redis of its own; or look at the key, then {facts.cli} DEL {facts.keys.layout}",
        )
    found = known(facts.layout, f"{facts.cli} ACL SETUSER USER '{facts.keys.acl}' +hgetall")
    if not found:
        return ok(f"none yet: the first daemon that connects writes {facts.keys.layout}")
    args = Layout(facts.config).script_args
    wanted = dict(zip(args[::2], args[1::2], strict=True))
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    if not differing:
        return ok(", ".join(f"{name} {value}" for name, value in wanted.items()))
    return fatal(
        "; ".join(f"{name} is {found.get(name, 'not there')}, configured is {wanted[name]}" for name in differing),
        "tallyd would look for keys in the wrong place, and count events twice.",
        f"{_environment(found)}; or, to change the layout: stop every daemon, `tallyd flush --once` with the old one"
        f" until it counts 0 entities, {facts.cli} DEL {facts.keys.layout},"
        f" {facts.cli} --scan --pattern '{facts.keys.prefix}:*:seen*' | xargs {facts.cli} UNLINK (the event ids seen"
        " before are forgotten), start with the new one",
    )


def lua(facts: RedisFacts) -> Verdict:
    assert facts.scripts is not None, "this check is not among those at start-up"
    refused = {name: answer for name, answer in facts.scripts.items() if answer is not None}
    if not refused:
        return ok(f"all {len(facts.scripts)} ran, with nothing to do")
    name, answer = next(iter(refused.items()))
    return fatal(
        f"{', '.join(refused)} refused; {name}: {answer}",
        "Every count goes through these scripts.",
        _lua_fix(facts, answer),
    )


def _lua_fix(facts: RedisFacts, answer: str) -> str:
    user = urlsplit(facts.config.redis.url).username or "default"
    if "access" in answer and "key" in answer:
        return f"{facts.cli} ACL SETUSER {user} '{facts.keys.acl}'"
    if "NOPERM" in answer or "can't run" in answer:
        return f"{facts.cli} ACL SETUSER {user} +@all -@dangerous +info '+config|get' '+acl|dryrun'"
    if "OOM" in answer:
        return f"see redis.memory; {facts.cli} CONFIG SET maxmemory BYTES"
    if "READONLY" in answer:
        return "see redis.role"
    if "MISCONF" in answer:
        return "see redis.snapshots and redis.append_only"
    if "unknown command" in answer:
        return "use a Redis that allows EVAL, EVALSHA, MULTI and EXEC (in redis.conf: no rename-command for them)"
    return "if this is Redis 6.2 or later, please report this message"


def spool(facts: RedisFacts) -> Verdict:
    folder = facts.config.spool.dir
    if not folder:
        return ok("no spool")
    found = known(facts.layout, f"{facts.cli} ACL SETUSER USER '{facts.keys.acl}' +hgetall")
    held = usage(Path(folder), origin_of(facts.config, int(found.get("epoch", 0))))
    if not held.foreign:
        return ok(f"no segment in {folder} is for another Redis")
    return warning(
        f"{held.foreign} segments in {folder} are for another Redis",
        "They are not replayed. Their events are not counted here.",
        "give each system a spool.dir of its own; if they belong here after all: tallyd replay --foreign",
    )


def clock(facts: RedisFacts) -> Verdict:
    return check_clock(
        known(facts.clock, f"give the user TIME: {facts.cli} ACL SETUSER USER +time"),
        "Redis' clock decides when an event id is forgotten. This machine's decides which events are in the future.",
    )


CHECKS: Mapping[str, Callable[[RedisFacts], Verdict]] = {
    "redis.version": release,
    "redis.role": role,
    "redis.cluster": cluster,
    "redis.nodes": nodes,
    "redis.eviction": eviction,
    "redis.append_only": append_only,
    "redis.replicas": replicas,
    "redis.default_user": default_user,
    "redis.snapshots": snapshots,
    "redis.memory": memory,
    "redis.intset": intset,
    "redis.dedupe": dedupe,
    "redis.layout": layout,
    "redis.scripts": lua,
    "redis.spool": spool,
    "redis.clock": clock,
}


OF_NODES = (
    "redis.version", "redis.role", "redis.nodes", "redis.eviction", "redis.append_only", "redis.default_user",
    "redis.snapshots", "redis.memory", "redis.intset", "redis.clock",
)  # fmt: skip
"""Checks of a server. In a cluster they are of each node."""


def run(facts: RedisFacts, names: Iterable[str] = CHECKS) -> list[Finding]:
    """Runs checks. In a cluster, those of a server run for each node: a node that is well is only counted."""
    findings = []
    for name in names:
        check = {name: CHECKS[name]}
        if not facts.nodes or name not in OF_NODES:
            findings += run_checks(check, facts)
            continue
        reached = [node for node in facts.nodes if isinstance(node, RedisFacts)]
        of_nodes = [(node.address, finding) for node in reached for finding in run_checks(check, node)]
        if name == "redis.nodes":
            findings += [Finding(name, *_away(node)) for node in facts.nodes if isinstance(node, Away)]
        findings += [
            msgspec.structs.replace(finding, found=f"{address}: {finding.found}")
            for address, finding in of_nodes
            if finding.severity != "ok"
        ]
        well = [finding.found for _, finding in of_nodes if finding.severity == "ok"]
        if well:
            said = ", ".join(f"{count} of {found}" for found, count in Counter(well).most_common(NODES_SHOWN))
            findings.append(Finding(name, "ok", f"{len(well)} nodes are well: {said}"))
    return findings


def _away(node: Away) -> Verdict:
    return warning(
        f"{node.address} does not answer: {node.why}",
        "If it is a primary, its events go to the spool until a replica takes over. If it is a replica, its primary has"
        " one less.",
        "start it, or take it out of the cluster: redis-cli --cluster del-node",
    )


def _environment(layout: Mapping[str, str]) -> str:
    """The variables that make the configuration agree with Redis."""
    variables = {"shards": "TALLYD_REDIS__SHARDS", "dedupe_window_s": "TALLYD_DEDUPE__WINDOW_S"}
    return " ".join(f"{variable}={layout[name]}" for name, variable in variables.items() if name in layout)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
