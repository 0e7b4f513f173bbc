"""`tallyd version`: what a report of a fault should say."""

from __future__ import annotations

import platform
from pathlib import Path

from daemon import __version__
from daemon.cli.options import JsonOption
from daemon.cli.output import print_json


def version(as_json: JsonOption = False) -> None:
    """Print the version of tallyd, of Python and of the system, and where tallyd is installed.

    Example: `tallyd version --json`
    """
    found = {
        "tallyd": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "folder": str(Path(__file__).parents[1]),
    }
    if as_json:
        print_json(found)
    else:
        print("tallyd {tallyd}\nPython {python} on {system}\n{folder}".format(**found))
