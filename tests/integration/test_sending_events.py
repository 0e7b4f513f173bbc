"""The page about producers: its commands count what it says, and its numbers are the defaults."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Mapping

import pytest

from daemon.config import Config
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import ROOT, System

PAGE = (ROOT / "ops/sending-events.md").read_text()
CURL = re.findall(r"^```sh\n(.*?)^```$", PAGE.partition("\n## curl\n")[2], re.MULTILINE | re.DOTALL)[0]


def sh(command: str, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(["sh", "-ec", command], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_curl_command_counts_once_when_its_reply_is_lost(system: System) -> None:
    with system.ingest() as ingest, Proxy(ingest.url).running() as road:
        trap = road.trap(b"POST /api", Fault.LOSE_REPLY)

        def cut() -> None:
            assert trap.tripped.wait(30)
            road.cut()
            road.restore()

        cutting = threading.Thread(target=cut)
        cutting.start()
        sh(CURL.replace("http://127.0.0.1:8080", road.url()))
        cutting.join()
    assert system.ledger() == {"accepted:view": 1, "duplicate:view": 1}


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("within `dedupe.window_s` ({} hours)", Config().dedupe.window_s // 3600),
        ("from one address {} events a minute (`rate_limit.per_minute`)", Config().rate_limit.per_minute),
        ("up to {:,} lines", Config().http.batch_events_max),
    ],
)
def test_a_number_on_the_page_is_the_default(said: str, value: int) -> None:
    assert said.format(value) in " ".join(PAGE.split())
