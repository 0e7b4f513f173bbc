"""A claim turned into documents: the amounts of its entities, summed per document of the five rollups.

Pure. Amounts that name no entity, no counter or no day are put aside as `Malformed`, not raised: they are foreign
values somebody put into Redis, and the rest of the claim must go on.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.domain.counter import INT64_MAX, parse_amount, parse_field
from daemon.domain.entity import parse_entity
from daemon.domain.rollup import KINDS, TOTALS, Document, Kind, Malformed, Rollup


def build(amounts: Iterable[tuple[str, list[tuple[str, str]]]]) -> Rollup:
    """The documents of a claim's (entity key, [(field, amount), ...])."""
    grouped: dict[Kind, dict[str, Document]] = {kind: {} for kind in KINDS}
    malformed: list[Malformed] = []
    for key, pairs in amounts:
        entity = parse_entity(key)
        for name, text in pairs:
            field, amount = parse_field(name), parse_amount(text)
            if entity is None or field is None or amount is None:
                malformed.append(Malformed(key, name, text))
                continue
            if not _fits(grouped[TOTALS].get(key), field.counter, amount):
                malformed.append(Malformed(key, name, text))
                continue
            for kind, bucket in zip(KINDS, (None, *field.buckets), strict=True):
                id_ = key if bucket is None else f"{key}:{bucket}"
                documents = grouped[kind]
                document = documents.get(id_)
                if document is None:
                    documents[id_] = Document(id_, entity, bucket, {field.counter: amount})
                else:
                    document.deltas[field.counter] = document.deltas.get(field.counter, 0) + amount
    return Rollup({kind: list(documents.values()) for kind, documents in grouped.items()}, malformed)


def _fits(totals: Document | None, counter: str, amount: int) -> bool:
    """Whether the entity's sum stays a 64-bit integer; the other rollups' sums are parts of it."""
    return totals is None or abs(totals.deltas.get(counter, 0) + amount) <= INT64_MAX
