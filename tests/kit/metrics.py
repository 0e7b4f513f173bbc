"""What a daemon tells Prometheus, and how it is, on the port of its metrics."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.wait import WAIT_TIMEOUT_S, wait_until


class Listener:
    """The port of one daemon's metrics."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_TIMEOUT_S)

    def families(self) -> set[str]:
        """The names on the page."""
        return {family.name for family in text_string_to_metric_families(self.client.get("/metrics").text)}

    def samples(self) -> dict[str, float]:
        """Each series with its value: `name` or `name{label="value"}`."""
        found = text_string_to_metric_families(self.client.get("/metrics").text)
        return {
            f"{sample.name}{{{labels}}}" if (labels := _labels(sample.labels)) else sample.name: sample.value
            for family in found
            for sample in family.samples
        }

    def says(self, expected: dict[str, float]) -> None:
        """Waits until these series have these values."""
        found: dict[str, float | None] = {}

        def holds() -> bool:
            with contextlib.suppress(httpx.TransportError):  # it does not listen yet
                samples = self.samples()
                found.update({name: samples.get(name) for name in expected})
            return found == expected

        try:
            wait_until(holds, f"port {self.port} says so")
        except AssertionError as error:
            apart = {name: (value, found.get(name)) for name, value in expected.items() if found.get(name) != value}
            raise AssertionError(f"{error}: expected and found: {apart}") from None

    def answers(self, path: str, code: int, /, **fields: Any) -> None:
        """Waits until a health route answers so."""

        def does() -> bool:
            try:
                answer = self.client.get(path)
            except httpx.TransportError:
                return False
            return answer.status_code == code and fields.items() <= answer.json().items()

        wait_until(does, f"{path} at port {self.port} answers {code} {fields}")


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
