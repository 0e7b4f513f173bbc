"""`tallyd drill rollback`: goes over to tallyd, back to the application's own counting, and to tallyd again.

    take over → count → switch off, drain → the application counts → switch on → reconcile → count

No count may be lost. The servers are the drill's own. Ingest runs as in production, and is switched by its
configuration file and SIGHUP. The drill flushes step by step, as an operator does who has stopped the flush daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import asyncmy
import msgspec
from msgspec import Struct

from daemon import config as configuration
from daemon.config import Config, replica_tables
from daemon.devstack import demo, process, stack
from daemon.devstack.child import Child
from daemon.devstack.demo import MOVIES, Counts
from daemon.devstack.dev import INGEST_STOP_TIMEOUT_S, environment_of, healthy
from daemon.errors import ConfigError, StackError, TallydError
from daemon.flush.flusher import Flushed, Flusher
from daemon.move.backfill import session
from daemon.move.backfill.changes import Change
from daemon.move.backfill.run import Tally
from daemon.read.status import read_status
from daemon.verify.audit.audit import auditor
from daemon.verify.report import archive
from daemon.verify.report.artifact import SCHEMA_VERSION, DrillArtifact, Step, instant

RELOAD_TIMEOUT_S = 20.0
HTTP_TIMEOUT_S = 10.0
BATCH_PATH = "/api/v1/analytics/events/batch"


class Drilled(Struct, frozen=True):
    """A drill's steps, up to the first that failed. `ingest_route_present`: whether HTTP took events.

    `legacy_movie_view_route_present`: whether counting directly in MySQL worked. Both are False if not tried.
    """

    steps: list[Step]
    ingest_route_present: bool
    legacy_movie_view_route_present: bool

    @property
    def ok(self) -> bool:
        return all(step.ok for step in self.steps)


async def run(data: Path | None, show: Callable[[Step], None]) -> Drilled:
    """Drills on a stack in `data`, a new or empty folder that is kept (None: a temporary one). `show` gets each step.

    Raises ConfigError if the folder is not empty, StackError if a server does not start.
    """
    with _folder(data) as folder:
        async with _system(folder) as drill:
            steps: list[Step] = []
            for name, do in REHEARSAL:
                try:
                    found, ok = await do(drill)
                except (TallydError, OSError, asyncmy.errors.MySQLError) as error:
                    found, ok = str(error), False
                steps.append(Step(name, found, ok))
                show(steps[-1])
                if not ok:
                    break
            return Drilled(steps, drill.taken, drill.counted_directly)


def write(folder: Path, drilled: Drilled) -> tuple[str, DrillArtifact]:
    """Writes rollback/drill-YYYY-MM-DD.json (UTC) and adds it to the folder's manifest. Returns its name and content.

    Raises FileError.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    outcome = "Every step held." if drilled.ok else "A step failed: see steps."
    artifact = DrillArtifact(
        schema_version=SCHEMA_VERSION, artifact_type="rollback", artifact_date=now.date(), generated_at=instant(now),
        notes=["A drill on servers of its own, with the demo table.", outcome], **msgspec.structs.asdict(drilled),
    )  # fmt: skip
    name = f"rollback/drill-{now.date()}.json"
    archive.update_manifest(folder, {name: archive.write(folder, name, artifact)}, now)
    return name, artifact


