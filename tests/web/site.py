"""A demo site with the tracker's tag in its pages. Each test writes the pages that it visits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

SCRIPT = "/s.js"
"""Of the tracker: `browser.script`. Blockers know its other names."""
ALIAS = "/t"
ATTRIBUTES = {"domain": "jav", "actions": "view download", "types": "movie actor tag", "window-s": "172800"}
"""Of the tag, each with `data-` before it: those of the default configuration."""


class Answer(NamedTuple):
    body: bytes
    headers: Mapping[str, str]


class Site:
    """A web server of pages that are given to it. It answers 404 for others, and keeps the paths it was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                site.asked.append(self.path)
                found = site.answers.get(path)
                body, headers = found if found is not None else (b"", {})
                self.send_response(200 if found is not None else 404)
                for name, value in {"cache-control": "no-store", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A browser may leave at any time."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    @contextmanager
    def running(self) -> Iterator[Site]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="site", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class Shop:
    """The site as a browser sees it: pages at `url`, and tallyd at `tallyd`, which is "" on the same origin."""

    def __init__(self, site: Site, url: str, tallyd: str) -> None:
        self.site = site
        self.url = url
        self.tallyd = tallyd
        self.script = tallyd + SCRIPT
        self.endpoint = tallyd + ALIAS

    def tag(self, **attributes: str | None) -> str:
        """The tracker's tag. `attributes`: without `data-`, `_` for `-`, and one at the end is dropped; None leaves
        an attribute out."""
        chosen: dict[str, str | None] = {"endpoint": self.endpoint, **ATTRIBUTES}
        chosen |= {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        written = "".join(f' data-{name}="{value}"' for name, value in chosen.items() if value is not None)
        return f'<script async type="module" src="{self.script}"{written}></script>'

    def page(
        self,
        path: str,
        body: str = "",
        *,
        tag: bool = True,
        head: str = "",
        headers: Mapping[str, str] | None = None,
        **attributes: str | None,
    ) -> str:
        """Puts a page there and returns its URL. `attributes`: of the tag; without `tag` there is none."""
        script = self.tag(**attributes) if tag else ""
        # The icon: else Chromium asks for /favicon.ico.
        html = f'<!doctype html><title>{path}</title><link rel="icon" href="data:,">{head}{script}<body>{body}</body>'
        return self.file(path, html.encode(), **{"content-type": "text/html; charset=utf-8", **(headers or {})})

    def file(self, path: str, body: bytes, **headers: str) -> str:
        self.site.answers[path] = Answer(body, {name.replace("_", "-"): value for name, value in headers.items()})
        return self.url + path
