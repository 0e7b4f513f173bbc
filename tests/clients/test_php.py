"""The PHP client and its drainer against the real daemon and stores: whatever fails, each event is counted once."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon.devstack import process
from tests.clients.conftest import EVENTS_EACH, Road
from tests.kit.certificates import Authority
from tests.kit.commands import UNPRIVILEGED, inherited
from tests.kit.daemon import Daemon
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import BATCH, EVENTS, ROOT, wait_until

CLIENT = ROOT / "ops/clients/php"
SCRIPTS = Path(__file__).parent / "php"
STRICT = ("-d", "display_errors=stdout", "-d", "error_reporting=-1", "-d", "log_errors=0")
"""Whatever PHP has to say comes out on standard output, where tests expect nothing of it."""
FILE = "events.0.spool"
"""A page that has no company appends to this one."""
KEY = "the-key-of-the-php-shop"
SINGLE = f"POST {EVENTS} ".encode()
BATCHES = f"POST {BATCH} ".encode()
MOVIES = [f"0f8fad5b-d9cb-469f-a165-{number:012}" for number in range(20)]
RUN_TIMEOUT_S = 120.0
BUDGET_MS = 10_000
"""Of pages that are answered, however busy the machine is. Other tests take the default."""
DEFAULT_MS = 50

View = tuple[Any, ...]
"""The arguments of `track`."""


class Tracked(NamedTuple):
    returned: list[bool]
    reports: list[str]


def views(count: int) -> list[View]:
    return [("view", "movie", MOVIES[number % len(MOVIES)]) for number in range(count)]


class Php:
    """PHP processes with one spool."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool

    def environ(self, url: str, /, **settings: object) -> dict[str, str]:
        given = {"url": url, "domain": "jav", "spool": self.spool, "backoff_ms": 50, "budget_ms": BUDGET_MS, **settings}
        return inherited() | {f"TALLYD_{name.upper()}": str(value) for name, value in given.items()}

    def start(self, *command: str, env: dict[str, str], prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        words = [*process.dies_with_parent(), *prefix, "php", *STRICT, *command]
        return subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def page(self, url: str, *, prefix: tuple[str, ...] = (), **settings: object) -> subprocess.Popen[str]:
        """A process that tracks what it is told by `tracked`."""
        return self.start(str(SCRIPTS / "produce.php"), env=self.environ(url, **settings), prefix=prefix)

    def track(self, url: str, events: Iterable[View], **options: Any) -> Tracked:
        return tracked(self.page(url, **options), events)

    def drainer(self, url: str, /, *words: str, **settings: object) -> subprocess.Popen[str]:
        return self.start(str(CLIENT / "tallyd-drain.php"), *words, env=self.environ(url, **settings))

    def drain(self, url: str, *, code: int = 0, **settings: object) -> dict[str, int]:
        """`tallyd-drain.php --once`; its counts."""
        return counts(ended(self.drainer(url, "--once", **settings), code=code))

    def lines(self) -> list[dict[str, Any]]:
        """The events in the files that pages append to."""
        texts = [file.read_text() for file in sorted(self.spool.glob("events.*.spool"))]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def dead(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.spool / "events.dead").read_text().splitlines()]

    def files(self) -> set[str]:
        return {path.name for path in self.spool.iterdir()} - {"drain.lock"}


def tracked(page: subprocess.Popen[str], events: Iterable[View]) -> Tracked:
    out = ended(page, "".join(json.dumps(each) + "\n" for each in events))
    return Tracked(**json.loads(out))


def give(page: subprocess.Popen[str], events: Iterable[View]) -> None:
    """The same, for `tracked` without events to wait for."""
    assert page.stdin is not None
    page.stdin.write("".join(json.dumps(each) + "\n" for each in events))
    page.stdin.close()
    page.stdin = None


def ended(php: subprocess.Popen[str], text: str = "", *, code: int = 0) -> str:
    """What it wrote; it ends with this code and writes no errors."""
    out, err = php.communicate(text, RUN_TIMEOUT_S)
    assert (php.returncode, err) == (code, ""), out + err
    return out


