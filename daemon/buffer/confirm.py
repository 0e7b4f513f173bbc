"""What Redis says of its replicas: whose history it has, and how much of it the replicas hold.

A Redis that answered can come back without that: restarted from a file that lacks its last seconds, or because a
replica took over that lagged. Each such change gives it another replication id (`master_replid`), and so does the
demotion of a primary. So two answers with the same id are of one history, and the later one includes the earlier one.

`Connection.confirm` asks. Pure, no I/O.
"""

from __future__ import annotations

from typing import NamedTuple


class Memory(NamedTuple):
    """What answered a call. `history`: "" if it is not known, or if a replica answered. `epoch`: see `layout.py`."""

    history: str
    epoch: int


class Confirmation(NamedTuple):
    """`history`: of the primary that answered; "" if it is none. `before`: the history that it took over, as a replica
    that was promoted. `wanted`: its replicas, and no fewer than `redis.replicas`. `held`: whether they all hold what it
    had executed when it was asked. Without replicas, nobody does."""

    history: str
    before: str
    wanted: int
    held: bool


def read(told: bytes, reached: int, replicas: int) -> Confirmation:
    """From the reply to INFO replication, the one to WAIT, and `redis.replicas`."""
    fields = _fields(told)
    online = sum(name.startswith("slave") and "state=online" in text for name, text in fields.items())
    wanted = max(replicas, online)
    return Confirmation(history_of(told), fields.get("master_replid2", ""), wanted, 0 < wanted <= reached)


def history_of(told: bytes) -> str:
    """The replication id in the reply to INFO replication; "" of a replica."""
    fields = _fields(told)
    return fields.get("master_replid", "") if fields.get("role") == "master" else ""


def _fields(told: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in told.decode(errors="replace").splitlines())
    return {name: text for name, _, text in lines}
