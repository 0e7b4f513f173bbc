"""Spans that nobody wants cost nothing, and those that cannot be sent are an error of the configuration."""

from __future__ import annotations

import sys

import pytest

from daemon import traces
from daemon.config import Traces
from daemon.errors import ConfigError


def test_without_an_endpoint_every_span_is_the_same_nothing() -> None:
    with traces.exported(Traces(), "flush"):
        assert traces.span("a", {}) is traces.span("b", {"n": 1})


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter.otlp"])
def test_an_endpoint_needs_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    traces.check(Traces())
    with pytest.raises(ConfigError, match=r"tallyd\[otel\]"):
        traces.check(Traces(endpoint="http://127.0.0.1:4318/v1/traces"))