def counts(out: str) -> dict[str, int]:
    """The sums over the lines of counts that a drainer wrote."""
    last = [line for line in out.splitlines() if "sent" in line][-1]
    return {name: int(number) for name, number in re.findall(r"(sent|known|refused|given up|damaged) (\d+)", last)}


def assert_counted(road: Road, events: Iterable[View], *, resent: bool = False) -> None:
    road.counted(Counter((event[2], event[0]) for event in events), resent=resent)


@pytest.fixture
def php(tmp_path: Path) -> Php:
    return Php(tmp_path / "php-spool")


@pytest.fixture
def nowhere() -> str:
    """The URL of nobody."""
    return f"http://127.0.0.1:{process.free_port()}"


# A page ------------------------------------------------------------------------------------------------------------


def test_an_event_is_counted_and_nothing_is_kept(road: Road, php: Php) -> None:
    events = views(50)
    assert php.track(road.daemon.url, events) == Tracked([True] * 50, [])
    assert not php.spool.exists()
    assert_counted(road, events)


def test_a_lost_reply_is_kept_and_counted_once(road: Road, php: Php) -> None:
    with Proxy(road.daemon.url, SINGLE, Fault.LOSE_REPLY).running() as proxy:
        assert php.track(proxy.url(), views(1), budget_ms=DEFAULT_MS) == Tracked([True], [])
        assert proxy.tripped.wait(RUN_TIMEOUT_S)
    assert len(php.lines()) == 1
    assert php.drain(road.daemon.url) == {"sent": 1, "known": 1, "refused": 0, "given up": 0, "damaged": 0}
    assert php.files() == {"circuit"}
    assert road.duplicates() == 1
    assert_counted(road, views(1))


def test_a_page_ends_although_the_daemon_never_answers(road: Road, php: Php) -> None:
    with Proxy(road.daemon.url, SINGLE, keep=True, every=True).running() as proxy:
        assert php.track(proxy.url(), views(10), budget_ms=DEFAULT_MS).returned == [True] * 10
        assert proxy.connections == 3
        proxy.release()
    php.drain(road.daemon.url)
    assert_counted(road, views(10))


def test_a_refused_connection_is_kept(road: Road, php: Php, nowhere: str) -> None:
    assert php.track(nowhere, views(100)) == Tracked([True] * 100, [])
    assert php.drain(road.daemon.url)["sent"] == 100
    assert road.duplicates() == 0
    assert_counted(road, views(100))


def test_the_spool_keeps_id_and_time(road: Road, php: Php, nowhere: str) -> None:
    options = {"event_id": "order-7", "occurred_at": "2026-02-19T10:00:00Z", "value": 1, "domain": "jav"}
    php.track(nowhere, [("view", "movie", MOVIES[0], options), *views(1)])
    given, made = (line["event"] for line in php.lines())
    assert given == {**options, "entity_type": "movie", "entity_id": MOVIES[0], "action": "view"}
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made["event_id"])
    assert abs(int(made["event_id"].replace("-", "")[:12], 16) / 1000 - time.time()) < RUN_TIMEOUT_S
    php.drain(road.daemon.url)
    road.system.flush()
    assert f"jav:movie:{MOVIES[0]}:2026-02-19" in road.system.rollup("daily")


def test_only_the_owner_may_read_the_spool(php: Php, nowhere: str) -> None:
    php.track(nowhere, views(5))
    assert php.spool.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in php.spool.iterdir()} == {
        FILE: 0o600,
        "circuit": 0o600,
    }


def test_after_three_failures_nobody_tries_for_a_while(road: Road, php: Php) -> None:
    with Proxy(road.daemon.url).running() as proxy:
        proxy.cut()
        for _ in range(5):  # each process learns of it from the others
            assert php.track(proxy.url(), views(4), rest_s=60).returned == [True] * 4
        assert proxy.connections == 3
        proxy.restore()
        (php.spool / "circuit").unlink()
        php.track(proxy.url(), views(4))
        assert proxy.connections == 7
    assert len(php.lines()) == 20


