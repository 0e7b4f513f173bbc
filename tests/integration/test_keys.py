"""Keys of producers and readers: made, scoped, exchanged and revoked while the daemon runs."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until

PLAIN, HASHED, READER = "a-plain-key-of-today", "another-key-of-today", "a-reader-s-key-of-today"
CONFIG = {
    "PRODUCERS__KEYS": json.dumps({"shop": PLAIN, "press": "sha256:" + hashlib.sha256(HASHED.encode()).hexdigest()}),
    "READ__KEY": "sha256:" + hashlib.sha256(READER.encode()).hexdigest(),
    "DOMAINS": json.dumps(
        {"jav": {"entity_types": ["movie"], "actions": ["view", "download"]}, "blog": {"entity_types": ["post"]}}
    ),
}


class Keys:
    """`tallyd key` and a daemon that uses its file."""

    def __init__(self, system: System, ingest: Ingest, file: Path, env: dict[str, str]) -> None:
        self.system, self.ingest, self.file, self.env = system, ingest, file, env

    def tallyd(self, *args: str, check: bool = True) -> str:
        done = self.system.tallyd("key", *args, check=check, **self.env)
        return done.stdout.strip() if check else done.stderr

    def new(self, *args: str) -> str:
        key = self.tallyd("new", *args)
        self.reload()
        return key

    def reload(self) -> None:
        before = self.ingest.text().count("Reloaded; ")
        self.ingest.send(signal.SIGHUP)
        wait_until(lambda: self.ingest.text().count("Reloaded; ") > before, "it is reloaded")

    def listed(self) -> dict[str, dict[str, str]]:
        return {each["id"]: each for each in json.loads(self.tallyd("list", "--json"))}

    def status(self, key: str = "", path: str = EVENTS, **fields: object) -> int:
        headers = {"x-tallyd-key": key} if key else {}
        return self.ingest.post(event(**fields), path, headers=headers).status_code


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def keys(
    shared_system: System, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keys]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    env = {**CONFIG, "KEYS__FILE": str(file), "HTTP__INTERFACE": request.param}
    with shared_system.ingest(**env, HTTP__METRICS_PORT="0") as ingest:
        yield Keys(shared_system, ingest, file, env)


def test_keys_of_the_configuration_are_taken_plain_and_hashed(keys: Keys) -> None:
    assert [keys.status(key) for key in (PLAIN, HASHED, "no-key-of-anybody")] == [202, 202, 401]
    answer = keys.ingest.client.get("/api/v1/analytics/totals/jav/movie/a", headers={"x-tallyd-key": READER})
    assert answer.status_code == 200


def test_a_producer_exchanges_its_key_without_a_pause(keys: Keys) -> None:
    old = keys.new("press")
    new = keys.new("press")
    assert old != new
    assert [keys.status(key) for key in (old, new)] == [202, 202]
    keys.tallyd("revoke", old.partition(".")[0])
    keys.reload()
    assert [keys.status(key) for key in (old, new)] == [401, 202]
    twice = {"event_id": secrets.token_hex(8)}
    first = keys.ingest.post([event(**twice)], BATCH, headers={"x-tallyd-key": new}).json()
    again = keys.ingest.post([event(**twice)], BATCH, headers={"x-tallyd-key": HASHED}).json()
    assert (first["accepted"], again["duplicates"]) == (1, 1), "both keys are the producer's, and so are the ids"


def test_the_file_holds_no_key_and_nobody_else_may_read_it(keys: Keys) -> None:
    key = keys.new("press")
    assert key not in keys.file.read_text()
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600
    keys.file.chmod(0o640)
    keys.new("press")
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o640, "an operator's mode stays"


def test_a_key_sends_what_it_is_for(keys: Keys) -> None:
    key = keys.new("shop", "--domain", "jav", "--action", "view")
    headers = {"x-tallyd-key": key}
    assert keys.status(key) == 202
    refused = keys.ingest.post(event(action="download"), headers=headers)
    assert (refused.status_code, list(refused.json()["errors"])) == (422, ["action"])
    refused = keys.ingest.post(event(domain="blog", entity_type="post"), headers=headers)
    assert refused.status_code == 422
    assert refused.json()["errors"]["domain"] == ["The selected domain is invalid. It must be one of: jav."]
    mixed = keys.ingest.post([event(), event(action="download"), event()], BATCH, headers=headers).json()
    assert (mixed["accepted"], [each["index"] for each in mixed["rejected"]]) == (2, [1])
    assert keys.status(PLAIN, action="download") == 202, "another key has its own scope"


def test_a_key_may_have_a_limit_of_its_own(keys: Keys) -> None:
    name = f"p{secrets.token_hex(4)}"
    limited, other = keys.new(name, "--events-per-minute", "3"), keys.new("press")
    assert [keys.status(limited) for _ in range(4)] == [202] * 3 + [429]
    assert [keys.status(other) for _ in range(4)] == [202] * 4


def test_a_key_expires(keys: Keys) -> None:
    today = dt.datetime.now(dt.UTC).date()
    good = keys.new("shop", "--expires", f"{today + dt.timedelta(days=2)}")
    over = keys.new("shop", "--expires", f"{today}")
    assert [keys.status(key) for key in (good, over)] == [202, 401]
    reader = keys.new("press", "--read", "--expires", f"{today}")
    answer = keys.ingest.client.get("/openapi.json", headers={"x-tallyd-key": reader})
    assert answer.status_code == 401


def test_readers_have_keys_of_their_own(keys: Keys) -> None:
    first, second = keys.new("dashboard", "--read"), keys.new("dashboard", "--read")
    for key, status in ((first, 200), (second, 200), (PLAIN, 401), ("", 401)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        assert keys.ingest.client.get("/openapi.json", headers=headers).status_code == status
    assert keys.status(first) == 401, "a reader sends no events"


def test_the_list_shows_when_a_key_came_last(keys: Keys) -> None:
    used, unused = keys.new("shop"), keys.new("shop", "--action", "view")
    keys.status(used)
    ids = [key.partition(".")[0] for key in (used, unused)]
    wait_until(lambda: keys.system.redis.hexists("anl:keys", ids[0]), "its use is noted")
    listed = keys.listed()
    assert listed[ids[0]]["last_used"].startswith(f"{dt.datetime.now(dt.UTC):%Y-%m}")
    assert (listed[ids[1]]["last_used"], listed[ids[1]]["scope"]) == ("", "view")
    assert {"shop", "press"} <= listed.keys(), "those of the configuration, too"


def signature(key: str, body: bytes, path: str = EVENTS, at_s: float | None = None) -> dict[str, str]:
    at = int(time.time() if at_s is None else at_s)
    made = hmac.new(key.encode(), f"{at}.{path}.".encode() + body, hashlib.sha256).hexdigest()
    return {"x-tallyd-signature": f"key={key.partition('.')[0]},t={at},v1={made}"}


def test_a_signed_request_needs_no_key_on_the_wire(keys: Keys) -> None:
    key = keys.new("shop", "--signed", "--action", "view")
    body = json.dumps(event(event_id="signed")).encode()

    def sent(headers: dict[str, str], content: bytes = body, path: str = EVENTS) -> int:
        return keys.ingest.post(content, path, headers=headers).status_code

    assert sent(signature(key, body)) == 202
    for wrong in (
        signature(key, body + b" "),
        signature(key, body, BATCH),
        signature(key, body, at_s=time.time() - 301),
        signature(key, body, at_s=time.time() + 310),
        signature(f"{key.partition('.')[0]}.another", body),
        signature("nobody.another", body),
        {"x-tallyd-signature": "key"},
        {"x-tallyd-signature": f"key={key.partition('.')[0]},t=-1,v1="},
    ):
        assert sent(wrong) == 401, wrong
    download = json.dumps(event(action="download")).encode()
    assert sent(signature(key, download), download) == 422, "it has its scope"
    again = [event(event_id="signed")]
    batch = json.dumps(again).encode()
    answer = keys.ingest.post(batch, BATCH, headers=signature(key, batch, BATCH)).json()
    assert answer["duplicates"] == 1, "what is sent again is known"
    assert keys.status(key) == 401, "a key that signs is not sent"


SIGNING = {"id": "sign01", "name": "shop", "secret": "sign01.a-signing-secret-0123456789"}


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_the_limit_of_an_address_is_not_that_of_a_producer_that_signs_from_there(
    shared_system: System, interface: str
) -> None:
    env = {"KEYS__ENTRIES": json.dumps([SIGNING]), "RATE_LIMIT__PER_MINUTE": "5", "HTTP__INTERFACE": interface}
    with shared_system.ingest(**env) as ingest:
        assert [ingest.post(event()).status_code for _ in range(7)][-1] == 429
        body = json.dumps(event()).encode()
        assert ingest.post(body, headers=signature(SIGNING["secret"], body)).status_code == 202


def test_a_signature_of_a_key_that_has_expired_is_no_request_without_a_key(shared_system: System) -> None:
    with shared_system.ingest(KEYS__ENTRIES=json.dumps([SIGNING | {"expires": "2020-01-01"}])) as ingest:
        body = json.dumps(event()).encode()
        assert ingest.post(body, headers=signature(SIGNING["secret"], body)).status_code == 401


def test_a_wrong_file_changes_nothing(keys: Keys) -> None:
    key = keys.new("shop")
    good = keys.file.read_bytes()
    try:
        for wrong in (b"{", b'{"entries": [{"id": "abcdef", "name": "x"}]}', b'{"entries": [{"name": "x"}]}'):
            keys.file.write_bytes(wrong)
            before = keys.ingest.text().count("Not reloaded")
            keys.ingest.send(signal.SIGHUP)
            wait_until(lambda n=before: keys.ingest.text().count("Not reloaded") > n, "it is refused")
            assert keys.status(key) == 202
    finally:
        keys.file.write_bytes(good)
    assert "domain" in keys.tallyd("new", "shop", "--domain", "nowhere", check=False)
    assert keys.file.read_bytes() == good
    assert "no key" in keys.tallyd("revoke", "nobody", check=False)


def test_keys_made_at_once_are_all_kept(keys: Keys) -> None:
    def new(number: int) -> str:
        return keys.system.tallyd_apart("key", "new", f"shop{number}", **keys.env).stdout

    with ThreadPoolExecutor(8) as shells:
        made = list(shells.map(new, range(8)))
    assert {key.partition(".")[0] for key in made} <= keys.listed().keys()


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_events_without_a_key_are_refused_where_keys_are_required(system: System, interface: str) -> None:
    with system.ingest(**CONFIG, HTTP__INTERFACE=interface, INGEST__REQUIRE_KEY="true") as ingest:
        for path, body in ((EVENTS, event()), (BATCH, [event()])):
            refused = ingest.post(body, path)
            assert refused.status_code == 401
            assert "X-Tallyd-Key" in refused.json()["message"]
            assert ingest.post(body, path, headers={"x-tallyd-key": PLAIN}).status_code == 202


def test_a_key_needs_a_file_to_be_kept_in(system: System) -> None:
    done = system.tallyd("key", "new", "shop", check=False)
    assert done.returncode == 2
    assert "keys.file" in done.stderr
