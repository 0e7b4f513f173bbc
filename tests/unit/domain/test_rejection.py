"""The texts of a 422: all in one file, and the same for the same fault, whether of an event or of a parameter."""

from __future__ import annotations

import json
from pathlib import Path

import daemon
from daemon.config import load
from daemon.domain.rejection import Rejection
from daemon.ingest.decode import Decoder, build_catalogue
from daemon.read.parameters import Parameters
from tests.kit.events import event

NOW_S = 1_771_500_000.0
ITEMS_MAX = 3
DECODER = Decoder(build_catalogue(load(environ={})), batch_events_max=ITEMS_MAX, clock=lambda: NOW_S)


def of_event(**fields: object) -> dict[str, list[str]]:
    return errors_in(DECODER.single(json.dumps(event(**fields)).encode()))


def errors_in(found: object) -> dict[str, list[str]]:
    assert isinstance(found, Rejection)
    return found.errors


def test_ingest_and_reads_say_the_same_of_too_many_items() -> None:
    parameters = Parameters("events=a,b,c,d")
    parameters.entity_ids("events", "event", ITEMS_MAX)
    of_batch = errors_in(DECODER.batch(json.dumps([{}] * (ITEMS_MAX + 1)).encode()))
    assert parameters.errors == of_batch == {"events": ["The events field must not have more than 3 items."]}


def test_ingest_and_reads_say_the_same_of_an_integer() -> None:
    for text, said in (
        ("x", "The value field must be an integer."),
        ("0", "The value field must be between 1 and 100."),
    ):
        parameters = Parameters(f"value={text}")
        parameters.integer("value", 1, 100, 1)
        assert parameters.errors == of_event(value=int(text) if text == "0" else text) == {"value": [said]}


def test_ingest_and_reads_say_the_same_of_a_choice() -> None:
    parameters = Parameters("entity_type=x")
    parameters.choice("entity_type", ("tag", "movie", "actor"), "tag")
    said = "The selected entity type is invalid. It must be one of: actor, movie, tag."
    assert parameters.errors == of_event(entity_type="x") == {"entity_type": [said]}


def test_ingest_and_reads_say_the_same_of_an_entitys_id() -> None:
    for id_ in ("", "x" * 256, "a\x7fb"):
        parameters = Parameters("")
        parameters.check_entity_id(id_)
        assert parameters.errors["id"] == of_event(entity_id=id_)["entity_id"]


def test_no_other_file_holds_a_text_of_a_422() -> None:
    tree = Path(daemon.__file__).parent
    holders = {
        path.relative_to(tree).as_posix()
        for path in tree.rglob("*.py")
        if any(words in path.read_text() for words in ("The selected ", " field must ", " field is required"))
    }
    assert holders == {"domain/rejection.py"}
