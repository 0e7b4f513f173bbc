"""What is generated from the schema: `ops/tallyd.example.toml`, and a JSON Schema for editors.

Who calls it: `tallyd config`. A program that runs never needs it.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

import msgspec

from daemon.config import schema
from daemon.config.effective import effective_actions
from daemon.config.load import FILE_SUFFIX
from daemon.config.schema import (
    Config,
    Daemon,
    Key,
    Section,
    bare,
    bounds_of,
    keys_of,
    read_at_start,
    secret_keys,
    section_of,
)

_HEADER = """\
# tallyd's configuration: every key with its default, unit and bounds. `tallyd config --example` prints this file.
# Daemons and commands read the file that --config names, else TALLYD_CONFIG, else ./tallyd.toml, else
# /etc/tallyd/tallyd.toml.
#
# A line that begins with `#` and no space is a setting. Take the `#` away to change it. An unknown key is an error, and
# all mistakes are reported at once. Every key can also come from the environment, which wins over this file:
# TALLYD_HTTP__PORT=9000, TALLYD_PRODUCERS__KEYS='{"shop": "…"}'. `tallyd config` prints the values in force.
#
# A secret may lie in a file of its own. Its key takes the ending `_file` then: `url_file = "/etc/tallyd/redis.url"` in
# place of `url`; of a table, `keys_file = { shop = "shop.key" }`. Relative paths begin in $CREDENTIALS_DIRECTORY, which
# systemd's LoadCredential= sets; without it, for a file below /etc, in the folder `credentials` beside it. This holds
# for SECRETS.
#
# A reload (SIGHUP) puts a changed file in force. A daemon reads some keys at start only, as is said beside them.
"""
_WIDTH = 120
_UNITS = {"us": "microseconds", "ms": "milliseconds", "s": "seconds"}
_COUNTED = (
    "addresses", "bytes", "calls", "days", "entities", "events", "fields", "ids", "points", "reads", "requests", "rows",
    "shards", "weeks",
)  # fmt: skip
"""Words of a key's name that are its unit."""
_SHOWN: dict[str, Mapping[str, Any]] = {
    "actions": effective_actions(Config()),
    "domains": schema.DOMAINS_DEFAULT,
    "replica": schema.REPLICA_DEFAULT,
}
"""Tables whose names are the user's → the ones that hold by default."""


def example() -> str:
    """The example file: each key commented out, with its default."""
    secrets = [f"{section}.{key.name}" for section, key in secret_keys()]
    lines = [_HEADER.replace("SECRETS", f"{', '.join(secrets[:-1])} and {secrets[-1]}")]
    for key in keys_of(Config).values():
        section = section_of(key.kind)
        if section:
            lines += [*_words(_about(section)), f"#[{key.name}]", *_settings(section(), f"{key.name}.")]
        elif key.name in _SHOWN:
            lines += [*_words(_texts()["Config", key.name]), *_tables(_SHOWN[key.name], key.name)]
        else:
            lines += _setting(Config, key, key.default, key.name)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of the file, with the text of each key."""
    made = msgspec.json.schema(Config)
    tables = {section_of(key.kind): f"{key.name}." for key in keys_of(Config).values()}
    for name, definition in made["$defs"].items():
        section: type[Section] = getattr(schema, name)
        definition["description"] = _about(section)
        for key in keys_of(section).values():
            if section_of(key.kind):
                continue  # described where it is defined
            text, facts = _texts()[name, key.name], _facts(key, tables.get(section, "") + key.name)
            if key.mask and section in tables:
                many = get_origin(bare(key.kind)) is dict
                path = {"type": "object", "additionalProperties": {"type": "string"}} if many else {"type": "string"}
                definition["properties"][key.name + FILE_SUFFIX] = path | {
                    "description": f"In place of `{key.name}`: the file that holds it."
                }
            shown = definition["properties"][key.name]
            shown["description"] = f"{text} ({facts})" if facts else text
            if key.name in _SHOWN and section is Config:
                shown["default"] = msgspec.to_builtins(_SHOWN[key.name])
    # JSON Schema asks for patterns as ECMA 262 writes them.
    text = json.dumps(made).replace(r"\\A", "^").replace(r"\\Z", "$")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **json.loads(text)}


# The parts of the example ---------------------------------------------------------------------------------------------


def _tables(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Tables whose names are the user's. Only the first explains its keys."""
    for index, (name, inner) in enumerate(values.items()):
        if not isinstance(inner, Section):
            yield from _tables(inner, f"{prefix}.{name}")
            continue
        lines = [f"#[{prefix}.{name}]", *_settings(inner, f"{prefix}.{name}.")]
        yield from lines if index == 0 else ["", *(line for line in lines if not line.startswith("# "))]


def _settings(values: Section, prefix: str) -> Iterator[str]:
    for key in keys_of(type(values)).values():
        yield from _setting(type(values), key, getattr(values, key.name), prefix + key.name)


def _setting(section: type[Section], key: Key, value: Any, dotted: str) -> Iterator[str]:
    """The text of a key, and the line that sets it. A list of tables is told in words only."""
    yield from _words(_texts()[section.__name__, key.name])
    inner = section_of(get_args(bare(key.kind))[0]) if get_origin(bare(key.kind)) is tuple else None
    if inner:
        for name in keys_of(inner):
            yield from _words(f"{name}: {_texts()[inner.__name__, name]}", indent="  ")
        return
    facts = _facts(key, dotted)
    yield f"#{key.name} = {toml_value(value)}" + (f"  # {facts}" if facts else "")


def _facts(key: Key, dotted: str) -> str:
    """Unit, bounds, allowed values, and whether a reload leaves the key as it was."""
    plain = bare(key.kind)
    choice = f"one of {', '.join(map(toml_value, get_args(plain)))}" if get_origin(plain) is Literal else ""
    number = ", ".join(filter(None, [_unit(key), bounds_of(key.kind)]))
    starts = [f"{daemon} reads it at start only" for daemon in get_args(Daemon) if read_at_start(daemon, dotted)]
    return "; ".join(filter(None, [choice or number, *starts]))


def _unit(key: Key) -> str:
    """The unit of a number, which its name ends with."""
    if bare(key.kind) not in (int, float):
        return ""
    words = key.name.split("_")
    return next((_UNITS.get(word, word) for word in reversed(words) if word in _UNITS or word in _COUNTED), "")


def _words(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"# {indent}", subsequent_indent=f"# {2 * indent}")


def toml_value(value: Any) -> str:
    """A value as TOML spells it."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"{value:_}" if value >= 10_000 else str(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            return (
                f"{{ {', '.join(f'{name} = {toml_value(inner)}' for name, inner in value.items())} }}"
                if value
                else "{}"
            )
        case _:
            return repr(value)


# Texts ----------------------------------------------------------------------------------------------------------------


def _about(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


@cache
def _texts() -> dict[tuple[str, str], str]:
    """(section, key) → the docstring under the key. Python keeps none of these, so they are read from the source, which
    is part of every installation."""
    texts = {}
    for section in ast.parse(inspect.getsource(schema)).body:
        if not isinstance(section, ast.ClassDef):
            continue
        for field, below in pairwise(section.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[section.name, name] = " ".join(text.split())
    return texts
