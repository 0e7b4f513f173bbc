"""Clients inside the machine's network: `python -m tests.systemd.load FIELDS`, with a question a line on its stdin.

`more`: waits until 100 more events are answered 202. `stop`: ends, and prints what became of the events.
"""

from __future__ import annotations

import json
import sys

from tests.kit.load import Load

URL = "http://127.0.0.1:8080"
TIMEOUT_S = 120.0
"""A restart on a busy machine takes long. Clients wait for it in the socket's queue."""


def main() -> None:
    load = Load(URL, timeout_s=TIMEOUT_S, **json.loads(sys.argv[1]))
    with load.running():
        for line in sys.stdin:
            if line == "more\n":
                load.wait_for_more()
                print("true", flush=True)  # noqa: T201
            else:
                load.stop()
                found = {"failures": load.failures, "acked": load.count("acked"), "events": len(load.labels)}
                print(json.dumps(found), flush=True)  # noqa: T201
                break


if __name__ == "__main__":
    main()
