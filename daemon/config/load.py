"""Reads the configuration. Later wins over earlier: the defaults, the file, the environment (`TALLYD_SECTION__KEY`),
and the addresses of the embedded stack where they apply. A secret KEY may lie in the file that `KEY_file` names.

Who calls it: each command once, each ingest worker once, and a reload. It opens no connection.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from daemon.config.check import Problem, check, dotted
from daemon.config.keyfile import read_entries
from daemon.config.places import Places
from daemon.config.schema import DOMAINS_OF_STACK, REPLICA_OF_STACK, Config, Key, bare, keys_of, secret_keys, section_of
from daemon.config.stack import DATA_DEFAULT, file_of, is_down, is_up, stopped
from daemon.errors import ConfigError

FILE_DEFAULT = Path("tallyd.toml")
FILE_SUFFIX = "_file"
"""Of a key that names the file of a secret: `redis.url_file`."""
SYSTEM_CONFIG, SYSTEM_SPOOL = Path("/etc"), Path("/var/lib/tallyd/spool")
"""A configuration file below the first has the second as its `spool.dir`, unless it names another."""
SYSTEM_FILE = SYSTEM_CONFIG / "tallyd/tallyd.toml"
"""Written by `tallyd install`. It is the default where no other file is, and no embedded stack is meant."""
CREDENTIALS = "credentials"
"""The folder beside a configuration below /etc in which its secrets lie."""
ENV_PREFIX = "TALLYD_"
ENV_CONFIG = "TALLYD_CONFIG"
ENV_STACK_PREFIX = "TALLYD_STACK_"
"""These variables choose the programs of the embedded stack. They are no keys."""
ENV_CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Set by systemd's LoadCredential=. A relative path of a `KEY_file` begins there; of a configuration below /etc
without this variable, in its folder `credentials`."""
SECRET_BYTES_MAX = 65_536
"""Of the file that a `KEY_file` names."""
ENV_NOT_KEYS = frozenset({ENV_CONFIG, "TALLYD_RUN_ID", "TALLYD_RUN_DIR", "TALLYD_WORKER", "TALLYD_DATA"})
"""Nor are these."""


def load(path: Path | None = None, *, data: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads and checks the configuration.

    `path`: the file; else see `chosen_file`. `data`: the folder of the embedded stack whose stores to use; without it
    and without a configured store, `./.tallyd`.

    Raises ConfigError with every problem, its key, and the line or the variable it comes from.
    """
    file, text, raw = _of(chosen_file(path, data=data, environ=environ))
    places = Places(file, text)
    problems = _apply_environ(raw, environ, places)
    problems += _apply_secret_files(raw, file, environ, places)
    _apply_stack(raw, data, places)
    _apply_system(raw, file)
    _apply_key_file(raw, places)
    config, found = check(raw)
    problems += found
    if problems or config is None:
        lines = (f"  {places.of(each.path)}{dotted(each.path)}: {each.text}" for each in problems)
        raise ConfigError("The configuration is wrong:\n" + "\n".join(lines))
    return config


def secret_files(
    path: Path | None = None, *, data: Path | None = None, environ: Mapping[str, str] = os.environ
) -> list[Path]:
    """The files that hold secrets of the configuration: its own if it has any, and each that a `KEY_file` names.

    Raises ConfigError like `load`."""
    file, _, raw = _of(chosen_file(path, data=data, environ=environ))
    found = [file] if any(table.get(key.name) for _, table, key in _secrets(raw)) else []
    _apply_environ(raw, environ, Places(file, ""))
    for _, table, key in _secrets(raw):
        named = table.get(key.name + FILE_SUFFIX, ())
        names = named.values() if isinstance(named, dict) else [named] if isinstance(named, str) else ()
        found += [_credential(name, file, environ) for name in names if isinstance(name, str)]
    keys = raw.get("keys")
    if isinstance(keys, dict) and isinstance(named := keys.get("file"), str) and Path(named).is_file():
        found.append(Path(named))
    return found


def chosen_file(path: Path | None = None, *, data: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file that `load` reads: `path`, else `TALLYD_CONFIG`, else `./tallyd.toml`, else `/etc/tallyd/tallyd.toml`.

    The last one is left out if `data` is given, or an embedded stack is in `./.tallyd`: who works on a stack must not
    reach the stores of the machine. Without any file, it is `./tallyd.toml`, which then need not be there.
    """
    if named := path or environ.get(ENV_CONFIG):
        return Path(named)
    on_a_stack = data is not None or _is_there(file_of(DATA_DEFAULT))
    return FILE_DEFAULT if _is_there(FILE_DEFAULT) or on_a_stack or not _is_there(SYSTEM_FILE) else SYSTEM_FILE


def _of(file: Path) -> tuple[Path, str, dict[str, Any]]:
    """The file of the configuration, its text and its tables; empty ones if it is the default and not there."""
    return (file, *(_read(file) if file != FILE_DEFAULT or _is_there(file) else ("", {})))


def _is_of_the_system(file: Path) -> bool:
    return file.absolute().is_relative_to(SYSTEM_CONFIG)


def _why(error: OSError, file: Path) -> str:
    """The reason why a file of the configuration `file` cannot be read."""
    as_root = isinstance(error, PermissionError) and _is_of_the_system(file) and os.geteuid() != 0
    return f"{error.strerror}{', type the command as root' if as_root else ''}"


def _is_there(file: Path) -> bool:
    """Not, if it lies in a folder that this user may not enter."""
    try:
        return file.exists()
    except OSError:
        return False


def _apply_key_file(raw: dict[str, Any], places: Places) -> None:
    """Adds the entries of `keys.file` to those of the configuration."""
    section = raw.get("keys")
    if isinstance(section, dict) and isinstance(section.get("file"), str) and section["file"]:
        entries = section.setdefault("entries", [])
        if isinstance(entries, list):
            section["entries"] = entries + read_entries(Path(section["file"]))
            places.given(("keys", "entries"), section["file"])


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    """The text of the file, and its tables."""
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration file {file}: {_why(error, file)}.") from None
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
        if len(path) == 2:
            table.pop(_twin(path[1]), None)  # of the file: a secret and the name of its own file are one key
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


def _twin(name: str) -> str:
    return name.removesuffix(FILE_SUFFIX) if name.endswith(FILE_SUFFIX) else name + FILE_SUFFIX


def _secrets(raw: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], Key]]:
    """(section, its table, key) of every secret key whose section is given."""
    for section, key in secret_keys():
        if isinstance(table := raw.get(section), dict):
            yield section, table, key


