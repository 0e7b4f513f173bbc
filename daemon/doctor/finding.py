"""What a check says. Pure values; every module of the doctor speaks in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, TypeVar

import msgspec

Severity = Literal["ok", "warning", "fatal", "unknown"]
"""fatal: counts are lost, wrong or stuck as it is. unknown: it could not be looked at."""

Facts = TypeVar("Facts")
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True):
    """What one check found. `why`: why it matters. `fix`: what to type, or to do. Both empty where all is well."""

    check: str
    severity: Severity
    found: str
    why: str = ""
    fix: str = ""


class Verdict(NamedTuple):
    """A finding without the name of its check, which the list of checks knows."""

    severity: Severity
    found: str
    why: str = ""
    fix: str = ""


class Refusal(NamedTuple):
    """A question a server answered with an error, in place of what was asked for."""

    question: str
    answer: str


class UnreadableError(Exception):
    """What a check looks at could not be read, because the server refused to tell."""

    def __init__(self, refusal: Refusal, fix: str) -> None:
        super().__init__(f"not told: {refusal.question} was answered {refusal.answer!r}")
        self.fix = fix


def ok(found: str) -> Verdict:
    return Verdict("ok", found)


def warning(found: str, why: str, fix: str) -> Verdict:
    return Verdict("warning", found, why, fix)


def fatal(found: str, why: str, fix: str) -> Verdict:
    return Verdict("fatal", found, why, fix)


def unknown(found: str, why: str, fix: str) -> Verdict:
    return Verdict("unknown", found, why, fix)


def known(read: T | Refusal, fix: str) -> T:
    """What was read. Raises UnreadableError if the server refused."""
    if isinstance(read, Refusal):
        raise UnreadableError(read, fix)
    return read


def judge(checks: Mapping[str, Callable[[Facts], Verdict]], facts: Facts) -> list[Finding]:
    """Runs checks on what was read; one that has nothing to look at says `unknown`."""
    findings = []
    for name, check in checks.items():
        try:
            verdict = check(facts)
        except UnreadableError as error:
            verdict = unknown(str(error), "It cannot be told from here whether this is right.", error.fix)
        findings.append(Finding(name, *verdict))
    return findings


def not_run(checks: Iterable[str], found: str) -> list[Finding]:
    """What is said of checks that could not even begin."""
    return [Finding(name, "unknown", f"not run: {found}") for name in checks]
