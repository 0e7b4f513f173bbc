"""The ASGI application on Granian as it comes. `./justw stock` runs all tests of HTTP so; here is one round trip."""

from __future__ import annotations

from tests.kit.stock import STOCK
from tests.kit.system import System, event


def test_events_are_counted_once_without_our_main_process(system: System) -> None:
    with system.ingest(command=STOCK, HTTP__WORKERS="2") as ingest:
        viewed = event()
        assert ingest.post(viewed).status_code == 202
        again = ingest.post(viewed)
        assert (again.status_code, again.headers["x-tallyd-duplicate"]) == (202, "1")
        assert ingest.post(b"{").status_code == 400
        assert ingest.end() == 0, ingest.text()
    system.flush()
    assert system.views() == 1
    assert sum(document["view"] for document in system.rollup("totals").values()) == 1
