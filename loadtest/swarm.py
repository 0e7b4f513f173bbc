"""The producers: Locust as a library, in a process of its own. `python -m loadtest.swarm ORDERS`, called by `run.py`.

gevent patches the whole process, so nothing of asyncio or of `daemon` is imported here. A `Sample` a second goes to
standard output as a line of JSON. SIGTERM ends the load early; the accounts are settled all the same: what has no
known outcome is sent again, with the same ids, until it has one. Then the tally is written.
"""

from locust import FastHttpUser, events, task  # isort: skip  (patches; before anything else)

import http.client
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec
from gevent.event import Event
from locust import log, stats
from locust.env import Environment
from locust.exception import StopUser
from locust.html import get_html_report

from loadtest import scenarios
from loadtest.parcels import Parcel, Source
from loadtest.tally import LOCUST_REPORT, TALLY, Orders, Sample, Tally, key_of
from loadtest.verdict import complaint, is_known

ANSWER_TIMEOUT_S = 60.0
BEHIND_MAX_S = 1.0
"""A rate that could not be kept is made up for, but only for this long."""
SETTLE_TIMEOUT_S = 60.0
SETTLE_PAUSE_S = 0.2
POLL_S = 0.02
FAILURES_LISTED_MAX = 50
PERCENTILES = (0.50, 0.95, 0.99)


class Accounts:
    """The outcome of every parcel. One for all producers: greenlets never interrupt each other within a method."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[int, str]] = Counter()
        self._days: Counter[tuple[str, str]] = Counter()
        self._duplicates: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._open: dict[int, Parcel] = {}
        """Sent, and not answered so that one knows; by a number of their own."""
        self._sent = 0
        self.resent = 0
        self.events = 0

    def open(self, parcel: Parcel) -> int:
        """Call it before the first byte is sent: a parcel that was interrupted may have arrived."""
        self._sent += 1
        self._open[self._sent] = parcel
        return self._sent

    def close(self, number: int, status: int, body: bytes) -> str:
        """Books the answer to a parcel. Returns what is wrong with it, "" if nothing is."""
        parcel = self._open[number]
        if not is_known(status):
            return self._note(f"{status or 'no answer'}: {body[:100].decode(errors='replace')}")
        del self._open[number]
        if status == 202:
            self._book(parcel)
        wrong = complaint(parcel, status, body)
        return self._note(f"{parcel.name}: {wrong}") if wrong else ""

    def unsettled(self) -> dict[int, Parcel]:
        return dict(self._open)

    def tally(self, total: stats.StatsEntry, seconds: float) -> Tally:
        entities: dict[str, dict[str, int]] = {}
        for (entity, counter), amount in self._counted.items():
            entities.setdefault(key_of(entity), {})[counter] = amount
        days: dict[str, dict[str, int]] = {}
        for (day, counter), amount in sorted(self._days.items()):
            days.setdefault(day, {})[counter] = amount
        p50, p95, p99 = (float(total.get_response_time_percentile(share)) for share in PERCENTILES)
        return Tally(
            entities=entities,
            days=days,
            duplicates=dict(sorted(self._duplicates.items())),
            requests=total.num_requests,
            events=self.events,
            failed=total.num_failures,
            failures=dict(self._failures),
            resent=self.resent,
            unsettled=len(self._open),
            seconds=max(0.1, round(seconds, 1)),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
        )

    def _book(self, parcel: Parcel) -> None:
        self.events += len(parcel.counted)
        if parcel.again:
            for _, counter, _, amount in parcel.counted:
                self._duplicates[counter] += amount
            return
        for entity, counter, day, amount in parcel.counted:
            self._counted[entity, counter] += amount
            self._days[day, counter] += amount

    def _note(self, wrong: str) -> str:
        if wrong in self._failures or len(self._failures) < FAILURES_LISTED_MAX:
            self._failures[wrong] += 1
        return wrong


class Pace:
    """Hands out the moments to send at. A free producer takes the next one, so the rate is that of all together."""

    def __init__(self, scenario: scenarios.Scenario, rate: float) -> None:
        self._scenario = scenario
        self._rate = rate
        self._began_s = self._next_s = time.monotonic()

    def wait_s(self) -> float:
        if not self._rate:
            return 0.0
        now_s = time.monotonic()
        at_s = max(self._next_s, now_s - BEHIND_MAX_S)
        self._next_s = at_s + 1 / scenarios.rate_at(self._scenario, self._rate, at_s - self._began_s)
        return max(0.0, at_s - now_s)


class Seconds:
    """Collects the answers of each second into a `Sample` and prints it."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._events = 0
        self._second = 0
        self._clear()

    def answered(self, response_time: float, exception: Exception | None, **_: object) -> None:
        """Called by Locust for each request."""
        self._times_ms.append(response_time)
        self._failed += exception is not None

    def run(self) -> None:
        began_s = time.monotonic()
        while True:
            gevent.sleep(max(0.0, began_s + self._second + 1 - time.monotonic()))
            self._print()

    def _print(self) -> None:
        times = sorted(self._times_ms)
        p50, p95, p99 = (round(times[int(share * len(times))], 2) if times else 0.0 for share in PERCENTILES)
        self._second += 1
        events_before, self._events = self._events, self._accounts.events
        sample = Sample(self._second, len(times), self._events - events_before, self._failed, p50, p95, p99)
        print(msgspec.json.encode(sample).decode(), flush=True)
        self._clear()

    def _clear(self) -> None:
        self._times_ms: list[float] = []
        self._failed = 0


