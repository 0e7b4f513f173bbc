"""`tallyd completion`, in the shells themselves: each gets the script, and then the tabulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.kit.commands import inherited, run
from tests.kit.terminal import terminal


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


def test_zsh_completes_at_the_tabulator(env: Mapping[str, str], tmp_path: Path) -> None:
    with terminal(("zsh", "-f", "-i"), {**env, "ZDOTDIR": str(tmp_path)}, tmp_path) as zsh:
        zsh.types(b"autoload -Uz compinit; compinit -D -u; source <(tallyd completion zsh); print re''ady\n")
        zsh.shows(b"\nready")
        zsh.types(b"tallyd stat\t")
        zsh.shows(b"tallyd status")
