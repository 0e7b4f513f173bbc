"""A claim turned into documents: the amounts of its entities, summed per document of the five rollups.

Pure. Amounts that name no entity, no counter or no day are put aside as `Malformed`, not raised: they are foreign
values somebody put into Redis, and the rest of the claim must go on.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.domain.counter import INT64_MAX, parse_amount, parse_field
from daemon.domain.entity import parse_entity
from daemon.domain.rollup import KINDS, Document, Kind, Malformed, Rollup


class Builder:
    """The documents of what is added: amounts as (entity key, [(field, amount), ...])."""

    def __init__(self) -> None:
        self._grouped: dict[Kind, dict[str, Document]] = {kind: {} for kind in KINDS}
        self._malformed: list[Malformed] = []

    def add(self, amounts: Iterable[tuple[str, list[tuple[str, str]]]]) -> None:
        grouped, malformed = self._grouped, self._malformed
        for key, pairs in amounts:
            entity = parse_entity(key)
            for name, text in pairs:
                field, amount = parse_field(name), parse_amount(text)
                if entity is None or field is None or amount is None:
                    malformed.append(Malformed(key, name, text))
                    continue
                targets = [
                    (grouped[kind], key if bucket is None else f"{key}:{bucket}", bucket)
                    for kind, bucket in zip(KINDS, (None, *field.buckets), strict=True)
                ]
                if not all(_fits(documents.get(id_), field.counter, amount) for documents, id_, _ in targets):
                    malformed.append(Malformed(key, name, text))
                    continue
                for documents, id_, bucket in targets:
                    document = documents.get(id_)
                    if document is None:
                        documents[id_] = Document(id_, entity, bucket, {field.counter: amount})
                    else:
                        document.deltas[field.counter] = document.deltas.get(field.counter, 0) + amount

    def rollup(self) -> Rollup:
        return Rollup({kind: list(documents.values()) for kind, documents in self._grouped.items()}, self._malformed)


def build(amounts: Iterable[tuple[str, list[tuple[str, str]]]]) -> Rollup:
    """The documents of these amounts."""
    builder = Builder()
    builder.add(amounts)
    return builder.rollup()


def _fits(document: Document | None, counter: str, amount: int) -> bool:
    """Whether the document's sum stays a 64-bit integer, which is all MongoDB can be asked to add."""
    return document is None or abs(document.deltas.get(counter, 0) + amount) <= INT64_MAX
