"""Whatever bytes come in: nothing raises, and two ways to the same result agree. Coverage decides what is tried next.

    targets.py   what is fuzzed, and what has to hold for each input
    one.py       one target under atheris, in a process of its own (libFuzzer ends it)
    __main__.py  `just fuzz`: all of them, one after the other

`test_targets.py` runs every target on its seeds, without the fuzzer.
"""
