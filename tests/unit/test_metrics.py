"""The page of all metrics is made from their declarations: python -m tests.unit.test_metrics"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from daemon.config import Config
from daemon.metrics import FLUSH, FLUSH_ASKED, INGEST, INGEST_ASKED, Asked

PAGE = Path(__file__).resolve().parents[2] / "ops" / "metrics.md"

HEAD = """\
# Metrics

Made from `daemon/metrics.py` by `python -m tests.unit.test_metrics`. Each daemon serves its own on loopback, at a port
that the configuration names (`http.metrics_port`, `flush.metrics_port`; 0: none):

    curl http://127.0.0.1:{ingest}/metrics    # ingest: the sums over its workers
    curl http://127.0.0.1:{flush}/metrics    # flush, which also asks the stores, every `flush.metrics_interval_s`

The same ports serve `/livez`, `/readyz` and `/version`. `/livez` answers 503 if an event loop, or a call, hangs.
`/readyz` answers 503 if events cannot be counted, or the flusher has not started yet. It answers 200 while events go to
the spool, until that is nearly full (`spool.ready_percent`). On the public port each worker of ingest answers for
itself. A second daemon on the same host needs another port.

A counter is named `…_total`. A histogram has `…_bucket`, `…_sum` and `…_count`. Times are seconds, sizes bytes.
"""


def declared(kept: CollectorRegistry, asked: Iterable[Asked]) -> list[str]:
    """A line for each metric of a daemon, by name."""
    found = {
        each._name + ("_total" if each._type == "counter" else ""): (each._type, each._labelnames, each._documentation)
        for each in kept._collector_to_names
        if isinstance(each, MetricWrapperBase)
    } | {each.name: ("gauge", each.labels, each.text) for each in asked}
    return [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '-'} | {text} |"
        for name, (kind, labels, text) in sorted(found.items())
    ]


def page() -> str:
    config = Config()
    parts = [HEAD.rstrip().format(ingest=config.http.metrics_port, flush=config.flush.metrics_port)]
    for title, kept, asked in (("ingest", INGEST, INGEST_ASKED), ("flush", FLUSH, FLUSH_ASKED)):
        parts += ["", f"## Of {title}", "", "| metric | type | labels | what it says |", "|---|---|---|---|"]
        parts += declared(kept, asked)
    return "\n".join(parts) + "\n"


def test_the_page_is_made_from_the_declarations() -> None:
    assert PAGE.read_text() == page(), "python -m tests.unit.test_metrics"


def test_every_declared_gauge_belongs_to_a_daemon() -> None:
    from daemon import metrics  # noqa: PLC0415  (all of it)

    found = {each for each in vars(metrics).values() if isinstance(each, Asked)}
    assert found == {*INGEST_ASKED, *FLUSH_ASKED}


if __name__ == "__main__":
    PAGE.write_text(page())
