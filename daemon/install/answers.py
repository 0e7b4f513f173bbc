"""A first configuration, made of a few answers: the stores, what is counted, and the table that shows it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from daemon.config import Config
from daemon.config.check import check, dotted
from daemon.config.generate import toml_value
from daemon.errors import ConfigError

HEAD = """\
# tallyd's configuration. `tallyd config --example` shows every other key, with its default.
# After a change: tallyd config, then systemctl reload tallyd-ingest tallyd-flush
"""


class Answers(Struct, frozen=True, kw_only=True):
    """The answers to `tallyd init`. An address that is not known yet is empty. `types`: the first one has the table.

    `columns`: counter → column. Without a table, no row of MySQL is set.
    """

    redis: str = ""
    mongo: str = ""
    mysql: str = ""
    domain: str
    types: tuple[str, ...]
    actions: tuple[str, ...] = ()
    table: str = ""
    key: str = ""
    columns: Mapping[str, str] = {}

    @property
    def addresses(self) -> dict[str, str]:
        """Store → its address, of the stores that have one."""
        every = {"redis": self.redis, "mongo": self.mongo, "mysql": self.mysql}
        return {store: url for store, url in every.items() if url}


def secret_name(store: str) -> str:
    """The name of the file that holds the address of a store."""
    return f"{store}.url"


def toml(answers: Answers, *, apart: bool) -> str:
    """The text of the configuration. `apart`: the addresses lie in files of their own, see `secret_name`."""
    tables: dict[str, dict[str, Any]] = {
        store: {"url_file": secret_name(store)} if apart else {"url": url} for store, url in answers.addresses.items()
    }
    domain: dict[str, Any] = {"entity_types": answers.types}
    tables[f"domains.{answers.domain}"] = domain | ({"actions": answers.actions} if answers.actions else {})
    if answers.table:
        tables[f"replica.{answers.domain}.{answers.types[0]}"] = {
            "table": answers.table, "key": answers.key, "columns": dict(answers.columns)
        }  # fmt: skip
    parts = [
        "\n".join([f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())])
        for name, table in tables.items()
    ]
    return "\n\n".join([HEAD.strip(), *parts]) + "\n"


def config_of(answers: Answers) -> Config:
    """The configuration that they make. Raises ConfigError with every problem."""
    try:
        config, problems = check(tomllib.loads(toml(answers, apart=False)))
    except tomllib.TOMLDecodeError:
        raise ConfigError(f"Names hold only a-z, 0-9 and _: {answers.domain}, {', '.join(answers.types)}.") from None
    if problems or config is None:
        raise ConfigError("The answers are wrong:\n" + "\n".join(f"  {dotted(p.path)}: {p.text}" for p in problems))
    return config
