"""What the schema says of its keys: units, bounds, texts, and which of them a daemon reads at start only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest

from daemon.config import schema
from daemon.config.schema import Config, Daemon, Key, Section, bare, bounds_of, keys_of, read_at_start, section_of

SECTIONS = [each for each in vars(schema).values() if isinstance(each, type) and issubclass(each, Section)]


def keys() -> Iterator[tuple[str, Key]]:
    """Every key of a table with fixed keys, dotted."""
    for table in keys_of(Config).values():
        section = section_of(table.kind)
        for key in keys_of(section).values() if section else ():
            yield f"{table.name}.{key.name}", key


def test_every_number_has_bounds() -> None:
    numbers = [key for section in SECTIONS for key in keys_of(section).values() if bare(key.kind) in (int, float)]
    assert len(numbers) > 50
    assert [key.name for key in numbers if not bounds_of(key.kind)] == []


@pytest.mark.parametrize(
    ("daemon", "expected"),
    [
        (
            "ingest",
            {"http.host", "http.port", "http.unix_socket", "http.workers", "http.header_bytes_max", "http.interface",
             "http.answer_timeout_ms", "http.metrics_port", "ingest.slice_us", "log.counts",
             "read.fresh_fields_max", "read.timeout_ms", "redis.url", "redis.timeout_ms", "redis.reconnect_ms",
             "redis.shards", "redis.prefix", "redis.address_map", "redis.replicas", "redis.durability",
             "redis.unsynced_ms", "redis.unconfirmed_bytes_max", "mongo.url", "mongo.timeout_ms", "mysql.url",
             "mysql.timeout_ms", "mysql.lock_timeout_s", "mysql.rows_max",
             "dedupe.window_s", "dedupe.events_per_window", "spool.dir", "spool.bytes_max",
             "spool.address_percent_max", "spool.producers_percent", "spool.ready_percent", "spool.segment_bytes",
             "spool.probe_ms", "spool.replay_call_events_max", "spool.timeout_ms", "traces.endpoint",
             "traces.calls_ratio"},
        ),
        ("flush", {"flush.metrics_port", "flush.niceness", "traces.endpoint", "traces.calls_ratio"}),
    ],
)  # fmt: skip
def test_the_keys_a_daemon_reads_at_start_only(daemon: Daemon, expected: set[str]) -> None:
    assert {key for key, _ in keys() if read_at_start(daemon, key)} == expected
    assert not read_at_start(daemon, "enabled")
    assert not read_at_start(daemon, "producers.keys.shop"), "below a key, as a reload names what has changed"


def test_each_daemon_has_keys_it_reads_at_start_only() -> None:
    assert {key.at_start for _, key in keys()} >= set(get_args(Daemon))


def test_the_secrets() -> None:
    assert {name: key.mask for name, key in keys() if key.mask} == {
        "redis.url": "password",
        "mongo.url": "password",
        "mysql.url": "password",
        "traces.endpoint": "password",
        "producers.keys": "all",
        "keys.entries": "all",
        "read.key": "all",
        "dashboard.key": "all",
    }