def test_after_the_rest_one_tries_and_success_ends_it(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(4), rest_s=1)
    circuit = php.spool / "circuit"
    wait_until(lambda: circuit.stat().st_mtime < time.time(), "the rest is over")
    with Proxy(road.daemon.url).running() as proxy:
        proxy.cut()
        php.track(proxy.url(), views(4), rest_s=60)
        assert proxy.connections == 1, "one has tried, the others rest on"
    circuit.touch()
    wait_until(lambda: circuit.stat().st_mtime < time.time(), "the rest is over")
    php.track(road.daemon.url, views(4))
    assert not circuit.exists()
    assert len(php.lines()) == 8


def test_a_rest_in_the_far_future_is_none(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(4))
    subprocess.run(["touch", "-d", "next year", php.spool / "circuit"], check=True)
    php.track(road.daemon.url, views(4))
    assert len(php.lines()) == 4


def test_what_the_daemon_refuses_is_reported_and_not_kept(road: Road, php: Php) -> None:
    found = php.track(road.daemon.url, [("like", "movie", MOVIES[0]), ("view", "movie", "x" * 256), *views(1)])
    assert found.returned == [False, False, True]
    first, second = found.reports
    assert first.startswith("refused: 422 ")
    assert "The selected action is invalid" in first
    assert "must not be greater than 255 characters" in second
    assert not php.lines()
    assert_counted(road, views(1))


def test_a_wrong_key_is_reported(road: Road, php: Php) -> None:
    found = php.track(road.daemon.url, views(1), key="not-the-key")
    assert found.returned == [False]
    assert found.reports[0].startswith("refused: 401 ")
    assert "not-the-key" not in found.reports[0]


HOSTILE: list[View] = [
    (None, None, None),
    ("view", "movie", None),
    ("view", "movie", ""),
    ("view", "movie", 1.5),
    ("view", "movie", ["a"]),
    ("view", ["movie"], MOVIES[0]),
    ({"a": 1}, "movie", MOVIES[0]),
    ("view", "movie", MOVIES[0], "no options"),
    ("view", "movie", MOVIES[0], {"unknown": 1}),
    ("view", "movie", MOVIES[0], {"value": "1"}),
    ("view", "movie", MOVIES[0], {"value": 2**62}),
    ("view", "movie", MOVIES[0], {"value": -1}),
    ("view", "movie", MOVIES[0], {"domain": "\r\nX-Tallyd-Key: stolen"}),
    ("view", "movie", MOVIES[0], {"occurred_at": "yesterday"}),
    ("view", "movie", MOVIES[0], {"event_id": "x" * 256}),
    ("view", "movie", "line\nbreak"),
    ("view", "movie", "nul\0"),
    ("view", "movie", "x" * 1_000_000),
    ("view" * 5_000, "movie", MOVIES[0]),
]


def test_hostile_input_breaks_no_page(road: Road, php: Php) -> None:
    found = php.track(road.daemon.url, [*HOSTILE, *views(1)])
    assert found.returned == [False] * len(HOSTILE) + [True]
    assert len(found.reports) == len(HOSTILE)
    assert all(report.isprintable() for report in found.reports)
    assert_counted(road, views(1))


def test_hostile_input_that_was_kept_is_refused_later(road: Road, php: Php, nowhere: str) -> None:
    kept = php.track(nowhere, [*HOSTILE, *views(1)]).returned
    assert kept.count(True) == 8
    assert php.drain(road.daemon.url) == {"sent": 1, "known": 0, "refused": 7, "given up": 0, "damaged": 0}
    assert_counted(road, views(1))


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "http://a b", "http://h\r\nX: y", "unix:x", "//", "x"])
def test_a_wrong_setting_breaks_no_page(php: Php, url: str) -> None:
    found = php.track(url, views(1))
    assert found.returned == [False]
    assert found.reports[0].startswith("not counted: the url") or found.reports[0].startswith("not counted: url")


