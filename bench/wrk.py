"""The load generator: wrk, with requests.lua, which makes the requests and prints the result as JSON."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path
from statistics import median

import msgspec

from bench.events import MINUTE

SCRIPT = Path(__file__).with_name("requests.lua")
MARK = "RESULT "
ANSWER_TIMEOUT_S = 60
"""A machine that is held up for seconds shows in the latency; only an answer that never comes is a failure."""
GRACE_S = 120


class WrkError(Exception):
    """wrk is missing, or its run is no measurement."""


class Result(msgspec.Struct, frozen=True):
    """A run. `requests`: those that were answered; the others were under way when time was up."""

    requests: int
    us: int
    not_2xx: int
    socket_errors: int
    timeouts: int
    p50_us: int
    p99_us: int

    @property
    def per_second(self) -> float:
        return self.requests / self.us * 1e6


def program() -> str:
    """Where wrk is. Raises WrkError with what to install."""
    found = shutil.which("wrk")
    if found is None:
        raise WrkError("The load generator wrk is missing; as root type: apt-get install wrk")
    return found


def version() -> str:
    """What wrk calls itself."""
    done = subprocess.run([program(), "-v"], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).split("[")[0].removeprefix("wrk").strip()


def median_ms(us: list[int]) -> float:
    """The median of times in microseconds, in milliseconds."""
    return round(median(us) / 1000, 2)


def run(url: str, *, events: int, connections: int, seconds: int) -> Result:
    """Sends requests of so many events for so long, from one thread. Raises WrkError unless every answer was good."""
    command = [
        *(program(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{ANSWER_TIMEOUT_S}s"),
        *("-s", str(SCRIPT), url, "--", secrets.token_hex(4), MINUTE, str(events)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + GRACE_S)
    except subprocess.TimeoutExpired:
        raise WrkError(f"wrk got no answer from {url}.") from None  # it then waits for ever
    return result_of(done.stdout + done.stderr)


def result_of(said: str) -> Result:
    """What a run of wrk printed at its end. Raises WrkError unless every answer was good."""
    line = next((line for line in said.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise WrkError(f"wrk ended without a result:\n{said}")
    result = msgspec.json.decode(line.removeprefix(MARK), type=Result)
    if result.not_2xx or result.socket_errors or result.timeouts:
        raise WrkError(f"This is no measurement, some requests failed: {result}")
    return result
