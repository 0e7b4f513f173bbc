"""What a command says when tallyd is switched off (`enabled = false`) and its rows of MySQL are not written."""

from __future__ import annotations

from daemon.config import Config
from daemon.errors import ConfigError

WAY_BACK = "once the application has stopped counting: tallyd backfill --reconcile, then enabled = true"


def left_due(due: int) -> str:
    """One line. `due`: entities whose rows were not set."""
    entities = "1 entity stays" if due == 1 else f"{due:,} entities stay"
    return f"enabled = false: MySQL's columns are the application's; {entities} due. To come back, {WAY_BACK}."


def require_on(config: Config, option: str) -> None:
    """Raises ConfigError if tallyd is switched off."""
    if not config.enabled:
        raise ConfigError(
            f"{option}: enabled = false, so MySQL's columns are the application's. To come back, {WAY_BACK}."
        )
