"""The errors tallyd raises on purpose, each with the exit code its command ends with.

Raised anywhere, caught in one place (`daemon.cli`), which prints the message without a traceback. A message says what
is wrong and what to do about it. Expected outcomes (a duplicate, a rejected event) are values, never exceptions.
"""

from __future__ import annotations


class TallydError(Exception):
    """Something tallyd can explain. `exit_code`: 1, the check or the work failed."""

    exit_code = 1


class CheckFailed(TallydError):  # noqa: N818  (what was looked for was found; nothing went wrong)
    """A command that checks found something: a difference, a letter that still fails."""


class ConfigError(TallydError):
    """The configuration or the command line is wrong; the message lists every problem with its key."""

    exit_code = 2


class StackError(TallydError):
    """A server of the embedded stack could not be found, started or stopped."""


class StoreError(TallydError):
    """A store did not answer, or answered with an error. The message names the store and its address."""

    store = "none"
    """Which one: `redis`, `mongo`, `mysql` or `spool`. `none`: it is not known, or several are away."""


class RedisStoreError(StoreError):
    store = "redis"


class HeldError(RedisStoreError):
    """A shard's Redis came back older, and how its counts would be put right is for an operator to decide."""


class SpoolStoreError(StoreError):
    """Redis is away, and the spool takes no events either."""

    store = "spool"


class MongoStoreError(StoreError):
    store = "mongo"


class MongoAwayError(MongoStoreError):
    """It could not be reached, or did not answer in time."""


class MysqlStoreError(StoreError):
    store = "mysql"


class MysqlAwayError(MysqlStoreError):
    """It did not answer in time, or the line broke."""


class LayoutError(ConfigError, RedisStoreError):
    """The layout in Redis was written by a daemon with another shard count, dedupe window or format."""


def unforeseen(error: Exception) -> bool:
    """Whether a log entry about it should carry the traceback: tallyd's own errors say enough."""
    return not isinstance(error, TallydError)
