"""The layout: the parts of a configuration that must agree with the data in Redis before a daemon may touch it.

`connection.Connection` checks it on every new connection. So a wrong configuration is noticed, and also a Redis that
was exchanged or emptied while the daemon ran.

A Redis that was emptied, exchanged or restored while the daemon ran has another epoch or older marks. `Layout` says so.

It also notices a Redis that lost its transactions (`lost_transactions`). Redis 7.0 replays its append-only file as the
default user. If that user may not run everything, Redis drops each transaction, and so all counts since the last
rewrite of the file. It comes back with an older state that knows nothing of what was flushed since. So a new epoch
begins (`begin_epoch`): what was live or in flight is renamed, and not counted again. `STEPS` says what holds if the
daemon dies, if a reply is lost, or if another daemon does it at the same time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from daemon.buffer import scripts
from daemon.buffer.keys import Keys
from daemon.buffer.scripts import Script
from daemon.buffer.topology import Topology
from daemon.config import Config, address_of, is_cluster
from daemon.domain.instant import moment
from daemon.errors import LayoutError

FORMAT = 1
"""Version of the keys and values described in daemon/DESIGN.md."""

MARK_INTERVAL_MS = 5_000
"""How old the marks may be. What was counted after the last one, and before a rewrite of the append-only file, can be
lost unnoticed."""
SET_ASIDE_ENTITIES = 5_000
"""Entities that one call renames: about 10 ms of Redis' time."""

STEPS = {
    "begin": "The layout names the new epoch. No daemon counts. Each that connects goes on with it.",
    "set_aside": "Some keys of a shard are renamed. The next daemon renames the others. A finished one stays as it is.",
    "end": "The new epoch is in force. The daemons count. The flusher records its baseline before it writes.",
}
"""Each step of `begin_epoch` in order, and what holds if the daemon dies after it or its reply is lost.

Redis may lose its transactions again at any time. Then it loses all of these steps, and another epoch is begun."""

Run = Callable[[Script, Sequence[str], Sequence[str | bytes | int]], Awaitable[Any]]
"""Runs a script over the connection that is being opened."""

_log = logging.getLogger(__name__)


class Layout:
    """The layout a configuration asks for, and the memory that Redis had when it was last seen. The connections of one
    process to one Redis share it."""

    def __init__(self, config: Config) -> None:
        self.keys = Keys.of(config.redis)
        self.topology = Topology(config.redis) if is_cluster(config.redis.url) else None
        """Where the shards lie. None: all on one Redis."""
        self._wanted = {
            "format": str(FORMAT),
            "shards": str(config.redis.shards),
            "dedupe_window_s": str(config.dedupe.window_s),
        }
        self._address = address_of(config.redis.url)
        self._seen: dict[str, tuple[int, int]] = {}
        """Key of a layout → the latest epoch and mark that any connection saw."""

    @property
    def script_args(self) -> list[str]:
        """What `layout.lua` writes if Redis has no layout yet."""
        return [text for pair in self._wanted.items() for text in pair]

    def verify(self, reply: Sequence[bytes], key: str) -> int:
        """The epoch of the Redis that sent this reply to `layout.lua` on `key`. Raises LayoutError, naming the way out,
        if it is laid out differently."""
        found = _fields(reply)
        differing = [
            f"  {name}: Redis has {found.get(name, 'nothing')}, the configuration says {value}"
            for name, value in self._wanted.items()
            if found.get(name) != value
        ]
        if differing:
            raise LayoutError(
                f"Redis is laid out differently ({self.keys.layout}):\n" + "\n".join(differing) + "\n"
                "Either put redis.shards and dedupe.window_s back to what Redis has; or change the layout: stop every"
                " daemon, run `tallyd flush --once` with the old configuration until it counts 0 entities,"
                f" `redis-cli DEL {self.keys.layout}`, `redis-cli --scan --pattern '{self.keys.prefix}:*:seen*' |"
                " xargs redis-cli UNLINK`"
                " (the event ids seen before are forgotten), and start with the new one."
            )
        epoch, mark = _number(found.get("epoch")), _number(found.get("atomic"))
        self._compare(epoch, mark, key)
        return epoch

    def has_marked(self, mark: int, key: str) -> None:
        """This process left a mark (us)."""
        epoch, seen = self._seen[key]
        self._seen[key] = (epoch, max(seen, mark))

    def _compare(self, epoch: int, mark: int, key: str) -> None:
        """Logs, once, that this is not the memory that was seen before. The marks only grow (`mark.lua`)."""
        seen_epoch, seen_mark = self._seen.get(key, (0, 0))
        if seen_epoch and epoch != seen_epoch:
            _log.error(
                "Redis at %s counts in epoch %s in place of %s: it was emptied, exchanged or restored while this daemon"
                " ran. Counts that were live or in flight are lost, and event ids are forgotten. See ops/backup.md.",
                self._address, moment(epoch), moment(seen_epoch),
            )  # fmt: skip
        elif mark < seen_mark:
            _log.error(
                "Redis at %s came back with an older state: its last mark is %s, and this daemon saw %s. It was"
                " restored, or it restarted without its last seconds. Counts in between are lost; counts that were"
                " flushed in between may be counted again. `tallyd audit` says how many. See ops/backup.md.",
                self._address, moment(mark), moment(seen_mark),
            )  # fmt: skip
        self._seen[key] = (epoch, mark)

    @property
    def together(self) -> list[list[int]]:
        """The shards that one connection can serve: all of them, or in a cluster each alone."""
        return [list(range(self.shards))] if self.topology is None else [[shard] for shard in range(self.shards)]

    @property
    def shards(self) -> int:
        return int(self._wanted["shards"])


def lost_transactions(reply: Sequence[bytes]) -> bool:
    """Whether the Redis that sent this reply to `layout.lua` lost its transactions: see `mark.lua`."""
    found = _fields(reply)
    return "next" in found or _number(found.get("alone")) > _number(found.get("atomic"))


async def begin_epoch(run: Run, keys: Keys, layout: str, shards: Iterable[int], address: str) -> None:
    """Takes a Redis that lost its transactions as one that begins to count. Safe to repeat. Raises StoreError."""
    epoch: bytes = await run(scripts.EPOCH, (layout,), ("",))
    if not epoch:
        return  # another daemon has done it
    _log.error(
        "Redis at %s lost every transaction since its append-only file was last rewritten: what it counted since is"
        " lost. Redis 7.0 does that at a restart if its default user may not run everything. Set `user default off"
        " nopass ~* &* +@all` in its ACL file, and run `tallyd doctor`.",
        address,
    )
    entities = claims = 0
    for shard in shards:
        names, more = keys.shard(shard), True
        while more:
            renamed, claimed, more = await run(
                scripts.SET_ASIDE,
                (names.dirty, names.claim, names.ledger, names.counters_prefix, names.aside_prefix),
                (epoch, SET_ASIDE_ENTITIES),
            )
            entities, claims = entities + renamed, claims + claimed
    if await run(scripts.EPOCH, (layout,), (epoch,)):
        _log.error(
            "A new epoch begins, %s. %d entities and %d claims from before may have been flushed already. They are not"
            " counted again: they lie under %s:{SHARD}:aside:%s:*.",
            epoch.decode(), entities, claims, keys.prefix, epoch.decode(),
        )  # fmt: skip


def _fields(reply: Sequence[bytes]) -> dict[str, str]:
    texts = [part.decode(errors="backslashreplace") for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0
