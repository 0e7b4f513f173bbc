"""What a check finds. Pure values, used by every module of the doctor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeVar

import msgspec

Severity = Literal["ok", "warning", "fatal", "unknown"]
"""fatal: counts are lost, wrong or stuck. unknown: the check could not be made."""

Facts = TypeVar("Facts")
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True):
    """What one check found. `why`: why it matters. `fix`: what to type or to do. Both are empty if nothing is wrong."""

    check: str
    severity: Severity
    found: str
    why: str = ""
    fix: str = ""


class Verdict(NamedTuple):
    """A finding without the name of its check. The list of checks adds the name."""

    severity: Severity
    found: str
    why: str = ""
    fix: str = ""


class Refusal(NamedTuple):
    """A question that a server answered with an error."""

    question: str
    answer: str


class UnreadableError(Exception):
    """The server refused to tell what a check needs."""

    def __init__(self, refusal: Refusal, fix: str) -> None:
        super().__init__(f"not known: the answer to {refusal.question} was {refusal.answer!r}")
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
    """The value that was read. Raises UnreadableError if the server refused it."""
    if isinstance(read, Refusal):
        raise UnreadableError(read, fix)
    return read


def run_checks(checks: Mapping[str, Callable[[Facts], Verdict]], facts: Facts) -> list[Finding]:
    """Runs checks on what was read. A check whose facts are missing says `unknown`."""
    findings = []
    for name, check in checks.items():
        try:
            verdict = check(facts)
        except UnreadableError as error:
            verdict = unknown(str(error), "This may be wrong; it cannot be checked from here.", error.fix)
        findings.append(Finding(name, *verdict))
    return findings