def test_a_folder_that_cannot_be_written_breaks_no_page(road: Road, php: Php, nowhere: str) -> None:
    php.spool.mkdir(mode=0o555)
    found = php.track(nowhere, views(20), prefix=UNPRIVILEGED)
    assert found.returned == [False] * 20
    assert all("lost: " in report and "the spool cannot be written" in report for report in found.reports)
    php.spool.rmdir()
    php.spool.write_text("a file")
    assert "the spool is no folder" in php.track(nowhere, views(1)).reports[0]
    assert "there is no spool" in php.track(nowhere, views(1), spool="").reports[0]
    assert php.track(road.daemon.url, views(1)) == Tracked([True], [])


def test_without_a_folder_a_process_rests_by_itself(road: Road, php: Php) -> None:
    with Proxy(road.daemon.url).running() as proxy:
        proxy.cut()
        php.track(proxy.url(), views(20), spool="")
        assert proxy.connections == 3


def test_a_full_spool_loses_and_reports_the_newest(road: Road, php: Php, nowhere: str) -> None:
    returned, reports = php.track(nowhere, views(100), spool_bytes_max=5_000)
    kept = returned.count(True)
    assert 10 < kept < 30
    assert returned == [True] * kept + [False] * (100 - kept)
    assert len(reports) == 100 - kept
    assert all("the spool is full" in report for report in reports)
    assert sum(file.stat().st_size for file in php.spool.glob("events.*.spool")) <= 5_000
    assert php.drain(road.daemon.url)["sent"] == kept
    assert_counted(road, views(kept))


def test_a_lock_that_nobody_gives_back_holds_up_no_page(road: Road, php: Php, nowhere: str) -> None:
    php.spool.mkdir()
    with ExitStack() as stack:
        for number in range(4):
            file = stack.enter_context((php.spool / f"events.{number}.spool").open("w"))
            assert php.track(nowhere, views(1)) == Tracked([True], []), number
            fcntl.flock(file, fcntl.LOCK_EX)
        assert "locked by another process" in php.track(nowhere, views(1)).reports[0]
        out, err = php.drainer(road.daemon.url, "--once").communicate()
        assert (out, err) == ("", "tallyd-drain: the spool is locked by another process\n")
    assert php.drain(road.daemon.url)["sent"] == 4


def test_a_line_without_an_end_harms_no_other(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(1))
    with (php.spool / FILE).open("a") as file:
        file.write('{"at":1,"event":{"event_id":"torn')
    php.track(nowhere, views(2))
    with (php.spool / FILE).open("ab") as file:
        file.write(b'\xff\xfe"[]{}\n\n[1]\n{"at":"1","event":{}}\n' + b"y" * 50_000)
    assert php.drain(road.daemon.url) == {"sent": 3, "known": 0, "refused": 0, "given up": 0, "damaged": 8}
    assert php.dead()[0]["why"] == "damaged: no event"
    assert_counted(road, [*views(1), *views(2)])


# The drainer -------------------------------------------------------------------------------------------------------


def test_refused_events_go_to_the_dead_and_the_others_are_counted(road: Road, php: Php, nowhere: str) -> None:
    good, bad = views(300), [("like", "movie", f"bad-{number}") for number in range(90)]
    mixed = [*good, *bad]
    random.Random(7).shuffle(mixed)
    php.track(nowhere, mixed)
    found = php.drain(road.daemon.url)
    assert found["sent"], found["refused"] == (300, 90)
    assert {line["event"]["entity_id"] for line in php.dead()} == {event[2] for event in bad}
    assert all("The selected action is invalid" in line["why"] for line in php.dead()[:20])
    assert road.duplicates() > 0, "what was not listed as refused was sent again"
    assert_counted(road, good)


