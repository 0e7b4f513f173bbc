"""An import that is killed, stopped, cut off from Redis or from its file: what it counts in the end is exact."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from daemon.buffer import scripts
from tests.kit.importing import EXAMPLE, forget, importing, line, live, pipe, run, views
from tests.kit.kill import Kill, killed, kills
from tests.kit.proxy import Fault, Proxy
from tests.kit.servers import RedisServer
from tests.kit.system import System, wait_until

ONE_SYSTEM = True


@pytest.fixture(scope="module")
def big_log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    """120,000 lines, and the views of each page."""
    path = tmp_path_factory.mktemp("big") / "big.log"
    rng = random.Random(7)
    expected: Counter[str] = Counter()
    with path.open("wb") as file:
        for n in range(120_000):
            page, status = f"/page/{rng.randrange(500)}", rng.choice((200, 200, 304, 404))
            file.write(line(n // 5, page, status))
            expected[page] += status != 404
    return path, expected


def pages(system: System) -> Counter[str]:
    found: Counter[str] = Counter()
    for (entity, _, _), amount in live(system).items():
        found[entity.removeprefix("web:page:")] += amount
    return found


def test_killed_again_and_again_it_ends_exact(system: System, big_log: tuple[Path, Counter[str]]) -> None:
    log, expected = big_log
    for share in (0.2, 0.4, 0.6):
        with importing(system, log):
            wait_until(lambda share=share: system.views() > share * expected.total(), "it is on its way")
        # The context killed it with SIGKILL.
    assert system.redis.hlen("anl:imports") <= 3
    done = run(system, log)
    assert done["files"][0]["from_line"] > 60_000
    assert done["total"]["duplicates"] <= 3 * 2_000, "only what was in flight is sent again"
    assert pages(system) == expected
    assert run(system, log)["total"]["lines"] == 0


@kills("daemon.importer.sender")
def test_killed_at_a_step_it_ends_exact(system: System, tmp_path: Path, kill: Kill) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n) for n in range(9_000)))
    killed(system, kill, "import", "--config", EXAMPLE, str(log), IMPORT__CALL_EVENTS_MAX="1000")
    counted, saved = system.views(), system.redis.hlen("anl:imports")
    assert counted >= 1000 * (4 if kill.step == "count" else 2)
    done = run(system, log)
    assert done["total"]["counted"] <= 9_000 - counted
    assert (done["files"][0]["from_line"] > 1) is (saved > 0)
    assert views(system) == 9_000


def test_killed_with_a_new_configuration_of_calls_it_ends_exact(
    system: System, big_log: tuple[Path, Counter[str]]
) -> None:
    log, expected = big_log
    with importing(system, log, IMPORT__CALL_EVENTS_MAX="777", IMPORT__CALLS_IN_FLIGHT_MAX="8"):
        wait_until(lambda: system.views() > 40_000, "it is on its way")
    done = run(system, log)
    assert done["total"]["duplicates"] <= 9 * 777
    assert pages(system) == expected


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_records_where_it_is(
    system: System, big_log: tuple[Path, Counter[str]], number: signal.Signals, exit_code: int
) -> None:
    log, expected = big_log
    with importing(system, "--json", log, log) as process:
        wait_until(lambda: system.views() > 20_000, "it is on its way")
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    stopped = json.loads(out)
    assert process.returncode == exit_code
    assert stopped["stopped_by"] == number.name
    assert len(stopped["files"]) == 1
    assert stopped["total"]["unsent"] == 0
    assert "Run the same command again" in (system.scratch / "import.stderr").read_text()
    done = run(system, log)
    assert done["total"]["duplicates"] == 0
    assert done["files"][0]["from_line"] == stopped["total"]["lines"] + 1
    assert done["total"]["counted"] + stopped["total"]["counted"] == expected.total()
    assert pages(system) == expected


def test_a_silent_pipe_is_counted_and_can_be_stopped(system: System) -> None:
    with importing(system, "-") as process:
        assert process.stdin is not None
        for n in range(3):
            process.stdin.write(line(n))
            process.stdin.flush()
            wait_until(lambda n=n: views(system) == n + 1, "the line is counted although no more comes")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    assert pipe(system, b"".join(line(n) for n in range(4)))["total"]["counted"] == 1


@pytest.mark.parametrize("fault", [Fault.HOLD_REQUEST, Fault.LOSE_REPLY])
def test_a_lost_call_is_repeated_and_counts_once(system: System, tmp_path: Path, fault: Fault) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n) for n in range(20_000)))
    system.redis.script_load(scripts.INGEST.source)  # else the marked call is only told NOSCRIPT
    with Proxy(system.env["TALLYD_REDIS__URL"], scripts.INGEST.sha.encode(), fault).running() as proxy:
        done = run(system, log, REDIS__URL=proxy.url(), REDIS__TIMEOUT_MS="500")
        assert proxy.tripped.is_set()
    assert done["total"]["resent"] > 0
    assert (done["total"]["duplicates"] > 0) is (fault is Fault.LOSE_REPLY)
    assert done["total"]["unsent"] == 0
    assert views(system) == 20_000


@pytest.mark.parametrize("lost", [0.0, 0.3], ids=["everything kept", "its last part lost"])
def test_a_redis_that_was_killed_ends_it_and_the_next_run_is_exact(
    system: System, big_log: tuple[Path, Counter[str]], tmp_path: Path, lost: float
) -> None:
    log, expected = big_log
    with RedisServer(7, tmp_path, "--appendonly", "yes") as server:
        system.use_redis(server)
        with importing(system, "--json", log) as process:
            wait_until(lambda: system.views() > 40_000, "it is on its way")
            server.kill()
            (kept,) = (server.data / "appendonlydir").glob("*.incr.aof")
            os.truncate(kept, int(kept.stat().st_size * (1 - lost)))
            server.start()
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Redis was restarted" in json.loads(out)["failure"]
        before = system.views()
        done = run(system, log)
        assert before + done["total"]["counted"] == expected.total()
        assert pages(system) == expected


def test_a_redis_that_stays_away_ends_it_with_what_to_do(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n) for n in range(10_000)))
    with importing(system, "--json", "-", IMPORT__STORE_WAIT_MS_MAX="500", REDIS__TIMEOUT_MS="200") as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(line(n) for n in range(4_000)))
        process.stdin.flush()
        wait_until(lambda: views(system) == 4_000, "the first lines are counted")
        system.redis.execute_command("CLIENT", "PAUSE", "4000", "ALL")
        out, _ = process.communicate(b"".join(line(n) for n in range(4_000, 10_000)), timeout=30)
    assert process.returncode == 1
    stopped = json.loads(out)
    assert "Redis" in stopped["failure"]
    assert stopped["total"]["counted"] == 4_000
    assert stopped["total"]["unsent"] == stopped["total"]["lines"] - 4_000
    wait_until(system.redis.ping, "Redis answers again")
    run(system, log)
    assert views(system) == 10_000


def test_a_gzip_file_that_is_cut_off_is_told_and_the_others_go_on(system: System, tmp_path: Path) -> None:
    content = b"".join(line(n) for n in range(20_000))
    packed, cut, other = gzip.compress(content), tmp_path / "cut.log.gz", tmp_path / "other.log"
    cut.write_bytes(packed[: len(packed) // 2])
    other.write_bytes(line(1, "/other"))
    done = run(system, cut, other, check=False)
    assert done["exit"] == 1
    first, second = done["files"]
    assert "cut off" in first["error"]
    assert second["error"] is None
    assert second["counted"] == 1
    assert 1_000 < first["counted"] < 20_000
    assert first["rejected"] == {}, "half a line at the cut is no line"
    cut.write_bytes(packed)
    forget(system)
    assert run(system, cut)["files"][0]["from_line"] == first["lines"] + 1
    assert views(system) == 20_001


@pytest.mark.parametrize("piped", [False, True])
def test_a_cut_off_file_is_read_up_to_the_cut_although_more_of_it_was_imported_once(
    system: System, tmp_path: Path, piped: bool
) -> None:
    content, cut = b"".join(line(n) for n in range(20_000)), tmp_path / "cut.log.gz"
    whole, packed = tmp_path / "whole.log", gzip.compress(content)
    whole.write_bytes(content)
    run(system, whole)
    cut.write_bytes(packed[: len(packed) // 2])
    (done,) = (pipe(system, cut.read_bytes()) if piped else run(system, cut, check=False))["files"]
    assert "cut off" in done["error"]
    assert (done["counted"], done["duplicates"] == done["lines"] > 1_000) == (0, True)
