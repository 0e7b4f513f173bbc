"""Reads the configuration. Later wins over earlier: the defaults, the file, the environment (`TALLYD_SECTION__KEY`),
and the addresses of the embedded stack where they apply.

Who calls it: each command once, each ingest worker once, and a reload. It opens no connection.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from daemon.config.check import Problem, check, dotted
from daemon.config.places import Places
from daemon.config.schema import Config, bare, keys_of, section_of
from daemon.errors import ConfigError

FILE_DEFAULT = Path("tallyd.toml")
DATA_DEFAULT = Path(".tallyd")
ENV_PREFIX = "TALLYD_"
ENV_CONFIG = "TALLYD_CONFIG"
ENV_STACK_PREFIX = "TALLYD_STACK_"
"""These variables choose the programs of the embedded stack. They are no keys."""
ENV_NOT_KEYS = frozenset({ENV_CONFIG, "TALLYD_RUN_ID", "TALLYD_RUN_DIR", "TALLYD_DATA"})
"""Nor are these."""


def load(path: Path | None = None, *, data: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads and checks the configuration.

    `path`: the file; else `TALLYD_CONFIG`; else `tallyd.toml` if there is one. `data`: the folder of the embedded stack
    whose stores to use; without it and without a configured store, `./.tallyd`.

    Raises ConfigError with every problem, its key, and the line or the variable it comes from.
    """
    named = path or (Path(environ[ENV_CONFIG]) if environ.get(ENV_CONFIG) else None)
    file = named or FILE_DEFAULT
    text, raw = _read(file) if named or file.exists() else ("", {})
    places = Places(file, text)
    problems = _apply_environ(raw, environ, places)
    _apply_stack(raw, data, places)
    config, found = check(raw)
    problems += found
    if problems or config is None:
        lines = (f"  {places.of(each.path)}{dotted(each.path)}: {each.text}" for each in problems)
        raise ConfigError("The configuration is wrong:\n" + "\n".join(lines))
    return config


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    """The text of the file, and its tables."""
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration file {file}: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The configuration file {file} is not TOML: {error}.") from None


def _apply_environ(raw: dict[str, Any], environ: Mapping[str, str], places: Places) -> list[Problem]:
    """Writes each `TALLYD_A__B=x` into `raw` as `a.b`."""
    problems = []
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable.startswith(ENV_STACK_PREFIX) or variable in ENV_NOT_KEYS:
            continue
        path = tuple(variable[len(ENV_PREFIX) :].lower().split("__"))
        places.given(path, variable)
        table: Any = raw
        for name in path[:-1]:
            table = table.setdefault(name, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            problems.append(Problem(path, f"{'.'.join(path[:-1])} is not a table"))
            continue
        try:
            table[path[-1]] = _value(environ[variable], _kind_at(path))
        except msgspec.DecodeError as error:
            problems.append(Problem(path, f"not JSON: {error}"))
    return problems


def _value(text: str, kind: Any) -> Any:
    """The value of a variable, as the type of its key wants it. Lists and tables are JSON."""
    plain = bare(kind)
    if plain in (bool, int, float):
        try:
            return msgspec.convert(text, plain, strict=False)
        except msgspec.ValidationError:
            return text
    if plain is str or get_origin(plain) is Literal or text[:1] not in ("[", "{"):
        return text
    return msgspec.json.decode(text)


def _kind_at(path: tuple[str, ...]) -> Any:
    """The type of the key at this path; None if there is no such key."""
    kind: Any = Config
    for name in path:
        if section := section_of(kind):
            key = keys_of(section).get(name)
            kind = key.kind if key else None
        else:
            kind = get_args(bare(kind))[1] if get_origin(bare(kind)) is dict else None
    return kind


def _apply_stack(raw: dict[str, Any], data: Path | None, places: Places) -> None:
    """Fills in the stores' addresses from the embedded stack's `stack.json`, and puts the spool beside it."""
    stores = ("redis", "mongo", "mysql")
    if data is None:
        if any(isinstance(raw.get(s), dict) and raw[s].get("url") for s in stores):
            return
        data = DATA_DEFAULT
        if not (data / "stack.json").exists():
            return
    file = data / "stack.json"
    try:
        addresses = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise ConfigError(
            f"No embedded stack is up in {data}: start one with `tallyd stack up --data {data}`."
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"Cannot read {file}: {error}.") from None
    for store in stores:
        section = raw.setdefault(store, {})
        if isinstance(section, dict):
            section["url"] = addresses.get(store, "")
            places.given((store, "url"), str(file))
    spool = raw.setdefault("spool", {})
    if isinstance(spool, dict):
        spool.setdefault("dir", str(data / "spool"))
