"""The laws, pure. Each function takes what was read and returns what is wrong.

    conservation   accepted + baseline = live + in flight + dead + applied                  per counter
    ledger         accepted = live + in flight + flushed + dead                            per counter and shard
    rollups        totals = the sum of each other complete rollup, dead letters added      per counter
    domains        Σ daily = the sum of whole domains' days, dead letters added            per counter, and day (deep)
    base           Σ daily = the sum of each coarser rollup ≤ totals, of what was taken over  per counter

`applied` is the sum of MongoDB's totals minus the part of claims in flight that is already in them. `baseline` is what
the totals held when this Redis began to count, and what an operator accepted since (`tallyd audit --accept`). It is 0
unless Redis once lost its memory, or a store was restored.

The first three laws are about what was counted, without bases. A history (`backfill --daily`) may begin later than its
counter. So the days' bases may sum to less than the totals', but never to more.

The laws hold at every instant, but several stores cannot be read at one instant. If nothing moved while they were
read, the laws are checked exactly (`conservation`, `ledger`, `rollups`). Otherwise only `bounds` is checked: MongoDB
holds all that was acknowledged before, and nothing that was not accepted by the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from daemon.domain.counter import add_up
from daemon.domain.rollup import COARSER, COMPLETE, DAILY, DOMAIN_DAILY, DOMAIN_HOURLY, HOURLY, TOTALS
from daemon.verify.audit.hot import Hot, Sums
from daemon.verify.audit.rollups import Rollups

REBUILD = "`tallyd audit --rebuild-domains` has the flush daemon add them up anew"


class Broken(Struct, frozen=True):
    """A law that does not hold. `difference`: what is there minus what should be there."""

    law: str
    counter: str
    difference: int
    detail: str
    shard: int | None = None


class Line(Struct, frozen=True):
    """The conservation law of one counter. `base` is what was taken over; no other amount includes it."""

    counter: str
    accepted: int
    baseline: int
    live: int
    in_flight: int
    applied: int
    dead: int
    base: int

    @property
    def difference(self) -> int:
        return self.live + self.in_flight + self.applied + self.dead - self.accepted - self.baseline


def lines(hot: Sequence[Hot], rollups: Rollups, counters: Sequence[str]) -> list[Line]:
    totals, ahead, dead = (source[TOTALS.name] for source in (rollups.sums, rollups.ahead, rollups.dead))
    return [
        Line(
            counter,
            accepted=sum(shard.booked("accepted").get(counter, 0) for shard in hot),
            baseline=rollups.baseline.get(counter, 0),
            live=sum(shard.live.get(counter, 0) for shard in hot),
            in_flight=sum(shard.in_flight_sums().get(counter, 0) for shard in hot),
            applied=totals.get(counter, 0) - ahead.get(counter, 0),
            dead=dead.get(counter, 0),
            base=rollups.bases[TOTALS.name].get(counter, 0),
        )
        for counter in counters
    ]


def conservation(stated: Sequence[Line]) -> list[Broken]:
    return [
        Broken(
            "conservation", line.counter, line.difference,
            f"accepted {line.accepted} + baseline {line.baseline}, but live {line.live} + in flight {line.in_flight}"
            f" + applied {line.applied} + dead {line.dead}",
        )
        for line in stated
        if line.difference
    ]  # fmt: skip


def ledger(hot: Sequence[Hot]) -> list[Broken]:
    broken = []
    for shard in hot:
        accepted = shard.booked("accepted")
        parts = {
            "live": shard.live, "in flight": shard.in_flight_sums(),
            "flushed": shard.booked("flushed"), "dead": shard.booked("dead"),
        }  # fmt: skip
        for counter in sorted(accepted.keys() | add_up(parts.values())):
            found, wanted = {name: sums.get(counter, 0) for name, sums in parts.items()}, accepted.get(counter, 0)
            if difference := sum(found.values()) - wanted:
                detail = " + ".join(f"{name} {amount}" for name, amount in found.items())
                said = f"accepted {wanted}, but {detail}"
                broken.append(Broken("ledger", counter, difference, said, shard.shard))
    return broken


def rollups_agree(rollups: Rollups, counters: Sequence[str]) -> list[Broken]:
    return [
        Broken(
            "rollups", counter, difference,
            f"{name} sum to {totals + apart + difference}, totals to {totals} (dead letters included)"
            + (f"; {apart:+} were accepted" if apart else ""),
        )
        for name, counter, totals, apart, difference in _apart(rollups, counters)
        if difference
    ]  # fmt: skip


def domains_agree(rollups: Rollups, counters: Sequence[str]) -> list[Broken]:
    """Bases are compared unless a history is being taken over."""
    if not rollups.is_built:
        return []
    broken = []
    for counter in counters:
        for what, of, whole, field in (
            ("days", DAILY, DOMAIN_DAILY, counter),
            ("hours", HOURLY, DOMAIN_HOURLY, counter),
            ("hours of whole domains", DOMAIN_HOURLY, DOMAIN_DAILY, f"hourly.{counter}"),
        ):
            parts, found = _net(rollups, of.name, counter), _net(rollups, whole.name, field)
            if parts != found:
                said = f"{field} of whole domains sums to {found}, the {what} to {parts} (dead letters included)"
                broken.append(Broken("domains", counter, found - parts, f"{said}. {REBUILD}"))
        parts, found = (rollups.bases[name].get(counter, 0) for name in (DAILY.name, DOMAIN_DAILY.name))
        if parts != found and rollups.builds.histories == rollups.builds.based:
            said = f"bases of whole domains sum to {found}, those of days to {parts}"
            broken.append(Broken("domains", counter, found - parts, f"{said}. {REBUILD}"))
    return broken


def _net(rollups: Rollups, name: str, counter: str) -> int:
    """The sum of a rollup, without what is in flight and with its dead letters."""
    sums, ahead, dead = (source[name].get(counter, 0) for source in (rollups.sums, rollups.ahead, rollups.dead))
    return sums - ahead + dead


def acceptable(stated: Sequence[Line], rollups: Rollups, counters: Sequence[str]) -> dict[str, Sums]:
    """By rollup and counter, the differences that `Acceptance` takes. Empty if there are none."""
    found: dict[str, Sums] = {TOTALS.name: {line.counter: line.difference for line in stated if line.difference}}
    for name, counter, _, _, difference in _apart(rollups, counters):
        if difference:
            found.setdefault(name, {})[counter] = difference
    return {name: differences for name, differences in found.items() if differences}


def _apart(rollups: Rollups, counters: Sequence[str]) -> Iterator[tuple[str, str, int, int, int]]:
    """Rollup, counter, the totals' sum, what was accepted of its difference to that, and the rest of the difference."""
    for counter in counters:
        net = {kind.name: _net(rollups, kind.name, counter) for kind in COMPLETE}
        totals = net[TOTALS.name]
        for name, n in net.items():
            apart = rollups.apart.get(name, {}).get(counter, 0)
            yield name, counter, totals, apart, n - totals - apart


