"""The layout: the parts of a configuration that must agree with the data in Redis before a daemon may touch it.

`connection.Connection` checks it on every new connection. So a wrong configuration is noticed, and also a Redis that
was exchanged or emptied while the daemon ran.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.buffer import keys
from daemon.config import Config
from daemon.errors import LayoutError

FORMAT = 1
"""Version of the keys and values described in daemon/DESIGN.md."""


class Layout:
    """The layout a configuration asks for."""

    def __init__(self, config: Config) -> None:
        self._wanted = {
            "format": str(FORMAT),
            "shards": str(config.redis.shards),
            "dedupe_window_s": str(config.dedupe.window_s),
        }

    @property
    def script_args(self) -> list[str]:
        """What `layout.lua` writes if Redis has no layout yet."""
        return [text for pair in self._wanted.items() for text in pair]

    def verify(self, reply: Sequence[bytes]) -> int:
        """The epoch of the Redis that sent this reply to `layout.lua`. Raises LayoutError, naming the way out, if it is
        laid out differently."""
        texts = [part.decode(errors="backslashreplace") for part in reply]
        found = dict(zip(texts[::2], texts[1::2], strict=True))
        differing = [
            f"  {name}: Redis has {found.get(name, 'nothing')}, the configuration says {value}"
            for name, value in self._wanted.items()
            if found.get(name) != value
        ]
        if differing:
            raise LayoutError(
                f"Redis is laid out differently ({keys.LAYOUT}):\n" + "\n".join(differing) + "\n"
                "Either put redis.shards and dedupe.window_s back to what Redis has; or change the layout: stop every"
                " daemon, run `tallyd flush --once` with the old configuration until it counts 0 entities,"
                f" `redis-cli DEL {keys.LAYOUT}`, `redis-cli --scan --pattern 'anl:*:seen*' | xargs redis-cli UNLINK`"
                " (the event ids seen before are forgotten), and start with the new one."
            )
        return int(found.get("epoch", 0))
