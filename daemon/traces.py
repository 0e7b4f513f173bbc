"""Spans of calls, claims, bulk writes and UPDATEs, for a collector that takes OTLP over HTTP.

`exported` switches them on for a process if `traces.endpoint` is set. Otherwise `span` costs a look at a variable. An
event has no span of its own: it shares that of its call. A collector that is away delays nothing; its spans are lost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from daemon import __version__, log
from daemon.config import Traces
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

EXPORT_TIMEOUT_S = 3.0
"""How long one request to the collector may take, and the last one of a process."""

_OFF: AbstractContextManager[object] = nullcontext()
_tracer: Tracer | None = None


def span(name: str, attributes: Mapping[str, str | int]) -> AbstractContextManager[object]:
    """A span around the block, below the one around it. An exception of the block marks it as failed."""
    return _OFF if _tracer is None else _tracer.start_as_current_span(name, attributes=attributes)


def check(section: Traces) -> None:
    """Raises ConfigError if spans are wanted and `tallyd[otel]` is not installed."""
    try:
        found = not section.endpoint or find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if not found:
        raise ConfigError("traces.endpoint needs OpenTelemetry: pip install 'tallyd[otel]'.")


@contextmanager
def exported(section: Traces, daemon: Literal["ingest", "flush"]) -> Iterator[None]:
    """Sends the spans of the block to the collector. Call `check` first."""
    if not section.endpoint:
        yield
        return
    # An extra, and only those who use it pay for these imports.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    global _tracer  # noqa: PLW0603  (of the process, as the root logger is)
    ratio = section.calls_ratio if daemon == "ingest" else 1.0
    of = {
        "service.name": f"tallyd-{daemon}",
        "service.version": __version__,
        "service.instance.id": f"{log.run_id()}:{os.getpid()}",
    }
    provider = TracerProvider(ParentBasedTraceIdRatio(ratio), Resource.create(of), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(section.endpoint, timeout=EXPORT_TIMEOUT_S)))
    _tracer = provider.get_tracer("tallyd", __version__)
    try:
        yield
    finally:
        _tracer = None
        # It sends what is left. A collector that hangs must not hold up the end of the process.
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(EXPORT_TIMEOUT_S)
