"""The rights that tallyd needs in each store, and no more, as statements to paste.

Who calls it: checks that found a right missing, and `tallyd init`. It opens no connection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from daemon.buffer.keys import Keys
from daemon.config import Config, ReplicaTable, address_of, mysql_of, replica_tables
from daemon.config.url import options_of
from daemon.errors import ConfigError
from daemon.rollups.mongo import DATABASE_DEFAULT

REDIS_COMMANDS = "+@all -@dangerous +info +config|get +acl|dryrun"
"""The scripts, and the questions of the doctor."""
DEFAULT_USER = "default off nopass ~* &* +@all"
"""How to close the default user. Redis 7.0 replays its append-only file as that user: without these rights, a restart
drops every transaction. Nobody can log in as a user that is off."""
LOOPBACK = ("127.0.0.1", "::1")


def redis(config: Config) -> list[str]:
    """Commands of redis-cli for the user of `redis.url`; none if it names no user. The password is shown as its hash.

    ACL SAVE needs `aclfile` in redis.conf. Without an ACL file, CONFIG REWRITE keeps the users in redis.conf.
    """
    parts = urlsplit(config.redis.url)
    if not parts.username:
        return []
    user = unquote(parts.username)
    if not user.isprintable() or " " in user:  # a line more would be a command more
        raise ConfigError("redis.url: the name of a user of Redis has no spaces.")
    hashed = hashlib.sha256(unquote(parts.password or "").encode()).hexdigest()
    return [
        f"ACL SETUSER {user} reset on #{hashed} {Keys.of(config.redis).acl} {REDIS_COMMANDS}",
        "ACL SAVE",
    ]


def mongo(config: Config) -> list[str]:
    """Statements of mongosh for the user of `mongo.url`; none if it names no user. They hold its password."""
    parts, options = urlsplit(config.mongo.url), options_of(config.mongo.url)
    if not parts.username:
        return []
    named = unquote(parts.path.strip("/"))
    database = named or DATABASE_DEFAULT
    # A driver that is given no database logs in at "admin".
    source = {name.lower(): value for name, value in options.items()}.get("authsource", named or "admin")
    user = {
        "user": unquote(parts.username),
        "pwd": unquote(parts.password or ""),
        "roles": [{"role": "readWrite", "db": database}],
    }
    return [f"db.getSiblingDB({json.dumps(source)}).createUser({json.dumps(user)})"]


def mysql(config: Config) -> list[str]:
    """Statements for the user of `mysql.url`: it reads and writes the mapped columns. They hold its password."""
    if not config.mysql.url:
        return []
    where, tls = mysql_of(config.mysql.url), any(name.startswith("ssl") for name in options_of(config.mysql.url))
    here = where["unix_socket"] or where["host"] == "localhost"
    account = (where["user"], "localhost" if here else where["host"] if where["host"] in LOOPBACK else "%")
    create = f"CREATE USER IF NOT EXISTS {_account(*account)} IDENTIFIED BY {_text(where['password'])}"
    return [
        f"{create}{' REQUIRE SSL' if tls else ''};",
        *(f"{columns(where['db'], account, mapping)};" for mapping in replica_tables(config).values()),
    ]


def columns(database: str, account: tuple[str, str], mapping: ReplicaTable) -> str:
    """The rights on one table, column by column. `account`: user and host."""
    written = list(mapping.columns.values())
    label = [mapping.label] if mapping.label else []
    read = dict.fromkeys([mapping.key, *written, *label, *mapping.shadow.values(), *mapping.enrich])
    return (
        f"GRANT SELECT ({_names(read)}), UPDATE ({_names(written)})"
        f" ON {_names([database])}.{_names([mapping.table])} TO {_account(*account)}"
    )


def about(config: Config) -> dict[str, tuple[str, list[str]]]:
    """Store → (where to type them, the statements)."""
    return {
        "redis": (f"redis-cli, at {address_of(config.redis.url)}", redis(config)),
        "mongo": (f"mongosh, at {address_of(config.mongo.url)}", mongo(config)),
        "mysql": (f"mariadb or mysql, at {address_of(config.mysql.url)}", mysql(config)),
    }


def _names(names: Iterable[str]) -> str:
    return ", ".join("`" + name.replace("`", "``") + "`" for name in names)


def _account(user: str, host: str) -> str:
    return f"{_text(user)}@{_text(host)}"


def _text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
