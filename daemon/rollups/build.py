"""A claim turned into documents: the amounts of its entities, summed per document of each rollup.

Pure; called by the flusher, and by readers of what is in flight. Amounts that name no entity, no counter or no bucket
are put aside as `Malformed`, not raised: they are foreign values in Redis, and the rest of the claim must go on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from daemon.domain.counter import INT64_MAX, parse_amount, parse_field
from daemon.domain.entity import parse_entity
from daemon.domain.rollup import KINDS, Document, Kind, Malformed, Rollup

Amounts = Iterable[tuple[str, list[tuple[str, str]]]]
"""(entity key, [(field, amount), ...])."""


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


def first_fields(kind: Kind, document: Document, zeros: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """What a document starts with: its natural key, and 0 for the counters of its domain that nothing moved yet.

    `zeros`: the counters of each domain.
    """
    domain, type_, id_ = document.entity
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
