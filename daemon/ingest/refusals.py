"""The log of requests that were refused or failed, so that one is found by its id.

A proxy or a client gives a request its id, in `X-Request-Id`. `app.py` reports every answer from 400 on. One with an id
becomes an entry, `ENTRIES_PER_SECOND_MAX` of them at most: anybody can send requests that are refused. A good event
is never looked at.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import msgspec

from daemon import log
from daemon.ingest.requests import RequestHead
from daemon.response import Response

HEADER = "x-request-id"
ID = re.compile(r"[!-~]{1,128}")
"""The form of an id. A request with another one has none."""
PATH_CHARACTERS_MAX = 200
WHY_CHARACTERS_MAX = 300
ENTRIES_PER_SECOND_MAX = 10

_log = logging.getLogger(__name__)


class _Said(msgspec.Struct):
    """The part of an answer's body that says why."""

    message: str = ""


_why = msgspec.json.Decoder(_Said).decode


def request_id(head: RequestHead) -> str:
    """The id that a request came with; "" if it has none, several, or one of another form."""
    given = head.headers.get_all(HEADER)
    return given[0] if len(given) == 1 and ID.fullmatch(given[0]) else ""


class Refusals:
    """Of one worker."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until = 0.0
        self._entries = self._left_out = 0

    def note(self, head: RequestHead, answer: Response) -> None:
        """Logs an answer from 400 on."""
        if self._entries >= ENTRIES_PER_SECOND_MAX:
            if self._monotonic() < self._until:
                self._left_out += 1
                return
            if self._left_out:
                _log.info("%d more requests were refused or failed.", self._left_out)
            self._entries = self._left_out = 0
        if not (id_ := request_id(head)):
            return
        if not self._entries:
            self._until = self._monotonic() + 1
        self._entries += 1
        try:
            why = _why(answer.body).message
        except msgspec.DecodeError:  # no body, as to HEAD
            why = ""
        with log.bound(request_id=id_):
            _log.log(
                logging.WARNING if answer.status >= 500 else logging.INFO, "%s %s: %d. %s",
                head.method, head.path[:PATH_CHARACTERS_MAX], answer.status, why[:WHY_CHARACTERS_MAX],
            )  # fmt: skip
