"""Who pays for a request: an account for each sender, kept by one worker.

A sender is a client's address, or a producer's key. `app.py` looks the account up, and charges it for all that is no
counted event: refusals, reads, bodies that never end. Redis counts the events (`ingest.lua`). So an account also holds
while Redis is away. It is never stored.

A budget is a meter that drains evenly (GCRA: ITU-T I.371, the virtual scheduling algorithm). One number is enough: the
moment at which the budget is whole again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daemon.buffer.wire import Limit
from daemon.config import UNIX, Budget, RateLimit
from daemon.read.gate import Kind

if TYPE_CHECKING:
    from daemon.ingest.decode import Decoder

MINUTE_S = 60
RELEASE_S = 4
"""A sender that has spent its budget is refused for so long at most, however much more its last request cost."""

PRODUCER = "key:"
"""What the name of a producer's account begins with. No address does."""

EVENT_REFUSED = 1
"""An event of a batch that got no admission."""
EVENT_LEFT_OUT = 1
"""A robot's event that is not counted, so Redis does not limit it."""
REQUEST_REFUSED = 5
"""A request that got a 4xx, 429 excepted: its body was wrong, too slow, too large or cut off, or its key unknown."""
READ = 1
"""An answer from the cache, or a file for browsers."""
READ_COLD = 10
"""A read that asks a store."""
READ_SUM = 150
"""A top list, a summary, or counts of many entities: it may keep MongoDB busy for a tenth of a second and more."""
READS = {
    None: READ,
    Kind.TOTALS: READ_COLD,
    Kind.SERIES: READ_COLD,
    Kind.MANY: READ_SUM,
    Kind.TOP: READ_SUM,
    Kind.SUMMARY: READ_SUM,
    Kind.FRESH: READ_COLD,
    Kind.STATUS: READ_COLD,
    Kind.NAMES: READ_COLD,
    Kind.CATALOGUE: READ,
}
"""By what a read asks of the stores."""


class Account:
    """Of one sender. An accepted event costs nothing here, because Redis counts it."""

    __slots__ = ("_clock", "_cost_s", "_events_until", "_until", "decoder", "limit", "name", "producer", "unfinished")

    def __init__(
        self, name: str, producer: str, per_minute: int, clock: Callable[[], float], limit: Limit | None = None
    ) -> None:
        """`name`: what limits are kept under. `producer`: "" without a key. `per_minute`: its budget; 0: no bound.
        `limit`: of its events, which Redis counts; None: it has none."""
        self.name = name
        self.producer = producer
        self.limit = limit
        self.decoder: Decoder | None = None
        """What admits its events, if not what admits everybody's."""
        self.unfinished = 0
        """Bodies that it is sending now."""
        self._clock = clock
        self._cost_s = MINUTE_S / per_minute if per_minute else 0.0
        self._until = self._events_until = 0.0
        """Until when it is refused: everything, and events. The budget is whole a minute after the first."""

    def charge(self, cost: float) -> None:
        """Spends of the budget. What empties it overdraws it by RELEASE_S at most."""
        if self._cost_s:
            now = self._clock()
            self._until = min(max(self._until, now - MINUTE_S) + cost * self._cost_s, now + RELEASE_S)
            self._events_until = max(self._events_until, self._until)

    def charge_read(self, asked: Kind | None) -> None:
        """`asked`: as of `read.api.Charge`."""
        self.charge(READS[asked])

    def block(self, left_ms: int) -> None:
        """Redis refuses the sender's events for so long."""
        self._events_until = max(self._events_until, self._clock() + left_ms / 1000)

    def left_ms(self) -> int:
        """Milliseconds until the sender may ask again; 0: it may now."""
        return max(0, int((self._until - self._clock()) * 1000)) if self._until else 0

    def events_left_ms(self) -> int:
        """Milliseconds until the sender may send events again; 0: it may now."""
        if not self._events_until:
            return 0
        left_ms = int((self._events_until - self._clock()) * 1000)
        if left_ms <= 0:
            self._events_until = 0.0
            return 0
        return left_ms


class Accounts:
    """Of all addresses. At most `addresses_max`; the one that came first is forgotten first, then Redis decides."""

    def __init__(self, budget: Budget, clock: Callable[[], float], limit: Limit | None = None) -> None:
        """`clock` returns seconds and never goes back. `limit`: of each address."""
        self._budget = budget
        self._limit = limit
        self._clock = clock
        self._by_address: dict[str, Account] = {}
        self._by_name: dict[str, Account] = {}

    def of(self, address: str) -> Account:
        """The account of an address. All addresses of one IPv6 /64 share one."""
        return self._by_address.get(address) or self._open(address)

    def _open(self, address: str) -> Account:
        name = payer(address)
        account = self._by_name.get(name)
        if account is None:
            make_room(self._by_name, self._budget.addresses_max)
            account = self._by_name[name] = Account(name, "", self._budget.per_minute, self._clock, self._limit)
        make_room(self._by_address, self._budget.addresses_max)
        self._by_address[address] = account
        return account


def is_producer(sender: str) -> bool:
    """Whether an account's name is that of a producer's key."""
    return sender.startswith(PRODUCER)


def address_limit(section: RateLimit) -> Limit | None:
    """How many events and new entities an address may send. None: as many as it likes."""
    events, entities = section.per_minute, section.new_entities_per_minute
    if events and entities >= events:
        entities = 0  # it takes an event to make an entity
    return Limit(events, entities) if events or entities else None


def payer(address: str) -> str:
    """Who pays for an address: an IPv4 address itself (also one mapped into IPv6), an IPv6 address' /64, and one payer
    for all who come by a unix socket."""
    if ":" not in address:
        return address or UNIX
    try:
        parsed = ipaddress.IPv6Address(address.strip("[]").partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))


def make_room(accounts: dict[str, Any], most: int) -> None:
    """Room for one more. Those that came first are forgotten first."""
    while len(accounts) >= most:
        del accounts[next(iter(accounts))]
