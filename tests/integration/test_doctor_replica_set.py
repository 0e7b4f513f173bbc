"""`tallyd doctor` on a replica set of three members: it judges the primary, which the flusher writes to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pymongo
import pytest

from daemon import config as configuration
from daemon.config import Config
from daemon.doctor import checks
from tests.kit.servers import MONGO, Server
from tests.kit.wait import wait_until

ELECTION_S = 120.0


def member(folder: Path) -> Server:
    def command(program: Path, data: Path, port: int) -> list[str]:
        return [*MONGO.command(program, data, port), "--replSet", "rs0", "--oplogSize", "16"]

    direct = "mongodb://127.0.0.1:{port}/tallyd?directConnection=true"
    return Server(msgspec.structs.replace(MONGO, command=command, url=direct), folder)


def hello(server: Server) -> dict[str, Any]:
    with pymongo.MongoClient[dict[str, Any]](server.url) as client:
        return dict(client.admin.command("hello"))


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[Server]]:
    """Three, with a primary and two secondaries."""
    three = [member(tmp_path / str(number)) for number in range(3)]
    with ExitStack() as stack:
        for server in three:
            stack.enter_context(server)
        hosts = [{"_id": number, "host": f"127.0.0.1:{server.port}"} for number, server in enumerate(three)]
        settings = {"electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500}
        with pymongo.MongoClient[dict[str, Any]](three[0].url) as client:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": hosts, "settings": settings})
        wait_until(
            lambda: (
                sum(hello(each).get("secondary", False) for each in three) == 2
                and any(hello(each)["isWritablePrimary"] for each in three)
            ),
            "a primary and two secondaries",
            ELECTION_S,
        )
        yield three


def config(members: list[Server]) -> Config:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in members)
    url = f"mongodb://{hosts}/tallyd?replicaSet=rs0"
    return configuration.load(environ={"TALLYD_MONGO__URL": url, "TALLYD_MONGO__TIMEOUT_MS": "10000"})


def severities(config: Config) -> dict[str, str]:
    return {each.check: each.severity for each in asyncio.run(checks.of_mongo(config))}


def test_a_healthy_set_is_sound_whichever_member_is_named_first(members: list[Server]) -> None:
    for turn in range(6):
        named = members[turn % 3 :] + members[: turn % 3]
        found = severities(config(named))
        assert (found["mongo.reachable"], found["mongo.primary"], found["mongo.write"]) == ("ok", "ok", "ok"), turn

    # Without a majority there is no primary. The member that is left can say so.
    primary = next(each for each in members if hello(each)["isWritablePrimary"])
    left, other = (each for each in members if each is not primary)
    primary.kill()
    other.kill()
    wait_until(lambda: "primary" not in hello(left), "no primary is known", ELECTION_S)
    found = severities(config(members))
    assert (found["mongo.reachable"], found["mongo.primary"], found["mongo.write"]) == ("ok", "fatal", "fatal")
    left.kill()  # asked to stop, it would wait for the others
