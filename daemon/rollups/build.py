"""A claim turned into documents: the amounts of its entities, summed per document of each rollup.

Pure; called by the flusher, and by readers of what is in flight. Amounts that name no entity, no counter or no bucket
are put aside as `Malformed`, not raised: they are foreign values in Redis, and the rest of the claim must go on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from daemon.domain.counter import INT64_MAX, parse_amount, parse_field
from daemon.domain.entity import Entity, parse_entity
from daemon.domain.rollup import (
    DAY_CHARS,
    DOMAIN_DAILY,
    DOMAIN_HOURLY,
    KINDS,
    TOTALS,
    Document,
    Kind,
    Malformed,
    OfDomains,
    Rollup,
)

Amounts = Iterable[tuple[str, list[tuple[str, str]]]]
"""(entity key, [(field, amount), ...])."""
Place = tuple[str, str, str]
"""(domain, entity type, bucket). The bucket "" holds what has none any more: it expired before it was summed."""


class Builder:
    """The documents of all amounts added so far."""

    def __init__(self) -> None:
        self._grouped: tuple[dict[str, Document], ...] = tuple({} for _ in KINDS)
        """Documents by id, a dict for each kind."""
        self._malformed: list[Malformed] = []

    def add(self, amounts: Amounts) -> None:
        grouped, malformed = self._grouped, self._malformed
        for key, pairs in amounts:
            entity = parse_entity(key)
            for name, text in pairs:
                field, amount = parse_field(name), parse_amount(text)
                if entity is None or field is None or amount is None:
                    malformed.append(Malformed(key, name, text))
                    continue
                counter = field.counter
                targets = [
                    (grouped[kind], key if bucket is None else f"{key}:{bucket}", bucket)
                    for kind, bucket in field.buckets
                ]
                if not all(_fits(documents.get(id_), counter, amount) for documents, id_, _ in targets):
                    malformed.append(Malformed(key, name, text))
                    continue
                for documents, id_, bucket in targets:
                    document = documents.get(id_)
                    if document is None:
                        documents[id_] = Document(id_, entity, bucket, {counter: amount})
                    else:
                        document.amounts[counter] = document.amounts.get(counter, 0) + amount

    def rollup(self) -> Rollup:
        documents = {kind: list(by_id.values()) for kind, by_id in zip(KINDS, self._grouped, strict=True)}
        return Rollup(documents, self._malformed)


def build(amounts: Amounts) -> Rollup:
    """The documents of these amounts."""
    builder = Builder()
    builder.add(amounts)
    return builder.rollup()


def set_aside(rollup: Rollup, positions: Sequence[int]) -> set[str]:
    """The keys of a claim's entities at these positions among its sorted keys."""
    keys = sorted(document.id for document in rollup.documents[TOTALS]) if positions else []
    return {keys[position] for position in positions}


def of_domains(rollup: Rollup, generation: int, shard: int, aside: Collection[str]) -> dict[Kind, list[Document]]:
    """The documents of whole domains that a claim adds to: the sums of its entities', but for those set `aside` (keys).

    All that apply the claim get the same documents, in whatever order its parts came.
    """
    days, hours = (_sums(rollup.documents[kind.of], aside) for kind in (DOMAIN_DAILY, DOMAIN_HOURLY))
    add_hours(days, hours)
    documents: dict[Kind, list[Document]] = {}
    for kind, sums in ((DOMAIN_DAILY, days), (DOMAIN_HOURLY, hours)):
        if sums:
            documents[kind] = list(domain_documents(kind, generation, str(shard), sums))
    return documents


def _sums(documents: Iterable[Document], aside: Collection[str]) -> dict[Place, dict[str, int]]:
    sums: dict[Place, dict[str, int]] = {}
    for _, entity, bucket, amounts in documents:
        if aside and entity.key in aside:
            continue
        place = (entity[0], entity[1], bucket or "")
        of_place = sums.get(place)
        if of_place is None:
            sums[place] = dict(amounts)
            continue
        for counter, amount in amounts.items():
            of_place[counter] = of_place.get(counter, 0) + amount
    return sums


def add_hours(days: dict[Place, dict[str, int]], hours: Mapping[Place, Mapping[str, int]]) -> None:
    """Adds to each day how much of it came with an hour: the fields `hourly.<counter>`."""
    for (domain, entity_type, hour), amounts in hours.items():
        of_day = days.setdefault((domain, entity_type, hour[:DAY_CHARS]), {})
        for counter, amount in amounts.items():
            field = f"hourly.{counter}"
            of_day[field] = of_day.get(field, 0) + amount


def domain_documents(
    kind: OfDomains, generation: int, part: str, sums: Mapping[Place, Mapping[str, int]]
) -> Iterator[Document]:
    """The documents of these sums: amounts by field.

    A sum that is no 64-bit integer is spread over several documents: the part has a number from the second on.
    """
    for (domain, entity_type, bucket), rest in sums.items():
        n, left = 0, dict(rest)
        while left:
            named = f"{part}+{n}" if n else part
            id_ = kind.id_of(generation, domain, entity_type, bucket, named)
            fits = {field: max(-INT64_MAX, min(amount, INT64_MAX)) for field, amount in left.items()}
            yield Document(id_, Entity(domain, entity_type, ""), bucket, fits)
            left = {field: amount - fits[field] for field, amount in left.items() if amount != fits[field]}
            n += 1


def first_fields(kind: Kind, document: Document, zeros: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """What a document starts with: its natural key, and 0 for the counters of its domain that nothing moved yet.

    `zeros`: the counters of each domain. Documents of whole domains do without.
    """
    domain, type_, id_ = document.entity
    if isinstance(kind, OfDomains):
        return {"domain": domain, "entity_type": type_, kind.bucket_field: document.bucket}
    first: dict[str, Any] = {"domain": domain, "entity_type": type_, "entity_id": id_}
    if kind.bucket_field is not None:
        first[kind.bucket_field] = document.bucket
    for counter in zeros.get(domain, ()):
        if counter not in document.amounts:
            first[counter] = 0
    return first


def _fits(document: Document | None, counter: str, amount: int) -> bool:
    """Whether the document's sum stays a 64-bit integer, which is all MongoDB can be asked to add."""
    return document is None or abs(document.amounts.get(counter, 0) + amount) <= INT64_MAX