def _apply_secret_files(raw: dict[str, Any], file: Path, environ: Mapping[str, str], places: Places) -> list[Problem]:
    """Puts what lies in the file in place of each `KEY_file`; of a table of keys, in place of each path."""
    problems = []
    for section, table, key in _secrets(raw):
        name = key.name + FILE_SUFFIX
        if name not in table:
            continue
        named, many = table.pop(name), get_origin(bare(key.kind)) is dict
        wanted = named if many and isinstance(named, dict) else {"": named}
        inner = table.setdefault(key.name, {}) if many else table
        for each, where in wanted.items():
            path = (section, name, each) if each else (section, name)
            into = each if many else key.name
            if not isinstance(inner, dict) or not isinstance(where, str) or not where or (many and not each):
                problems.append(Problem(path, "must be a table of paths" if many else "must be a path"))
            elif into in inner:
                problems.append(Problem(path, f"{section}.{key.name} is given, too; give one of the two"))
            else:
                secret = _credential(where, file, environ)
                try:
                    inner[into] = _secret_in(secret)
                    places.given((section, key.name, *([each] if many else [])), where)
                except (OSError, ValueError) as error:
                    why = _why(error, file) if isinstance(error, OSError) else str(error)
                    problems.append(Problem(path, f"cannot read {secret}: {why}"))
    return problems


def _credential(name: str, file: Path, environ: Mapping[str, str]) -> Path:
    """Where the secret of this name lies. `file`: the configuration that names it."""
    beside = str(file.parent / CREDENTIALS) if _is_of_the_system(file) else ""
    return Path(environ.get(ENV_CREDENTIALS) or beside) / name


def _secret_in(file: Path) -> str:
    """Its text, without what surrounds it. Raises OSError, and ValueError with a text that shows nothing of it."""
    with file.open("rb") as opened:
        data = opened.read(SECRET_BYTES_MAX + 1)
    if len(data) > SECRET_BYTES_MAX:
        raise ValueError(f"larger than {SECRET_BYTES_MAX} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None
    if not text:
        raise ValueError("it is empty")
    return text


def _apply_stack(raw: dict[str, Any], data: Path | None, places: Places) -> None:
    """Fills in the stores' addresses from the embedded stack's `stack.json`, and puts the spool beside it. Its domains
    have hours, and its movies names, unless the configuration has domains of its own."""
    stores = ("redis", "mongo", "mysql")
    if data is None:
        if any(isinstance(raw.get(s), dict) and raw[s].get("url") for s in stores):
            return
        data = DATA_DEFAULT
        if not _is_there(file_of(data)):
            return
    file = file_of(data)
    try:
        addresses = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        start = f"No embedded stack is up in {data}: start one with `tallyd stack up --data {data}`."
        raise ConfigError(stopped(data) if is_down(data) else start) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"Cannot read {file}: {error}.") from None
    if not is_up(addresses):
        raise ConfigError(stopped(data))
    for store in stores:
        section = raw.setdefault(store, {})
        if isinstance(section, dict):
            section["url"] = addresses.get(store, "")
            places.given((store, "url"), str(file))
    if "domains" not in raw:
        raw["domains"] = msgspec.to_builtins(DOMAINS_OF_STACK)
        raw.setdefault("replica", msgspec.to_builtins(REPLICA_OF_STACK))
    spool = raw.setdefault("spool", {})
    if isinstance(spool, dict):
        spool.setdefault("dir", str(data / "spool"))


def _apply_system(raw: dict[str, Any], file: Path) -> None:
    """Gives the daemon of a machine, and every command with its configuration file, one spool."""
    spool = raw.setdefault("spool", {})
    if isinstance(spool, dict) and _is_of_the_system(file):
        spool.setdefault("dir", str(SYSTEM_SPOOL))
