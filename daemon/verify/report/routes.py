"""Which routes answer. They are asked with methods that change nothing. Any answer but 404 means: it exists."""

from __future__ import annotations

import asyncio
import http.client
from http import HTTPStatus
from urllib.parse import urlsplit

from daemon.config import Http
from daemon.errors import ConfigError

EVENTS_PATH = "/api/v1/analytics/events"
TIMEOUT_S = 3.0


def checked_url(url: str) -> str:
    """The URL, if HTTP can ask it. Raises ConfigError otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--legacy-url: {url!r} must look like https://host/path")
    return url


def events_url(http: Http) -> str:
    """Where tallyd takes events, as configured."""
    host = f"[{http.host}]" if ":" in http.host else http.host
    return f"http://{host}:{http.port}{EVENTS_PATH}"


async def is_present(method: str, url: str) -> tuple[bool, str]:
    """Whether the route exists, as far as it answers; and the question and status."""
    status = await asyncio.to_thread(_status, method, url)
    if status is None:
        return False, f"{method} {url}: no answer"
    return status != HTTPStatus.NOT_FOUND, f"{method} {url}: {status}"


def _status(method: str, url: str) -> int | None:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    assert parts.hostname is not None
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
