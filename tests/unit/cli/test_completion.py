"""`tallyd completion`, in the shells themselves: each gets the script, and then the tabulator."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.kit.commands import inherited, run

ANSWER_TIMEOUT_S = 30


@pytest.fixture
def env() -> Mapping[str, str]:
    """`tallyd` is on the PATH, as whoever completes it has it."""
    return inherited() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_bash_completes_commands_choices_and_what_is_below_a_command(env: Mapping[str, str]) -> None:
    script = """
        source <(tallyd completion bash)
        for COMP_WORDS in "tallyd stat" "tallyd dead r" "tallyd export wee"; do
            COMP_WORDS=($COMP_WORDS); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _tallyd_completion tallyd; echo "${COMPREPLY[*]}"
        done"""
    assert run(["bash", "--norc", "-c", script], env=env, check=True).stdout.split() == ["status", "retry", "weekly"]


def test_fish_completes_with_a_word_about_each(env: Mapping[str, str]) -> None:
    script = "tallyd completion fish | source; complete -C 'tallyd stat'"
    done = run(["fish", "--no-config", "-c", script], env=env, check=True)
    assert done.stdout == "status\tWhat is dirty, in flight, due, and spooled.\n"


@pytest.fixture
def zsh(env: Mapping[str, str], tmp_path: Path) -> Iterator[int]:
    """One that reads from a terminal, as it completes nowhere else."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**env, "TERM": "dumb", "ZDOTDIR": str(tmp_path)})
    yield terminal
    os.close(terminal)
    os.waitpid(pid, 0)


def test_zsh_completes_at_the_tabulator(zsh: int) -> None:
    os.write(zsh, b"autoload -Uz compinit; compinit -D -u; source <(tallyd completion zsh); print re''ady\n")
    says(zsh, b"ready")
    os.write(zsh, b"tallyd stat\t")
    says(zsh, b"tallyd status ")


def says(terminal: int, wanted: bytes) -> None:
    """Reads until it has been said."""
    said, deadline_s = b"", time.monotonic() + ANSWER_TIMEOUT_S
    while wanted not in said:
        assert time.monotonic() < deadline_s, said
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 65_536)
