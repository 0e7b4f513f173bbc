"""tallyd: counts what happens to entities, exactly once, and keeps the counts where applications read them.

The tree follows the data: `ingest` (HTTP) → `buffer` (Redis) → `flush` → `sinks` (MongoDB, MySQL) → `read`; `domain`
holds the pure values they share. `daemon/DESIGN.md` says why each part is the way it is.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tallyd")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+unknown"
