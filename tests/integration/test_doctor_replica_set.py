"""A replica set of three members. `tallyd doctor` judges the primary, which the flusher writes to, and reads floors
from."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pymongo
import pytest

from daemon import config as configuration
from daemon.config import Config
from daemon.doctor import checks
from daemon.doctor.finding import Finding
from daemon.rollups.floors import raise_floor, read_floor
from daemon.rollups.mongo import MongoSink
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


def primary_of(members: list[Server]) -> Server:
    return next(each for each in members if hello(each).get("isWritablePrimary"))


def reconfigure(members: list[Server], change: Callable[[dict[str, Any]], None]) -> None:
    with pymongo.MongoClient[dict[str, Any]](primary_of(members).url) as client:
        settings = client.admin.command("replSetGetConfig")["config"]
        change(settings)
        client.admin.command("replSetReconfig", {**settings, "version": settings["version"] + 1})


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
        # From now on no slow moment of this machine may change who is primary.
        reconfigure(three, lambda changed: changed["settings"].update(electionTimeoutMillis=600_000))
        wait_until(lambda: len({hello(each)["setVersion"] for each in three}) == 1, "all know it", ELECTION_S)
        yield three


def config(members: list[Server], options: str = "replicaSet=rs0") -> Config:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in members)
    url = f"mongodb://{hosts}/tallyd?{options}"
    return configuration.load(environ={"TALLYD_MONGO__URL": url, "TALLYD_MONGO__TIMEOUT_MS": "10000"})


def findings(config: Config) -> dict[str, Finding]:
    return {each.check: each for each in asyncio.run(checks.of_mongo(config))}


def severities(config: Config, *names: str) -> list[str]:
    found = findings(config)
    return [found[f"mongo.{name}"].severity for name in names]


def alone(server: Server) -> Config:
    return config([server], "directConnection=true")


def make_arbiter(members: list[Server], chosen: Server) -> None:
    """Takes a member out of the set, and back in without its data; the journal is no longer part of a majority."""

    def leave(settings: dict[str, Any]) -> None:
        settings["members"] = [each for each in settings["members"] if not each["host"].endswith(f":{chosen.port}")]
        settings["writeConcernMajorityJournalDefault"] = False

    def enter(settings: dict[str, Any]) -> None:
        settings["members"].append({"_id": 9, "host": f"127.0.0.1:{chosen.port}", "arbiterOnly": True})

    with pymongo.MongoClient[dict[str, Any]](primary_of(members).url) as client:
        # Or the arbiter would change what a write waits for by default, and MongoDB refuses it.
        client.admin.command("setDefaultRWConcern", defaultWriteConcern={"w": "majority"})
    reconfigure(members, leave)
    chosen.kill()
    shutil.rmtree(chosen.data)
    chosen.start()
    reconfigure(members, enter)
    wait_until(lambda: hello(chosen).get("arbiterOnly"), "the arbiter is one", ELECTION_S)


def test_the_doctor_judges_the_set_and_not_the_member_that_answers(members: list[Server]) -> None:
    for turn in range(3):
        named = members[turn:] + members[:turn]
        assert severities(config(named), "reachable", "primary", "write", "majority") == ["ok"] * 4, turn
    first = primary_of(members)
    # A member that is named alone is asked alone.
    for each in members:
        wanted = ["ok", "ok"] if each is first else ["fatal", "fatal"]
        assert severities(alone(each), "primary", "write") == wanted
        assert str(first.port) in findings(alone(each))["mongo.primary"].found or each is first

    # An arbiter in place of a member with data.
    arbiter, other = (each for each in members if each is not first)
    make_arbiter(members, arbiter)
    for named in (members, members[::-1]):
        assert severities(config(named), "reachable", "primary", "write") == ["ok"] * 3
        found = findings(config(named))["mongo.majority"]
        assert found.severity == "warning"
        assert found.found.startswith("2 with data, 1 arbiter; writeConcernMajorityJournalDefault is off")
    assert severities(alone(arbiter), "reachable", "primary", "write") == ["ok", "fatal", "fatal"]

    # The arbiter's vote keeps a primary. But the other copy, for which a write waits, is gone.
    other.freeze()
    assert severities(config(members), "reachable", "primary", "write") == ["ok", "ok", "fatal"]

    # Without a majority there is no primary. The member that is left can say so.
    first.kill()
    arbiter.kill()
    other.thaw()
    wait_until(lambda: "primary" not in hello(other), "no primary is known", ELECTION_S)
    assert severities(config(members), "reachable", "primary", "write") == ["ok", "fatal", "fatal"]
    other.kill()  # asked to stop, it would wait for the others


def test_a_floor_is_read_from_the_primary_whatever_the_address_prefers(members: list[Server]) -> None:
    """A secondary that lags would look like a MongoDB that was restored."""

    async def raise_and_read() -> list[int]:
        async with MongoSink(config(members, "replicaSet=rs0&readPreference=secondary").mongo) as mongo:
            await raise_floor(mongo, 0, 1)
            lagging = next(each for each in members if each is not primary_of(members))
            with pymongo.MongoClient[dict[str, Any]](lagging.url) as client:
                client.admin.command("fsync", lock=True)
                try:
                    await raise_floor(mongo, 0, 2)
                    return [(await read_floor(mongo, 0)).seq for _ in range(50)]
                finally:
                    client.admin.command("fsyncUnlock")

    assert set(asyncio.run(raise_and_read())) == {2}
