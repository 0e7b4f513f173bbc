from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from daemon.ingest.process.wake import Wake


def test_it_wakes_who_waits_and_who_will() -> None:
    wake = Wake()
    wake.set()
    wake.wait()
    threading.Timer(0.05, wake.set).start()
    wake.wait()


def test_it_forgets_what_was_before() -> None:
    wake, later = Wake(), threading.Event()
    wake.set()
    wake.set()
    wake.clear()
    threading.Timer(0.05, lambda: (later.set(), wake.set())).start()
    wake.wait()
    assert later.is_set()


def test_handlers_may_interrupt_it_and_each_other() -> None:
    wake, handled = Wake(), 0

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal handled
        handled += 1
        wake.set()

    def send() -> None:
        while handled < 3_000:
            before = handled
            signal.pthread_kill(main, signal.SIGUSR1)
            signal.pthread_kill(main, signal.SIGUSR2)
            while handled < before + 2:
                time.sleep(0)

    main = threading.main_thread().ident
    assert main is not None
    before = {number: signal.signal(number, handle) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        while sender.is_alive():
            wake.set()
            wake.wait(0.01)
            wake.clear()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