def bases_agree(bases: Mapping[str, Sums], counters: Sequence[str], who: str = "") -> list[Broken]:
    """`bases`: sums by kind name and counter, of everything or of one entity (`who`, its key)."""
    where = f"{who}: " if who else ""
    broken = []
    for counter in counters:
        totals, daily = bases[TOTALS.name].get(counter, 0), bases[DAILY.name].get(counter, 0)
        if daily > totals:
            detail = f"{where}the days' bases sum to {daily}, more than the totals' {totals}"
            broken.append(Broken("base", counter, daily - totals, detail))
        for kind in COARSER:
            found = bases[kind.name].get(counter, 0)
            if found != daily:
                detail = f"{where}{kind.name} bases sum to {found}, daily ones to {daily}"
                broken.append(Broken("base", counter, found - daily, detail))
    return broken


def bounds(before: Sequence[Hot], after: Sequence[Sums], rollups: Rollups, counters: Sequence[str]) -> list[Broken]:
    """What holds while counts move. `after`: each shard's accepted amounts, read after everything else."""
    broken = []
    for counter in counters:
        written = rollups.sums[TOTALS.name].get(counter, 0) + rollups.dead[TOTALS.name].get(counter, 0)
        baseline = rollups.baseline.get(counter, 0)
        least = baseline + sum(
            shard.booked("flushed").get(counter, 0) + shard.booked("dead").get(counter, 0) for shard in before
        )
        most = baseline + sum(accepted.get(counter, 0) for accepted in after)
        if not least <= written <= most:
            said = (
                f"MongoDB holds {written} (dead letters included); at least {least} were acknowledged, at most {most}"
                " accepted"
            )
            broken.append(Broken("bounds", counter, written - (least if written < least else most), said))
    return broken
