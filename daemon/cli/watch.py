"""`--watch`: what a command prints, again and again in its place, until Ctrl-C."""

from __future__ import annotations

import datetime as dt
import io
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from daemon.cli.output import say
from daemon.errors import ConfigError, TallydError

INTERVAL_S = 2.0

WatchOption = Annotated[
    bool, typer.Option("--watch", help=f"Show it again every {INTERVAL_S:g} s, until Ctrl-C. On a terminal.")
]


def watching(show: Callable[[Console], None], *, as_json: bool) -> None:
    """`show` prints once. If a store is away, its error stands in that place, and `show` is tried again.

    Raises ConfigError without a terminal.
    """
    if as_json or not sys.stdout.isatty():
        raise ConfigError("--watch: only a terminal shows it. For a program, call the command again with --json.")
    screen = Console()
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(Text.from_ansi(_page(show, screen)), refresh=True)
                time.sleep(INTERVAL_S)
        except KeyboardInterrupt:
            pass


def _page(show: Callable[[Console], None], screen: Console) -> str:
    drawn = io.StringIO()
    page = Console(file=drawn, width=screen.width, force_terminal=True)
    say(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC, again every {INTERVAL_S:g} s. Ctrl-C ends it.",
        "dim",
        console=page,
    )
    try:
        show(page)
    except TallydError as error:
        say(str(error), "red", console=page)
    return drawn.getvalue()
