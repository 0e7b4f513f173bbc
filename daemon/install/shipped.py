"""The files that every installation carries: units, alerts, dashboards, the example, the pinned dependencies."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
OPS = _PACKAGE / "ops" if (_PACKAGE / "ops").is_dir() else _PACKAGE.parent / "ops"
"""Inside the package in a wheel, beside it in a checkout."""


def units() -> dict[Path, str]:
    """The files that systemd reads, with their paths below its folder. Also drop-ins, in folders of their own."""
    folder = OPS / "systemd"
    kinds = (".service", ".socket", ".timer", ".target", ".conf")
    return {path.relative_to(folder): path.read_text() for path in sorted(folder.rglob("*")) if path.suffix in kinds}


def user() -> str:
    """The user of the daemons, in the words of sysusers.d."""
    return (OPS / "systemd" / "tallyd.sysusers").read_text()
