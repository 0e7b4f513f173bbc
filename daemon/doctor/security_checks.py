"""Checks of who can reach what: open doors that the configuration leaves, and secrets that others may read.

They read the configuration and the modes of files, and ask no server. The defaults listen on loopback, so each of these
doors was opened by someone, perhaps without noticing. `ops/SECURITY.md` has the threat model.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from daemon.config import Config
from daemon.config.schema import keys_of, section_of
from daemon.config.url import Store, mysql_of, options_of
from daemon.doctor.finding import Verdict, ok, unknown, warning

X509 = "MONGODB-X509"
"""A client certificate in place of a password."""
_FILE_OPTIONS = ("ssl_key", "ssl_keyfile", "tlscertificatekeyfile")
"""Options of addresses that name a private key."""


class Exposure(NamedTuple):
    """What the checks look at. `file`: the configuration file, if there is one."""

    config: Config
    file: Path | None


def reads(of: Exposure) -> Verdict:
    read, http = of.config.read, of.config.http
    if not read.enabled or not of.config.mongo.url:
        return ok("off")
    if read.key:
        return ok("readers need a key")
    if _is_here(http.host):
        return ok("open, on loopback only")
    return warning(
        f"read.key is empty, and http.host is {http.host}",
        "Whoever reaches the port reads every count, and each read costs MongoDB time.",
        'set read.key; or read.enabled = false; or http.host = "127.0.0.1" behind a proxy that lets nobody read',
    )


def redis(of: Exposure) -> Verdict:
    url = of.config.redis.url
    parts = urlsplit(url)
    if _has_password(url) or "password" in options_of(url):
        return ok("with a password")
    if all(map(_is_here, _hosts("redis", url))):
        return ok("without a password, on this machine")
    return warning(
        f"no password for {parts.hostname}",
        "Whoever reaches this Redis changes every count that is on its way, and can make the daemons count nothing.",
        "give it a user: ACL SETUSER tallyd on '>PASSWORD' '~anl:*' +@all -@dangerous; redis://tallyd:PASSWORD@…",
    )


def mongo(of: Exposure) -> Verdict:
    url = of.config.mongo.url
    options = {name.lower(): value for name, value in options_of(url).items()}
    if _has_password(url) or options.get("authmechanism") == X509:
        return ok("with a password or a certificate")
    if all(map(_is_here, _hosts("mongo", url))):
        return ok("without a password, on this machine")
    return warning(
        f"no password for {', '.join(_hosts('mongo', url))}",
        "Whoever reaches this MongoDB changes every count there is.",
        'db.createUser({user: "tallyd", pwd: passwordPrompt(), roles: ["readWrite"]}); mongodb://tallyd:PASSWORD@…',
    )


def mysql(of: Exposure) -> Verdict:
    url = of.config.mysql.url
    if not url:
        return ok("off (mysql.url is not set)")
    user = mysql_of(url)["user"]
    if user == "root":
        return warning(
            "tallyd connects as root",
            "It needs to read and set a few columns. Whoever takes over a daemon has every database.",
            "CREATE USER tallyd IDENTIFIED BY 'PASSWORD'; for each table of [replica]: GRANT SELECT (KEY, COLUMNS),"
            " UPDATE (COLUMNS) ON DATABASE.TABLE TO tallyd",
        )
    if _has_password(url) or "ssl_cert" in options_of(url) or all(map(_is_here, _hosts("mysql", url))):
        return ok(f"as {user}")
    return warning(
        f"no password for {user} on {', '.join(_hosts('mysql', url))}",
        "Whoever reaches this MySQL can do all that tallyd can.",
        f"ALTER USER {user} IDENTIFIED BY 'PASSWORD'; mysql://{user}:PASSWORD@…",
    )


def secrets(of: Exposure) -> Verdict:
    """Whether anybody else on this machine may read a file that holds a secret."""
    holding = _key_files(of.config)
    if of.file is not None:
        try:
            text = of.file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return unknown(f"{of.file}: {error.strerror}", "Its mode is not known.", f"ls -l {of.file}")
        if any(secret in text for secret in _secrets(of.config)):
            holding.append(of.file)
    open_ = [str(path) for path in holding if path.exists() and path.stat().st_mode & stat.S_IROTH]
    if not open_:
        return ok(f"{len(holding)} files hold some, and no other user may read them" if holding else "in no file")
    return warning(
        f"every user may read {', '.join(open_)}",
        "Passwords and keys stand in it.",
        f"chown root:TALLYD {' '.join(open_)} && chmod 640 {' '.join(open_)} (TALLYD: the group of the daemons)",
    )


CHECKS: Mapping[str, Callable[[Exposure], Verdict]] = {
    "security.reads": reads,
    "security.redis": redis,
    "security.mongo": mongo,
    "security.mysql": mysql,
    "security.secrets": secrets,
}


def _is_here(host: str) -> bool:
    """Whether only this machine reaches the address. "": a unix socket."""
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _hosts(store: Store, url: str) -> list[str]:
    """The hosts that an address names, without their ports. "": a unix socket."""
    parts, options = urlsplit(url), options_of(url)
    if parts.scheme == "unix" or (store == "mysql" and "unix_socket" in options):
        return [""]
    named = parts.netloc.rpartition("@")[2]
    if ".sock" in named:  # MongoDB's, with its path percent-encoded
        return [""]
    return [urlsplit(f"//{host}").hostname or "" for host in named.split(",")]


def _has_password(url: str) -> bool:
    return bool(urlsplit(url).netloc.rpartition("@")[0].partition(":")[2])


def _secrets(config: Config) -> Iterator[str]:
    """Every secret of the configuration, as a file may spell it."""
    for table in keys_of(Config).values():
        section = section_of(table.kind)
        values = msgspec.to_builtins(getattr(config, table.name, None))
        for key in keys_of(section).values() if section and isinstance(values, dict) else ():
            yield from _leaves(values[key.name], key.mask)


def _leaves(value: Any, mask: str | None) -> Iterator[str]:
    if mask == "all":
        found = value.values() if isinstance(value, dict) else [value]
        yield from (each for each in found if isinstance(each, str) and each)
    elif mask == "password" and value:
        written = urlsplit(value).netloc.rpartition("@")[0].partition(":")[2]
        yield from (each for each in (written, unquote(written)) if each)


def _key_files(config: Config) -> list[Path]:
    """The private keys that addresses name."""
    urls = (config.redis.url, config.mongo.url, config.mysql.url)
    named = [(name.lower(), value) for url in urls for name, value in options_of(url).items()]
    return [Path(value) for name, value in named if name in _FILE_OPTIONS]
