"""Every literal `STEPS` of `daemon/` is read by a test that kills a process at each of its steps."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.kit.kill import STOPS
from tests.kit.system import ROOT

WORDS_MAX = 20


def assigns_steps(path: Path) -> bool:
    return any(
        isinstance(node, ast.Assign) and any(ast.unparse(target) == "STEPS" for target in node.targets)
        for node in ast.parse(path.read_text()).body
    )


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "daemon").rglob("*.py")
    if assigns_steps(path)
}


def test_there_are_steps_and_a_stop_for_each_module() -> None:
    assert STOPS.keys() == MODULES


@pytest.mark.parametrize("module", sorted(MODULES))
def test_each_step_has_a_kill_and_a_test_takes_them_all(module: str) -> None:
    steps = importlib.import_module(module).STEPS
    assert steps.keys() == STOPS[module].keys()
    assert all(STOPS[module].values())
    calls = [
        node
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "kills" and ast.literal_eval(node.args[0]) == module
    ]
    killed_at = [{ast.literal_eval(argument) for argument in call.args[1:]} or steps.keys() for call in calls]
    assert set().union(*killed_at) == steps.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_holds_is_said_in_short_sentences(module: str) -> None:
    for said in importlib.import_module(module).STEPS.values():
        assert said.endswith(".")
        assert all(len(sentence.split()) <= WORDS_MAX for sentence in said.split(". ")), said
