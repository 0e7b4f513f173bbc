"""Which refusals of Redis end by themselves."""

from __future__ import annotations

import pytest

from daemon.buffer.connection import RefusedError


@pytest.mark.parametrize(
    "error",
    [
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "READONLY You can't write against a read only replica.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:85.",
        "ERR user_script:144: OOM command not allowed when used memory > 'maxmemory'. script: ad, on @user_script:144.",
        "ERR Error running script (call to f_9a): @user_script:1: @user_script: 1: -NOREPLICAS Not enough good",
    ],
)
def test_what_another_node_or_a_moment_later_takes_is_passing(error: str) -> None:
    assert RefusedError("Redis refused ingest", error).passing


@pytest.mark.parametrize(
    "error",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value, of jav:movie:OOM",
        "ERR value is not an integer or out of range: READONLY",
        "ERR unknown command 'BUSY'",
        "",
    ],
)
def test_a_code_inside_the_text_decides_nothing(error: str) -> None:
    assert not RefusedError("Redis at redis://READONLY.example refused ingest", error).passing
