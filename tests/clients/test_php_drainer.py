"""The drainer of the PHP client: killed, run twice, refused, limited, and told nonsense. Each event is counted once."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.clients.conftest import EVENTS_EACH, Road
from tests.clients.php_kit import (
    BATCHES,
    CLIENT,
    DEFAULT_MS,
    FILE,
    MOVIES,
    RUN_TIMEOUT_S,
    Php,
    Tracked,
    View,
    assert_counted,
    counts,
    ended,
    give,
    nginx,
    tracked,
    views,
    with_ticks,
)
from tests.kit.commands import inherited
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import wait_until


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
    lines[2]["at"] += 86_500
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert php.drain(road.daemon.url) == {"sent": 2, "known": 0, "refused": 0, "given up": 2, "damaged": 0}
    assert [line["event"] for line in php.dead()] == [lines[0]["event"], lines[2]["event"]]
    assert [line["why"] for line in php.dead()] == ["given up: it has waited too long", "given up: a clock is wrong"]
    assert_counted(road, [views(4)[1], views(4)[3]])


def test_what_was_refused_by_mistake_is_sent_again_under_another_name(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(30))
    assert php.drain(road.daemon.url, key="a-wrong-key")["refused"] == 30
    assert php.dead()[0]["why"].startswith("refused: 401 ")
    (php.spool / "events.dead").rename(php.spool / "events.again.draining")
    assert php.drain(road.daemon.url)["sent"] == 30
    assert_counted(road, views(30))


def test_the_note_of_a_file_is_not_that_of_the_next_of_its_name(
    road: Road, php: Php, nowhere: str, tmp_path: Path
) -> None:
    words = [*with_ticks(tmp_path / "ticks"), str(tmp_path / "ticks/tallyd-drain.php"), "--once"]
    again = php.spool / "events.again.draining"
    php.track(nowhere, views(3))
    php.drain(road.daemon.url, key="a-wrong-key")
    (php.spool / "events.dead").rename(again)
    env = php.environ(road.daemon.url, key="a-wrong-key") | {"KILL_AT": "0", "KILL_WHEN_GONE": str(again)}
    drainer = php.start(*words, env=env)
    drainer.communicate()
    assert drainer.returncode == -signal.SIGKILL
    assert php.files() == {"circuit", "events.dead"}
    (php.spool / "events.dead").rename(again)
    assert php.drain(road.daemon.url)["sent"] == 3
    assert_counted(road, views(3))


def test_a_file_that_was_moved_over_another_is_sent_from_its_beginning(road: Road, php: Php, nowhere: str) -> None:
    again = php.spool / "events.again.draining"
    php.track(nowhere, views(700))
    (php.spool / FILE).rename(again)
    with Proxy(road.daemon.url, BATCHES, Fault.HOLD_REQUEST, nth=2).running() as proxy:
        drainer = php.drainer(proxy.url(), "--once")
        wait_until(proxy.tripped.is_set, "it has noted the first batch")
        drainer.kill()
        drainer.communicate()
    later = php.spool / "later"
    later.write_bytes(again.read_bytes())
    later.rename(again)
    assert php.drain(road.daemon.url)["sent"] == 700
    assert_counted(road, views(700), resent=True)


def test_the_dead_have_a_limit(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, [("like", "movie", MOVIES[0])] * 60)
    out = ended(php.drainer(road.daemon.url, "--once", spool_bytes_max=5_000), code=1)
    assert "events.dead is full" in out
    assert counts(out)["refused"] == 60
    assert (php.spool / "events.dead").stat().st_size <= 5_000


@pytest.mark.parametrize(
    ("after", "seconds"), [("7", 7), ("100000", 600), ("Fri, 01 Jan 2100 00:00:00 GMT", 600), ("soon", 0)]
)
def test_retry_after_is_read_and_has_a_limit(php: Php, tmp_path: Path, after: str, seconds: int) -> None:
    with nginx(f"return 503; add_header Retry-After '{after}' always;", tmp_path) as url:
        env = php.environ(url, ca_file=tmp_path / "nginx/tls/ca.pem")
        ask = "echo Tallyd\\Client::fromEnvironment()->deliver([], 5)->retryAfterS;"
        assert ended(php.start("-r", f"require '{CLIENT}/Client.php'; {ask}", env=env)) == str(seconds)
        began = time.time()
        assert php.track(url, views(1), ca_file=env["TALLYD_CA_FILE"]).returned == [True]
        rest_s = (php.spool / "circuit").stat().st_mtime - began
        assert min(60, max(5, seconds)) - 1 <= rest_s <= RUN_TIMEOUT_S


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
        assert "the daemon does not take events: no answer" in follower.communicate()[0]
    assert_counted(road, views(30))


def test_what_a_rate_limit_left_is_sent_again(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(62))
    with road.system.ingest(HTTP__CLOSING_MS="1", RATE_LIMIT__PER_MINUTE="60") as ingest:
        assert php.drain(ingest.url)["sent"] == 62
        # One page learns of the limit, and Retry-After spares the others the question.
        with Proxy(ingest.url).running() as proxy:
            assert php.track(proxy.url(), views(20)) == Tracked([True] * 20, [])
            assert proxy.connections < 5
    assert_counted(road, [*views(62), *views(20)[: road.accepted() - 62]])


def test_a_batch_that_is_too_large_is_halved(road: Road, php: Php, nowhere: str) -> None:
    php.track(nowhere, views(300))
    with road.system.ingest(HTTP__CLOSING_MS="1", HTTP__BATCH_EVENTS_MAX="100", HTTP__BATCH_BYTES_MAX="5000") as ingest:
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


def test_the_drainer_may_be_killed_at_any_line(road: Road, php: Php, nowhere: str, tmp_path: Path) -> None:
    words = [*with_ticks(tmp_path / "ticks"), str(tmp_path / "ticks/tallyd-drain.php"), "--once"]
    events: list[View] = []
    killed = 0
    for at in range(1, 400, 11):
        some = views(at % 5 + 1)
        php.track(nowhere, [*some, ("like", "movie", f"bad-{at}")], rest_s=0)
        events += some
        drainer = php.start(*words, env=php.environ(road.daemon.url) | {"KILL_AT": str(at)})
        out, err = drainer.communicate()
        assert drainer.returncode in (0, -signal.SIGKILL), out + err
        killed += drainer.returncode != 0
    assert killed > 20
    php.drain(road.daemon.url)
    assert php.files() == {"events.dead"}
    assert {line["event"]["entity_id"] for line in php.dead()} == {f"bad-{at}" for at in range(1, 400, 11)}
    assert_counted(road, events, resent=True)


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
    drainer.communicate()
    assert php.drain(road.daemon.url)["damaged"] == 0
    assert php.files() == {"circuit"}, "nothing is among the dead"
    assert_counted(road, views(1_500) * 4)


def test_a_note_that_is_wrong_costs_nothing(road: Road, php: Php, nowhere: str) -> None:
    for wrong in ("", "x", "9" * 40, "{0} 12", "{0} 99999999", "{0} -5"):
        php.track(nowhere, views(3))
        file = (php.spool / FILE).rename(php.spool / "events.a.draining")
        Path(f"{file}.at").write_text(wrong.format(file.stat().st_ino))
        (php.spool / "events.b.draining.at").write_text("5")
        (php.spool / "events.c.draining").mkdir(exist_ok=True)
        assert php.drain(road.daemon.url)["sent"] == 3
        assert php.files() == {"circuit", "events.c.draining"}
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
    file.write_text(f"<?php return ['url' => '{road.daemon.url}', 'spool' => {json.dumps(str(php.spool))}];")
    drainer = php.start(str(CLIENT / "tallyd-drain.php"), "--once", "--config", str(file), env=inherited())
    assert counts(ended(drainer))["sent"] == 3
    assert_counted(road, views(3))


# The bar -----------------------------------------------------------------------------------------------------------


def test_whatever_fails_all_is_counted_once(road: Road, php: Php) -> None:
    """A tenth of the replies is lost, a tenth of the connections refused, and the daemon is restarted three times."""
    pages = 4
    each = EVENTS_EACH // pages
    began = time.monotonic()
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
    print(  # noqa: T201  (`just clients` shows it)
        f"{pages * each} events; {road.proxy.lost} replies lost, {road.proxy.refused} of {road.proxy.connections}"
        f" connections refused, 3 restarts; {road.duplicates()} came again; {time.monotonic() - began:.1f} s"
    )
    assert php.files() <= {"circuit"}
    assert road.proxy.lost
    assert road.proxy.refused
    assert_counted(road, views(each) * pages, resent=True)