def test_nothing_but_refused_events_is_one_request(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, [("like", "movie", MOVIES[0])] * 60)
    with Proxy(road.daemon.url).running() as proxy:
        assert php.drain(proxy.url())["refused"] == 60
        assert proxy.connections == 1
    assert len(php.dead()) == 60


def test_an_event_that_waited_too_long_is_given_up(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(4))
    file = php.spool / FILE
    lines = php.lines()
    lines[0]["at"] -= 86_500
    lines[1]["at"] -= 86_300
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert php.drain(road.daemon.url) == {"sent": 3, "known": 0, "refused": 0, "given up": 1, "damaged": 0}
    assert [line["event"] for line in php.dead()] == [lines[0]["event"]]
    assert_counted(road, views(4)[1:])


def test_the_defaults_are_as_the_page_says(road: Road) -> None:
    """And events are given up before the daemon forgets their ids."""
    code, page = (CLIENT / "Client.php").read_text(), (CLIENT / "README.md").read_text()
    defaults = code.partition("DEFAULTS = [")[2].partition("];")[0]
    found = re.findall(r"^        '(\w+)' => (.*),$", defaults, re.MULTILINE)
    said = re.findall(r"^\| `(\w+)` \| `?([^`|]*?)`? ?\|", page, re.MULTILINE)
    assert said == [(name, value.strip("'").replace("_", "").replace("null", "")) for name, value in found]
    assert 2 * int(dict(said)["give_up_s"]) <= road.system.config().dedupe.window_s
    assert int(dict(said)["budget_ms"]) == DEFAULT_MS


def test_once_says_that_events_wait_and_follow_goes_on(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(30))
    out = ended(php.drainer(nowhere, "--once", backoff_ms=2), code=1)
    assert "the daemon does not take events: no connection" in out
    assert "events wait" in out
    with Proxy(road.daemon.url).running() as proxy:
        proxy.cut()
        follower = php.drainer(proxy.url(), "--follow", backoff_ms=2)
        wait_until(lambda: proxy.connections > 8, "it goes on trying")
        proxy.restore()
        wait_until(lambda: road.accepted() == 30, "it has sent")
        follower.kill()
        follower.communicate()
    assert_counted(road, views(30))


def test_what_a_rate_limit_left_is_sent_again(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(62))
    with road.system.ingest(RATE_LIMIT__PER_MINUTE="60") as ingest:
        assert php.drain(ingest.url)["sent"] == 62
        # One page learns of the limit, and Retry-After spares the others the question.
        with Proxy(ingest.url).running() as proxy:
            assert php.track(proxy.url(), views(20)) == Tracked([True] * 20, [])
            assert proxy.connections < 5
    assert_counted(road, [*views(62), *views(20)[: road.accepted() - 62]])


def test_a_batch_that_is_too_large_is_halved(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(300))
    with road.system.ingest(HTTP__BATCH_EVENTS_MAX="100", HTTP__BATCH_BYTES_MAX="5000") as ingest:
        assert php.drain(ingest.url)["sent"] == 300
    assert_counted(road, views(300))


def test_a_drainer_that_is_killed_loses_and_doubles_nothing(road: Road, php: Php, nowhere: str) -> None:
    events = views(4_000)
    php.track(nowhere, events, rest_s=60)
    dice = random.Random(12)
    with Proxy(road.daemon.url).running() as proxy:
        proxy.lossy(0.3, seed=12, refused=0.1)
        for _ in range(12):
            pair = [php.drainer(proxy.url(), "--follow", batch_budget_ms=30, backoff_ms=2) for _ in range(2)]
            time.sleep(dice.uniform(0.03, 0.12))
            for each in pair:
                each.kill()
                each.communicate()
            if not list(php.spool.glob("events.*.draining")):
                php.track(nowhere, views(500), rest_s=60)
                events += views(500)
    php.drain(road.daemon.url)
    assert php.files() == {"circuit"}
    assert road.duplicates() > 0
    assert_counted(road, events)


