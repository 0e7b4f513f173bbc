"""tallyd: counts what happens to entities, exactly once, and keeps the counts where applications read them.

The tree follows the data: `ingest` (HTTP) → `buffer` (Redis) → `flush` → `rollups` (MongoDB), `replica` (MySQL) →
`read`. `domain` holds the pure values that they share. `daemon/DESIGN.md` lists the data and the rooms.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tallyd")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+unknown"
