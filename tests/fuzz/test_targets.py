"""Every target of the fuzzer holds for its seeds, cut anywhere; and each sees a fault that is planted."""

from __future__ import annotations

import pytest

from daemon.importer.lines import Lines
from daemon.ingest.decode import Decoder
from daemon.spool import replay
from daemon.spool.record import Record, scan
from tests.fuzz import targets
from tests.fuzz.targets import TARGETS, Target

each_target = pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
named = {target.name: target for target in TARGETS}


@each_target
def test_it_holds_for_its_seeds_and_words(target: Target) -> None:
    for seed in target.seeds:
        target.check(seed)
        for part in range(0, len(seed), max(1, len(seed) // 40)):
            target.check(seed[:part])
            target.check(seed[part:])
    for word in target.words:
        target.check(word)
        for seed in target.seeds[-1:]:
            for at in range(0, len(seed), max(1, len(seed) // 20)):
                target.check(seed[:at] + word + seed[at:])


def test_a_fast_way_that_takes_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Decoder.good
    monkeypatch.setattr(
        Decoder, "good", lambda self, body, _="": good(self, body) or good(self, named["single"].seeds[0])
    )
    with pytest.raises(AssertionError):
        named["single"].check(b"{}")


def test_a_record_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "scan", lambda data, start: list(scan(data, start))[1:])
    segment = targets.HEADER + named["spool"].seeds[0][1:]
    events = [event for part in scan(segment, len(targets.HEADER)) if isinstance(part, Record) for event in part.events]
    with pytest.raises(AssertionError):
        targets.replay(segment, events)


def test_a_line_that_is_cut_with_its_chunk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lines, "feed", lambda _, chunk: iter(chunk.split(b"\n")))
    with pytest.raises(AssertionError):
        named["log"].check(named["log"].seeds[0])
