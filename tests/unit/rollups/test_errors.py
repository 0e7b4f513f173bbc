"""An error of MongoDB as one sentence: why, and nothing of what pymongo appends."""

from __future__ import annotations

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from daemon.rollups.errors import SENTENCE_CHARACTERS_MAX, sentence

REPLY = {
    "ok": 0.0,
    "errmsg": "Authentication failed.",
    "code": 18,
    "codeName": "AuthenticationFailed",
    "$clusterTime": {"signature": {"hash": b"secret", "keyId": 7}},
}
REFUSED = (
    "db:1: [Errno 111] Connection refused (configured timeouts: socketTimeoutMS: 20000.0ms, connectTimeoutMS: 2.0ms)"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OperationFailure(f"Authentication failed., full error: {REPLY}", 18, REPLY),
            "Authentication failed (AuthenticationFailed)",
        ),
        (OperationFailure("no", 1, {"errmsg": "no such command: 'x'"}), "no such command: 'x'"),
        (BulkWriteError({"writeErrors": [{"errmsg": "E11000"}]}), "batch op errors occurred"),
        (
            ServerSelectionTimeoutError(f"{REFUSED},{REFUSED}, Timeout: 0.3s, Topology Description: <...>"),
            "db:1: [Errno 111] Connection refused,db:1: [Errno 111] Connection refused",
        ),
        (AutoReconnect("connection closed\nby whom?"), "connection closed"),
        (PyMongoError("x" * 10_000), "x" * SENTENCE_CHARACTERS_MAX),
    ],
)
def test_an_error_is_a_sentence(error: PyMongoError, said: str) -> None:
    assert sentence(error) == said


def test_the_drivers_own_error_about_a_server_that_is_away_is_one_too() -> None:
    with MongoClient("mongodb://127.0.0.1:1/x", timeoutMS=100) as client, pytest.raises(PyMongoError) as caught:
        client.x.command("ping")
    assert "Topology" in str(caught.value), "or pymongo has become brief itself"
    assert sentence(caught.value) == "127.0.0.1:1: [Errno 111] Connection refused"