@pytest.mark.parametrize("fault", Fault)
def test_a_drainer_that_is_killed_in_a_batch_sends_it_again(road: Road, php: Php, nowhere: str, fault: Fault) -> None:
    php.track(nowhere, views(700))
    with Proxy(road.daemon.url, BATCHES, fault, nth=2).running() as proxy:
        drainer = php.drainer(proxy.url(), "--once")
        wait_until(proxy.tripped.is_set, "it is in its second batch")
        drainer.kill()
        drainer.communicate()
    assert php.drain(road.daemon.url)["sent"] == 200
    assert road.duplicates() == (200 if fault is Fault.LOSE_REPLY else 0)
    assert_counted(road, views(700))


def test_of_two_drainers_one_works_and_the_other_takes_over(road: Road, php: Php, nowhere: str) -> None:
    first = php.drainer(road.daemon.url, "--follow")
    php.track(nowhere, views(10))
    wait_until(lambda: road.accepted() == 10, "the first works")
    second = php.drainer(road.daemon.url, "--follow")
    assert "another drainer is at work" in ended(php.drainer(road.daemon.url, "--once"))
    first.kill()
    php.track(nowhere, views(10))
    wait_until(lambda: road.accepted() == 20, "the second works")
    for each in (first, second):
        each.kill()
        each.communicate()
    assert_counted(road, views(10) * 2)


def test_processes_that_append_at_once_lose_no_line(road: Road, php: Php, nowhere: str) -> None:
    """And a drainer renames the file meanwhile, time and again."""
    drainer = php.drainer(road.daemon.url, "--follow")
    pages = [php.page(nowhere, rest_s=60) for _ in range(4)]
    for page in pages:
        give(page, views(1_500))
    assert [tracked(page, []) for page in pages] == [Tracked([True] * 1_500, [])] * 4
    wait_until(lambda: road.accepted() == 6_000, "all are sent")
    drainer.kill()
    out, _ = drainer.communicate()
    assert counts(out)["damaged"] == 0
    assert_counted(road, views(1_500) * 4)


def test_a_note_that_is_wrong_costs_nothing(road: Road, php: Php, nowhere: str) -> None:
    for wrong in ("", "9" * 40, "-5", "12", "99999999", "x"):
        php.track(nowhere, views(3))
        file = (php.spool / FILE).rename(php.spool / "events.a.draining")
        Path(f"{file}.at").write_text(wrong)
        (php.spool / "events.b.draining.at").write_text("5")
        assert php.drain(road.daemon.url)["sent"] == 3
        assert php.files() == {"circuit"}
    assert_counted(road, views(3) * 6)


def test_the_command_explains_itself(php: Php, nowhere: str, tmp_path: Path) -> None:
    text = ended(php.drainer(nowhere, "--help"))
    assert all(word in text for word in ("--once", "--follow", "--config", "TALLYD_URL", "events.dead"))
    wrong: list[tuple[list[str], dict[str, object], str]] = [
        ([], {}, "say --once or --follow"),
        (["--twice"], {}, "--twice is not known"),
        (["--once", "--config", "nowhere.php"], {}, "--config is not known, or lacks its file"),
        (["--once"], {"url": "ftp://a"}, "the url must begin with"),
        (["--once"], {"spool": ""}, "name the folder of the spool"),
        (["--once"], {"give_up_s": "soon"}, "the setting give_up_s must be of type int"),
    ]
    for words, settings, message in wrong:
        drainer = php.drainer(nowhere, *words, **settings)
        assert message in drainer.communicate()[1]
        assert drainer.returncode == 2


def test_the_settings_may_stand_in_a_file(road: Road, php: Php, nowhere: str, tmp_path: Path) -> None:
    php.track(nowhere, views(3))
    file = tmp_path / "tallyd.php"
    file.write_text(f"<?php return ['url' => '{road.daemon.url}', 'spool' => '{php.spool}'];")
    drainer = php.start(str(CLIENT / "tallyd-drain.php"), "--once", "--config", str(file), env=inherited())
    assert counts(ended(drainer))["sent"] == 3
    assert_counted(road, views(3))