class Producer(FastHttpUser):
    """One user: sends a parcel when it is time, and books the answer. Keeps its connection while it is allowed to."""

    abstract = True
    network_timeout = ANSWER_TIMEOUT_S
    connection_timeout = ANSWER_TIMEOUT_S
    concurrency = 1
    source: Source
    accounts: Accounts
    pace: Pace
    over: Event
    under_way = 0
    """Requests of all producers that wait for their answer."""

    def wait_time(self) -> float:
        return self.pace.wait_s()

    @task
    def send(self) -> None:
        if self.over.is_set():
            raise StopUser
        Producer.under_way += 1
        try:
            self._deliver(self.source.next())
        finally:
            Producer.under_way -= 1

    def _deliver(self, parcel: Parcel) -> None:
        number = self.accounts.open(parcel)
        headers = {"content-type": parcel.content_type}
        with self.client.post(
            parcel.path,
            data=parcel.body,  # type: ignore[arg-type]  # its stub forgets bytes
            headers=headers,
            name=parcel.name,
            catch_response=True,
        ) as response:
            body = response.content if response.status_code else str(response.error).encode()
            wrong = self.accounts.close(number, response.status_code, body or b"")
            if wrong:
                response.failure(wrong)
                return
            response.success()
        if response.status_code == 202:
            self.source.accepted(parcel)


def run(orders: Orders) -> None:
    """The whole load. Returns when it is over, the accounts are settled, and the tally is written."""
    scenario = scenarios.BY_NAME[orders.scenario]
    accounts = Accounts()
    seconds = Seconds(accounts)
    over = Event()
    gevent.signal_handler(signal.SIGTERM, over.set)
    shared = {
        "abstract": False,
        "host": orders.url,
        "accounts": accounts,
        "pace": Pace(scenario, orders.rate),
        "over": over,
        "source": Source(scenario, datetime.now(UTC)),
    }
    producer: Any = type("Producer", (Producer,), shared)
    environment = Environment(user_classes=[producer], events=events, host=orders.url)
    events.request.add_listener(seconds.answered)
    runner = environment.create_local_runner()
    stats.HISTORY_STATS_INTERVAL_SEC, stats.PERCENTILES_TO_CHART = 1, list(PERCENTILES)
    began_s = time.monotonic()
    runner.start(orders.users, spawn_rate=orders.users)
    greenlets = [gevent.spawn(stats.stats_history, runner), gevent.spawn(seconds.run)]
    over.wait(orders.seconds)
    over.set()
    _wait_for_answers()
    passed_s = time.monotonic() - began_s
    runner.stop()
    gevent.killall(greenlets)
    settle(accounts, orders.url)
    tally = accounts.tally(runner.stats.total, passed_s)
    folder = Path(orders.folder)
    (folder / LOCUST_REPORT).write_text(get_html_report(environment, show_download_link=False))
    (folder / TALLY).write_bytes(msgspec.json.encode(tally))
    runner.quit()


def _wait_for_answers() -> None:
    """Locust's own way to stop would kill users that have just begun a request."""
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    while Producer.under_way and time.monotonic() < deadline_s:
        gevent.sleep(POLL_S)


def settle(accounts: Accounts, url: str) -> None:
    """Sends open parcels again, one after the other, until none is left or the time is up."""
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while unsettled := accounts.unsettled():
        for number, parcel in unsettled.items():
            if time.monotonic() > deadline_s:
                return
            accounts.resent += 1
            with suppress(OSError, http.client.HTTPException):
                accounts.close(number, *_post(url, parcel))
        gevent.sleep(SETTLE_PAUSE_S)


def _post(url: str, parcel: Parcel) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("POST", parcel.path, parcel.body, {"content-type": parcel.content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def main() -> None:
    log.setup_logging("WARNING")
    run(msgspec.json.decode(sys.argv[1], type=Orders))


if __name__ == "__main__":
    main()
