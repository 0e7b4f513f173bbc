"""A Prometheus with the files of ops/prometheus, in quick time: what takes it minutes there takes it a second here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from daemon.devstack import process
from tests.kit.commands import ROOT
from tests.kit.wait import wait_until

FILES = ROOT / "ops/prometheus"
INTERVALS = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "300ms"}
"""A scrape of a busy machine takes up to half a second."""
FIRE_TIMEOUT_S = 180.0
AGE = re.compile(r"(?<=_seconds)(\)?) > \d\d+(?! \*)")
"""An age in seconds that an alert allows."""
NOT_RENDERED = ("<no value>", "error expanding template")


def quick_rules() -> dict[str, Any]:
    """Those of alerts.yml, but alerts wait for nothing (alerts_test.yml holds each `for`), and a second is very old."""
    rules: dict[str, Any] = yaml.safe_load((FILES / "alerts.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule.pop("for", None)
        rule["expr"] = AGE.sub(r"\1 > 1", rule["expr"])
    return rules


class Prometheus:
    """Scrapes the `targets` of each job until the context is left."""

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[str]]) -> None:
        config: dict[str, Any] = yaml.safe_load((FILES / "prometheus.yml").read_text())
        config["global"] = INTERVALS
        for each in config["scrape_configs"]:
            each["static_configs"] = [{"targets": list(targets[each["job_name"]])}]
        folder.mkdir()
        (folder / "alerts.yml").write_text(yaml.safe_dump(quick_rules()))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = process.free_port()
        self._command = [
            *process.dies_with_parent(),
            *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
        ]
        self.waited_for: set[str] = set()
        """Alerts that fired when a test waited for it."""
        self._log = folder / "prometheus.log"
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self._is_ready, f"{self._log}: it is ready", FIRE_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.kill()  # nothing of it is kept
        self._process.wait(30)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series, now."""
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def firing(self) -> list[dict[str, str]]:
        """The labels of each alert that fires. What it says to people must be whole."""
        alerts = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        for alert in alerts:
            for text in alert["annotations"].values():
                assert text, alert
                assert not any(mark in text for mark in NOT_RENDERED), alert
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    def fires(self, alert: str, **labels: str) -> bool:
        wanted = {"alertname": alert, **labels}
        return any(wanted.items() <= found.items() for found in self.firing())

    def wait_firing(self, alert: str, **labels: str) -> None:
        self._wait(lambda: self.fires(alert, **labels), f"{alert} {labels} fires")
        self.waited_for.add(alert)

    def wait_quiet(self, alert: str, **labels: str) -> None:
        self._wait(lambda: not self.fires(alert, **labels), f"{alert} {labels} is quiet")

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        try:
            wait_until(true, what, FIRE_TIMEOUT_S)
        except AssertionError as error:
            targets = self._client.get("/api/v1/targets").json()["data"]["activeTargets"]
            scrapes = [(each["scrapeUrl"], each["health"], each["lastError"]) for each in targets]
            raise AssertionError(f"{error}\nIt scrapes {scrapes}\nIt fires {self.firing()}") from None
