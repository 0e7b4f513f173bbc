"""The PHP client and its drainer against the real daemon and stores: whatever fails, each event is counted once."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.conftest import Road
from tests.clients.php_kit import (
    CLIENT,
    DEFAULT_MS,
    FILE,
    KEY,
    MOVIES,
    RUN_TIMEOUT_S,
    SCRIPTS,
    SINGLE,
    Php,
    Tracked,
    View,
    assert_counted,
    ended,
    nginx,
    views,
    with_ticks,
)
from tests.kit.commands import UNPRIVILEGED, inherited
from tests.kit.daemon import Daemon
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import wait_until

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


def test_a_setting_of_another_name_or_type_breaks_no_page(php: Php, nowhere: str) -> None:
    page = f"""
        require '{CLIENT}/Client.php';
        foreach ([['ur' => 'x'], ['budget_ms' => '50'], ['spool' => 'spool'], ['backoff_ms' => 0]] as $settings) {{
            Tallyd\\Client::configure(['report' => static fn ($text) => print("$text\\n"), ...$settings]);
            echo var_export(Tallyd\\Client::track('view', 'movie', 'm'), true), "\\n";
        }}"""
    assert ended(php.start("-r", page, env=inherited())).splitlines() == [
        "not counted: unknown setting ur",
        "false",
        "not counted: the setting budget_ms must be of type int",
        "false",
        "not counted: the spool must be an absolute path",
        "false",
        "not counted: the setting backoff_ms is too small",
        "false",
    ]


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


def test_a_full_disk_leaves_whole_lines(road: Road, php: Php, nowhere: str) -> None:
    limited = ("sh", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "sh")
    returned, reports = php.track(nowhere, views(100), prefix=limited, spool_bytes_max=1_000_000)
    kept = returned.count(True)
    assert 5 < kept < 100
    assert all("the disk takes no more" in report for report in reports)
    assert len(php.lines()) == kept
    assert php.drain(road.daemon.url) == {"sent": kept, "known": 0, "refused": 0, "given up": 0, "damaged": 0}
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


def test_the_defaults_are_as_the_page_says(road: Road) -> None:
    """And events are given up before the daemon forgets their ids."""
    code, page = (CLIENT / "Client.php").read_text(), (CLIENT / "README.md").read_text()
    defaults = code.partition("DEFAULTS = [")[2].partition("];")[0]
    found = re.findall(r"^        '(\w+)' => (.*),$", defaults, re.MULTILINE)
    said = re.findall(r"^\| `(\w+)` \| `?([^`|]*?)`? ?\|", page, re.MULTILINE)
    assert said == [(name, value.strip("'").replace("_", "").replace("null", "")) for name, value in found]
    assert 2 * int(dict(said)["give_up_s"]) <= road.system.config().dedupe.window_s
    assert int(dict(said)["budget_ms"]) == DEFAULT_MS


def test_a_page_may_be_killed_at_any_line(road: Road, php: Php, nowhere: str, tmp_path: Path) -> None:
    """An event of a page that ended by itself is counted once, that of a killed one once or never."""
    words = [*with_ticks(tmp_path / "ticks"), str(tmp_path / "ticks/example.php")]
    codes = {}
    for at in range(1, 200, 9):
        movie = f"{MOVIES[0][:-3]}{at:03}"
        page = php.start(*words, movie, env=php.environ(nowhere, rest_s=0) | {"KILL_AT": str(at)})
        page.communicate()
        codes[movie] = page.returncode
    assert set(codes.values()) == {0, -signal.SIGKILL}
    found = php.drain(road.daemon.url)
    assert found["damaged"] == found["known"] == 0
    road.system.flush()
    counted = road.system.rollup("totals")
    assert all(total == {"view": 1} for total in counted.values())
    assert {f"jav:movie:{movie}" for movie, code in codes.items() if code == 0} <= counted.keys()
    road.system.audit()


# Ways to the daemon ------------------------------------------------------------------------------------------------


def test_a_key_or_a_signature_makes_a_producer(road: Road, php: Php, nowhere: str) -> None:
    entry = {"id": "sign01", "kind": "producer", "name": "press", "secret": "sign01.a-signing-secret-0123456789"}
    signing = {"key_id": entry["id"], "secret": entry["secret"]}
    env = {"PRODUCERS__KEYS": json.dumps({"shop": KEY}), "KEYS__ENTRIES": json.dumps([entry])}
    with road.system.ingest(HTTP__CLOSING_MS="1", RATE_LIMIT__PER_MINUTE="1", **env) as ingest:
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


def test_only_the_daemon_ends_an_event(php: Php, tmp_path: Path) -> None:
    """Whatever else stands on the way to it may answer with anything: a login, a page of maintenance."""
    again = (200, 202, 204, 302, 402, 405, 408, 409, 410, 421, 425, 429, 499, 500, 502, 503, 504)
    final = (400, 401, 403, 404, 413, 415, 422)
    location = "".join(
        f"location /counts/{status}/ {{ return {status} '<html>{status}</html>'; }} " for status in (*again, *final)
    )
    with nginx("return 418; } " + location + "location /other/ {", tmp_path) as url:
        trusted = {"ca_file": tmp_path / "nginx/tls/ca.pem", "rest_s": 0}
        for status in again:
            assert php.track(f"{url}/{status}", views(1), **trusted) == Tracked([True], []), status
        assert len(php.lines()) == len(again)
        for status in final:
            found = php.track(f"{url}/{status}", views(1), **trusted)
            assert found.returned == [False]
            assert found.reports[0].startswith(f"refused: {status} ")
        for status in again:
            assert php.drain(f"{url}/{status}", waits=True, backoff_ms=1, **trusted)["sent"] == 0
        assert php.drain(f"{url}/403", **trusted)["refused"] == len(again)


def test_tls_and_chunks_of_a_proxy_are_a_way(road: Road, php: Php, nowhere: str, tmp_path: Path) -> None:
    with nginx(f"proxy_pass {road.daemon.url}/;", tmp_path) as url:
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
