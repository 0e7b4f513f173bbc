"""`tallyd config`: what this machine's tallyd would run with."""

from __future__ import annotations

from daemon.cli.options import ConfigOption, DataOption, load, print_json
from daemon.config import masked


def show_config(config: ConfigOption = None, data: DataOption = None) -> None:
    """Print the effective configuration as JSON, secrets masked; exit 2 and every problem if it is wrong.

    Example: `TALLYD_RATE_LIMIT__PER_MINUTE=0 tallyd config --config tallyd.toml`
    """
    print_json(masked(load(config, data)))