# Ways to the daemon ------------------------------------------------------------------------------------------------


def test_a_key_or_a_signature_makes_a_producer(road: Road, php: Php, nowhere: str) -> None:
    entry = {"id": "sign01", "kind": "producer", "name": "press", "secret": "sign01.a-signing-secret-0123456789"}
    signing = {"key_id": entry["id"], "secret": entry["secret"]}
    env = {"PRODUCERS__KEYS": json.dumps({"shop": KEY}), "KEYS__ENTRIES": json.dumps([entry])}
    with road.system.ingest(RATE_LIMIT__PER_MINUTE="1", **env) as ingest:
        for settings in ({"key": KEY}, signing):
            assert php.track(ingest.url, views(40), **settings) == Tracked([True] * 40, [])
            php.track(nowhere, views(40), rest_s=0)
            assert php.drain(ingest.url, **settings)["sent"] == 40
        assert not php.lines()
        wrong = php.track(ingest.url, views(1), key_id="sign01", secret="another")
        assert wrong.reports[0].startswith("refused: 401 ")
    assert_counted(road, views(40) * 4)


def test_a_unix_socket_is_a_way(road: Road, php: Php) -> None:
    with tempfile.TemporaryDirectory(prefix="tallyd-") as folder:  # pytest's are too deep for a socket's address
        path = f"{folder}/ingest.sock"
        with Daemon(road.system, "ingest", HTTP__UNIX_SOCKET=path) as daemon:
            daemon.says("Ready: ")
            assert php.track(f"unix://{path}", views(5)) == Tracked([True] * 5, [])
        assert php.track(f"unix://{path}", views(5)) == Tracked([True] * 5, [])
    assert php.drain(road.daemon.url)["sent"] == 5
    assert_counted(road, views(5) * 2)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(road: Road, folder: Path) -> Iterator[str]:
    """The URL of an nginx that speaks TLS, and passes answers on in chunks."""
    port = process.free_port()
    folder.mkdir()
    identity = Authority(folder / "tls").issue("server")
    folder.chmod(0o755)
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
        http {{
            access_log off; ssi on; ssi_types application/json;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {identity.cert}; ssl_certificate_key {identity.key};
                location /counts/ {{ proxy_pass {road.daemon.url}/; }}
            }}
        }}""")
    words = ["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
    path = {**inherited(), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with subprocess.Popen([*process.dies_with_parent(), *words], env=path, stderr=subprocess.DEVNULL) as running:
        try:
            wait_until(lambda: listens(port), "nginx listens")
            yield f"https://127.0.0.1:{port}/counts"
        finally:
            running.terminate()


def test_tls_and_chunks_of_a_proxy_are_a_way(road: Road, php: Php, nowhere: str, tmp_path: Path) -> None:
    with nginx(road, tmp_path / "nginx") as url:
        own = {"ca_file": tmp_path / "nginx/tls/ca.pem", "rest_s": 0}
        assert php.track(url, views(5), **own) == Tracked([True] * 5, [])
        assert php.track(url, [("like", "movie", "m")], **own).reports[0].startswith('refused: 422 {"message":')
        php.track(nowhere, [*views(5), ("like", "movie", "m")], rest_s=0)
        assert php.drain(url, **own) == {"sent": 5, "known": 0, "refused": 1, "given up": 0, "damaged": 0}
        assert php.track(url, views(1)) == Tracked([True], [])
        assert len(php.lines()) == 1, "an authority that is not known is no daemon"
    assert php.drain(road.daemon.url)["known"] == 0
    assert_counted(road, [*views(5) * 2, *views(1)])


# The files beside it -----------------------------------------------------------------------------------------------


def test_the_example_counts_in_one_line(road: Road, php: Php, nowhere: str) -> None:
    for url in (road.daemon.url, nowhere):
        page = php.start(str(CLIENT / "example.php"), MOVIES[0], env=php.environ(url))
        assert ended(page) == f"<h1>{MOVIES[0]}</h1>\n"
    assert php.drain(road.daemon.url)["sent"] == 1
    assert_counted(road, views(1) * 2)


def test_by_itself_it_reports_to_the_error_log(road: Road, php: Php, tmp_path: Path) -> None:
    log = tmp_path / "php.log"
    words = ("-d", "log_errors=1", "-d", f"error_log={log}", str(CLIENT / "example.php"), "x" * 256)
    assert ended(php.start(*words, env=php.environ(road.daemon.url))).startswith("<h1>xxx")
    assert "tallyd: refused: 422" in log.read_text()


def test_the_files_for_laravel_work_with_the_client(road: Road, php: Php, nowhere: str, tmp_path: Path) -> None:
    words = (str(SCRIPTS / "laravel.php"), road.daemon.url, nowhere, MOVIES[0], str(tmp_path))
    running = php.start(*words, env=inherited())
    out, err = running.communicate()
    there, away, again = json.loads(out)
    assert there["job"] is None
    assert there["tracked"] is away["tracked"] is True
    assert there["refused"].startswith("failed: tallyd refused the event: 422")
    assert (there["drain"], away["drain"], again["drain"]) == (0, 1, 0)
    assert away["job"].startswith("released for ")
    assert 86_300 < there["retry_until"] <= 86_400
    assert again["lines"][-1].startswith("sent 1, ")
    assert not err
    # Two jobs, three views by `track`; the job that was released waits in Laravel's queue.
    assert_counted(road, views(1) * 5)


@pytest.mark.parametrize("file", sorted(CLIENT.rglob("*.php")), ids=lambda path: path.name)
def test_each_file_is_php(php: Php, file: Path) -> None:
    assert ended(php.start("-l", str(file), env=inherited())) == f"No syntax errors detected in {file}\n"


def test_composer_finds_every_class_and_the_command() -> None:
    package = json.loads((CLIENT / "composer.json").read_text())
    paths = [CLIENT / path for path in package["autoload"]["classmap"]]
    files = {file for path in paths for file in (path.rglob("*.php") if path.is_dir() else [path])}
    assert {*CLIENT.rglob("*.php")} - files == {CLIENT / "tallyd-drain.php", CLIENT / "example.php"}
    assert [CLIENT / path for path in package["bin"]] == [CLIENT / "tallyd-drain.php"]
    (provider,) = package["extra"]["laravel"]["providers"]
    namespace, _, name = provider.rpartition("\\")
    text = (CLIENT / "laravel" / f"{name}.php").read_text()
    assert f"namespace {namespace};" in text
    assert f"class {name} " in text


# The bar -----------------------------------------------------------------------------------------------------------


def test_whatever_fails_each_event_is_counted_once(road: Road, php: Php) -> None:
    """A tenth of the replies is lost, a tenth of the connections refused, and the daemon is restarted three times."""
    pages = 4
    each = EVENTS_EACH // pages
    road.faulty(seed=12)
    running = [php.page(road.url, rest_s=0, budget_ms=DEFAULT_MS) for _ in range(pages)]
    for page in running:
        give(page, views(each))
    drainer = php.drainer(road.url, "--follow", batch_budget_ms=500)
    for part in range(1, 4):
        goal = part * pages * each // 4
        wait_until(lambda goal=goal: road.accepted() >= goal, f"{goal} are counted", RUN_TIMEOUT_S)
        road.restart(kill=part != 2)
    assert [tracked(page, []) for page in running] == [Tracked([True] * each, [])] * pages
    wait_until(lambda: road.accepted() == pages * each, "all are counted", RUN_TIMEOUT_S)
    road.healed()
    drainer.kill()
    drainer.communicate()
    php.drain(road.url)
    assert php.files() <= {"circuit"}
    assert road.proxy.lost
    assert road.proxy.refused
    assert_counted(road, views(each) * pages, resent=True)
