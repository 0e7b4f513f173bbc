"""One target under atheris: `python -m tests.fuzz.one NAME FOLDER [options of libFuzzer]`. It ends the process."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["daemon"]):
    from tests.fuzz.targets import TARGETS


def _escaped(word: bytes) -> str:
    """As a dictionary of libFuzzer has it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = next(each for each in TARGETS if each.name == name)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    atheris.Setup([sys.argv[0], *sys.argv[3:], f"-dict={words}", str(corpus)], target.check)
    atheris.Fuzz()
