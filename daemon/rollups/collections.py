"""Every collection in MongoDB, by its name, and every field stored in it.

All names are data: renaming one loses what is stored under it. A test stores something in each and compares the fields.
"""

from __future__ import annotations

from collections.abc import Mapping

from daemon.domain.rollup import EXPIRING, KINDS, OF_DOMAINS, OWN_FIELDS

DEAD_LETTERS = "analytics_dead_letters"
FLOORS = "analytics_flush_floors"
JOURNAL = "analytics_flush_journal"
EPOCHS = "analytics_epochs"
HISTORY_MARKS = "analytics_backfill_marks"
BASE_COLUMNS = "analytics_base_columns"
EXPIRY = "analytics_expiry"
BACKFILLS = "analytics_backfills"
SHADOW = "analytics_shadow"
DOCTOR = "analytics_doctor"
JOBS = "analytics_jobs"
DOMAIN_BUILDS = "analytics_domain_builds"

ROLLUPS = (
    *(kind.collection for kind in KINDS),
    *(kind.expired_collection for kind in EXPIRING),
    *(kind.collection for kind in OF_DOMAINS),
)
"""Their documents hold OWN_FIELDS and, under its own name, the amount of each counter."""

FIELDS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(ROLLUPS, OWN_FIELDS),
    DEAD_LETTERS: {
        "_id": "<shard>:<seq>:<collection>:<document>",
        "shard": "of the claim",
        "seq": "of the claim",
        "collection": 'where the amounts belong; "" for a foreign value found in Redis',
        "document": "the id of the document they belong to; for a foreign value its key and field",
        "deltas": "{counter: amount}; for a foreign value {amount: the texts that were found}",
        "first": "what the document starts with if it has to be made",
        "reason": "why the document could not take them",
        "at": "when",
        "dropped_at": "when an operator gave the letter up; null while it waits",
        "retrying": "true: a retry has begun (days only)",
    },
    FLOORS: {
        "_id": "shard",
        "seq": "of the last claim in the journal: the highest one whose documents may have been written",
        "journal": "{seq, nonce}: the name of that claim; another seq: an older version raised the floor since",
        "accounted": "{base, sums}: in a cluster, {counter: amount} that the shard accounts for with that claim, since"
        " the epoch `base`",
        "held": "{acked, reason, by, at}: `tallyd shards accept` of a Redis that had accounted for that claim",
        "hold": "{redis, mongo, at, doubled, lost}: the shard waits for an operator; the last claims that each knows,"
        " and {counter: amount}, the most that is counted twice or lost if it goes on",
        "unknown": "{seq, at}: the entities of that claim that MySQL does not know, as positions among its sorted keys",
        "domains": "{generation, after, seq}: claims above `after` are added to the domains' documents of that"
        " generation; `seq`: the highest one of a flusher that does so",
    },
    JOURNAL: {
        "_id": "<shard>:<seq>:<nonce>",
        "shard": "of the claim",
        "seq": "its seq",
        "nonce": "its nonce",
        "before": "{seq, nonce}: the claim before it in the journal",
        "epoch": "of the Redis that froze it",
        "parts": "its content, as Redis froze it",
        "history": "of the Redis whose replicas all held it; empty: there are none, or they did not confirm it in time",
        "at": "when it was written",
    },
    EPOCHS: {
        "_id": "the epoch of a Redis",
        "baseline": "{counter: amount}: what totals and dead letters held when that Redis began to count",
        "shards": "{shard: {base, sums}}: in a cluster, what these shards had accounted for before they lost their"
        " memory; the others go on",
        "at": "when it was recorded",
        "accepted": "[{at, by, reason, differences}]: by `tallyd audit --accept`, {rollup: {counter: amount}}",
        "older": "[{store, shard, redis, mongo, amended}]: a store that came back older, by the highest seq that each"
        " one knew, and {counter: amount} that Redis was amended by",
    },
    HISTORY_MARKS: {"_id": "key of an entity whose history is half written"},
    BASE_COLUMNS: {
        "_id": "entity type, as jav.movie",
        "columns": "{counter: table.column}: the columns its bases were read from",
    },
    EXPIRY: {
        "_id": "name of a rollup",
        "n": "the number of its last expiry batch",
        "state": "idle, sealing, deleting or folding",
        "documents": "the documents of the batch",
        "through": "the newest bucket that ever expired",
    },
    BACKFILLS: {
        "_id": "entity type, as jav.movie",
        "table": "the MySQL table that is read",
        "key": "its key column",
        "after": "the key behind which the next run goes on; null: from the start",
        "rows": "rows read so far",
        "started_at": "when the run began",
        "at": "when it last got on",
        "finished_at": "when it ended; null while it is open",
    },
    SHADOW: {
        "_id": "<entity type>:<counter>:<day>",
        "entity_type": "as jav.movie",
        "counter": "the counter",
        "date": "the UTC day",
        "at": "when it was compared",
        "own": "the application's sum",
        "tallyd": "tallyd's sum",
        "apart": "the rows' differences added up without their signs",
        "differing": "rows that differ",
        "p50": "a difference without sign: half of the rows have at most this",
        "p90": "the same of 90 %",
        "p99": "the same of 99 %",
        "max": "the largest",
    },
    JOBS: {
        "_id": "the job: audit, parity-check, report, expire, shadow-compare or doctor",
        "at": "when its last run ended",
        "seconds": "how long that took",
        "ok": "whether it ended with exit code 0",
        "exit_code": "of its command",
        "summary": "one sentence: what it found, or why it failed",
        "host": "where it ran",
        "figures": "{name: number}: what it counted",
    },
    DOMAIN_BUILDS: {
        "_id": "the rollup that is built: domain_daily",
        "generation": "of the last build that began",
        "built": "the generation that is read; null before the first",
        "before": "the generation that was read before",
        "owner": "who builds, or built last",
        "until": "when another one may begin",
        "histories": "how often a history was taken over since, begun ones included",
        "based": "`histories` when the bases of the days were last set",
    },
    DOCTOR: {"_id": "host, process and a random part of the doctor that tries a write", "at": "when"},
}
