"""The short run of `just chaos-web`, with one seed."""

from __future__ import annotations

from playwright.sync_api import BrowserContext

from tests.kit.system import Ingest
from tests.web.chaos import Chaos
from tests.web.conftest import Finish
from tests.web.faults import FaultProxy
from tests.web.site import Shop

SECONDS = 8.0
SEED = 20_261_130


def test_four_tabs_at_random_count_exactly(
    shop: Shop, context: BrowserContext, faults: FaultProxy, daemon: Ingest, finish: Finish
) -> None:
    chaos = Chaos(shop, context, faults, daemon, SEED)
    counted = chaos.run(SECONDS)
    finish(shop, counted, resent=True)