class Drill:
    """The system under drill. `rows`: the counts that each row must hold when everything is flushed."""

    def __init__(self, config: Config, switch: Path, ingest: Child, reloaded: asyncio.Event) -> None:
        """`switch`: the configuration file. `reloaded` is set when ingest reports that it has read the file again."""
        self._config = config
        self._switch = switch
        self._ingest = ingest
        self._reloaded = reloaded
        self.rows = {movie.uuid: Counts(0, 0) for movie in MOVIES}
        self.taken = False
        self.counted_directly = False

    # Steps ----------------------------------------------------------------------------------------------------------

    async def count_before(self) -> tuple[str, bool]:
        return await self._count_directly({uuid: Counts(100 * n, 10 * n) for n, uuid in enumerate(self.rows)})

    async def take_over(self) -> tuple[str, bool]:
        tally = await self._backfill(reconcile=False)
        said = f"{tally.upserted} rows became bases, {tally.unchanged} unchanged, {tally.problems} problems"
        return said, (tally.upserted, tally.problems) == (len(MOVIES), 0)

    async def take_over_again(self) -> tuple[str, bool]:
        tally = await self._backfill(reconcile=False)
        return f"{tally.unchanged} rows unchanged", tally.unchanged == len(MOVIES)

    async def count(self) -> tuple[str, bool]:
        accepted = await self._post({uuid: Counts(n, n % 3) for n, uuid in enumerate(self.rows)})
        self.taken = accepted > 0
        return f"{accepted} events accepted", accepted == sum(1 + (n % 3 > 0) for n in range(1, len(MOVIES)))

    async def flush(self) -> tuple[str, bool]:
        done = await self._flush_once()
        said = f"{done.documents} documents written, {done.rows} rows set"
        return (said, True) if done.replica_error is None else (done.replica_error, False)

    async def agree(self) -> tuple[str, bool]:
        """Compares every row of MySQL with the expected counts, and runs the audit."""
        found = await demo.counts(self._config.mysql.url)
        wrong = [uuid for uuid, counts in self.rows.items() if found.get(uuid) != counts]
        async with auditor(self._config) as by:
            report = await by.audit(thorough=True)
        said = (
            f"{len(wrong)} rows are wrong, {len(report.broken)} differences found by the audit,"
            f" {report.rows_pending} rows are due"
        )
        return said, not wrong and report.holds and report.exact and report.rows_pending == 0

    async def switch_off(self) -> tuple[str, bool]:
        await self._set_enabled(enabled=False)
        before = await self._ledger()
        accepted = await self._post(dict.fromkeys(self.rows, Counts(1, 0)), lost=True)
        after = await self._ledger()
        return f"events are answered 202, {accepted} of them accepted", accepted == 0 and before == after

    async def count_unflushed(self) -> tuple[str, bool]:
        accepted = await self._post({uuid: Counts(2, 0) for uuid in list(self.rows)[::3]})
        return f"{accepted} events accepted; they wait in Redis", accepted == len(MOVIES) // 3

    async def flush_switched_off(self) -> tuple[str, bool]:
        """The columns are the application's now, so the flush must not change them."""
        before = await demo.counts(self._config.mysql.url)
        done = await self._flush_once()
        untouched = await demo.counts(self._config.mysql.url) == before
        said = f"{done.documents} documents written, {done.rows} rows set, {done.due} are due"
        return said, untouched and (done.rows, done.due) == (0, len(MOVIES) // 3)

    async def count_directly(self) -> tuple[str, bool]:
        return await self._count_directly({uuid: Counts(7 + n, 1) for n, uuid in enumerate(list(self.rows)[::2])})

    async def switch_on(self) -> tuple[str, bool]:
        await self._set_enabled(enabled=True)
        accepted = await self._post(dict.fromkeys(self.rows, Counts(3, 0)))
        return f"{accepted} events accepted; they wait in Redis", accepted == len(MOVIES)

    async def reconcile(self) -> tuple[str, bool]:
        tally = await self._backfill(reconcile=True)
        said = f"{tally.upserted} bases changed, {tally.problems} problems"
        return said, (tally.upserted, tally.problems) == (len(MOVIES) // 2, 0)

    # Parts of the steps --------------------------------------------------------------------------------------------

    async def _post(self, counts: Mapping[str, Counts], *, lost: bool = False) -> int:
        """Sends an event for each movie and counter, with the amount as its value. Returns how many were accepted.

        `lost`: they must not count.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        events = [
            {
                "event_id": str(uuid4()), "domain": "jav", "entity_type": "movie", "entity_id": uuid,
                "action": action, "value": value, "occurred_at": now,
            }
            for uuid, (views, downloads) in counts.items()
            for action, value in (("view", views), ("download", downloads))
            if value
        ]  # fmt: skip
        status, answer = await asyncio.to_thread(_send, self._config.http.port, json.dumps(events).encode())
        if status != http.HTTPStatus.ACCEPTED:
            raise StackError(f"ingest answered {status}: {answer:.200}")
        if not lost:
            self._add(counts)
        return int(json.loads(answer)["accepted"])

    async def _flush_once(self) -> Flushed:
        async with Flusher(self._config) as flusher:
            return await flusher.once()

    async def _count_directly(self, counts: Mapping[str, Counts]) -> tuple[str, bool]:
        before = await demo.counts(self._config.mysql.url)
        await demo.count_directly(self._config.mysql.url, counts)
        self._add(counts)
        after = await demo.counts(self._config.mysql.url)
        self.counted_directly = after == {uuid: _plus(found, counts.get(uuid)) for uuid, found in before.items()}
        views, downloads = (sum(amounts) for amounts in zip(*counts.values(), strict=True))
        said = f"{views} views and {downloads} downloads added to the columns of {len(counts)} rows"
        return said, self.counted_directly

    def _add(self, counts: Mapping[str, Counts]) -> None:
        for uuid, more in counts.items():
            self.rows[uuid] = _plus(self.rows[uuid], more)

    async def _backfill(self, *, reconcile: bool) -> Tally:
        outcome = await session.run(
            self._config, replica_tables(self._config), _Silent(), threading.Event(),
            chunk=5, dry_run=False, daily=None, reconcile=reconcile,
        )  # fmt: skip
        return outcome.tables[0]

    async def _ledger(self) -> list[dict[str, int]]:
        return [shard.ledger for shard in (await read_status(self._config)).shards]

    async def _set_enabled(self, *, enabled: bool) -> None:
        _write_switch(self._switch, enabled=enabled)
        self._config = msgspec.structs.replace(self._config, enabled=enabled)
        self._reloaded.clear()
        self._ingest.reload()
        async with asyncio.timeout(RELOAD_TIMEOUT_S):
            await self._reloaded.wait()


REHEARSAL: tuple[tuple[str, Callable[[Drill], Awaitable[tuple[str, bool]]]], ...] = (
    ("The application counts by itself", Drill.count_before),
    ("backfill", Drill.take_over),
    ("backfill once more", Drill.take_over_again),
    ("Events over HTTP", Drill.count),
    ("flush --once", Drill.flush),
    ("MySQL = MongoDB = what was counted", Drill.agree),
    ("New events, not flushed", Drill.count_unflushed),
    ("Switch off: enabled = false, SIGHUP", Drill.switch_off),
    ("The application counts by itself", Drill.count_directly),
    ("flush --once, switched off", Drill.flush_switched_off),
    ("Switch on: enabled = true, SIGHUP; new events", Drill.switch_on),
    ("backfill --reconcile", Drill.reconcile),
    ("flush --once", Drill.flush),
    ("MySQL = MongoDB = what was counted", Drill.agree),
)
"""Each returns what was found, and whether it is right."""


class _Silent:
    """A watcher that shows nothing."""

    def begin(self, name: str, rows: int, done: int) -> None: ...

    def advance(self, rows: int) -> None: ...

    def change(self, change: Change) -> None: ...


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    if data is None:
        with tempfile.TemporaryDirectory(prefix="tallyd-drill-") as temporary:
            yield Path(temporary)
        return
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise ConfigError(f"--data {data}: must be a new or empty folder; the drill makes its own servers in it.")
    yield data


@asynccontextmanager
async def _system(folder: Path) -> AsyncIterator[Drill]:
    """The servers, the demo table and ingest. They are stopped in order."""
    raised = await stack.bring_up(folder, die_with_parent=True)
    try:
        if not raised.info.mysql:
            raise StackError(f"The drill needs MariaDB. {raised.absent[0].absence}")
        await demo.create(raised.info.mysql)
        switch, port, run_id = folder / "drill.toml", process.free_port(), uuid4().hex
        _write_switch(switch, enabled=True)
        environment = environment_of(raised.info, port, switch, run_id) | {
            "TALLYD_RATE_LIMIT__PER_MINUTE": "0",
            "TALLYD_SPOOL__DIR": str(folder / "spool"),
        }
        config = configuration.load(switch, environ=environment)
        reloaded, lines = asyncio.Event(), list[str]()

        def hear(_: str, line: str) -> None:
            lines.append(line)
            if "Reloaded" in line:
                reloaded.set()

        async with Child("ingest", environment, hear, stop_timeout_s=INGEST_STOP_TIMEOUT_S) as ingest:
            try:
                await healthy(port, run_id)
            except StackError as error:
                raise StackError("\n".join([str(error), *lines])) from None
            yield Drill(config, switch, ingest, reloaded)
    finally:
        await stack.take_down(folder, raised.started)


def _plus(counts: Counts, more: Counts | None) -> Counts:
    return counts if more is None else Counts(counts.views + more.views, counts.downloads + more.downloads)


def _write_switch(path: Path, *, enabled: bool) -> None:
    path.write_text(f"enabled = {str(enabled).lower()}\n")


def _send(port: int, body: bytes) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_TIMEOUT_S)) as connection:
        connection.request("POST", BATCH_PATH, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
