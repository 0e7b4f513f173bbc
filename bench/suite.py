"""All the benchmarks, and the run of some of them on one ground."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import batch, dashboards, durable, flush, latency, machine, memory, parts, reads, replica, scale, single, wrk
from bench.ground import Ground, GroundError, forget_configuration, raised
from bench.measure import Row
from bench.peers import start
from bench.results import Result
from bench.settings import Settings
from daemon.errors import TallydError
from tests.kit.commands import ROOT


class Group(NamedTuple):
    """Rows that are measured together."""

    measure: Callable[[Ground, Settings], list[Row]]
    what: str
    mysql: bool = False


GROUPS: dict[str, Group] = {
    "single": Group(single.measure, "single events against bare Granian, nginx and FastAPI"),
    "batch": Group(batch.measure, "batches, and Redis' CPU time an event"),
    "latency": Group(latency.measure, "latency at half of the maximum, while the flusher drains"),
    "flush": Group(flush.measure, "a flush against the upserts alone"),
    "scale": Group(scale.measure, "flushes of a thousand to a million entities"),
    "replica": Group(replica.measure, "the UPDATE of the replica table", mysql=True),
    "memory": Group(memory.measure, "memory after ten million events"),
    "durable": Group(durable.measure, "appendfsync always"),
    "parts": Group(parts.measure, "the parts, one by one", mysql=True),
    "reads": Group(reads.measure, "reads of a million entities, and what they cost the ingest"),
    "dashboards": Group(dashboards.measure, "single events beside twenty open dashboards"),
}
ON_REQUEST = ("reads", "dashboards")
"""Only with --only: filling MongoDB takes minutes and gigabytes."""
QUICK = ("single", "batch", "flush", "memory")

CANNOT = (wrk.WrkError, GroundError, TallydError, AssertionError)


def run(
    names: Sequence[str],
    settings: Settings,
    done: Callable[[Result], None],
    begun: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Measures these groups, handing on each one's result when it is there. A group that could not be measured is no
    reason not to measure the others: what happened is in the list that is returned."""
    forget_configuration()
    machine.take_cores()
    wrk.program()
    failures: list[str] = []
    for with_mysql in (False, True):
        chosen = [name for name in names if GROUPS[name].mysql == with_mysql]
        if not chosen:
            continue
        with (
            tempfile.TemporaryDirectory(prefix="tallyd-bench-") as folder,
            raised(Path(folder), mysql=with_mysql) as ground,
        ):
            about = machine.describe(ground.stack, ROOT) | (start.versions() if settings.peers else {})
            for name in chosen:
                begun(name)
                try:
                    done(Result(group=name, machine=about, rows=GROUPS[name].measure(ground, settings)))
                except CANNOT as error:
                    failures.append(f"{name} could not be measured. {error}")
    return failures
