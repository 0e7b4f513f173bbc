"""Checks of who can reach what: the doors that the configuration leaves open.

They read the configuration, and ask no server. The defaults listen on loopback, so each of these doors was opened by
someone, perhaps without noticing. `ops/SECURITY.md` has the threat model.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from daemon.config import HASH_PREFIX, Config, key_hashes, reads_are_keyed
from daemon.config.url import Store, mysql_of, options_of
from daemon.doctor.finding import Verdict, ok, warning

X509 = "MONGODB-X509"
"""A client certificate in place of a password."""


def events(config: Config) -> Verdict:
    """Anybody may send events if the daemon asks for no key, and is open to the world in one of two ways."""
    if config.ingest.require_key:
        return ok("only with a key")
    open_ = [] if _listens_here(config) else [f"http.host is {config.http.host}"]
    if config.browser.origins:
        open_.append(f"browser.origins is {', '.join(config.browser.origins)}")
    if not open_:
        return ok("without a key, on this machine only")
    return warning(
        f"ingest.require_key is false, and {' and '.join(open_)}",
        "Anybody can send events, each address within its limits. An origin is a browser's word: programs write any.",
        "if only your own programs send: `tallyd key new NAME`, then ingest.require_key = true; if browsers send, this"
        " is meant so: bound the ids by entity_id in [domains.NAME]",
    )


def reads(config: Config) -> Verdict:
    read, http = config.read, config.http
    if not read.enabled or not config.mongo.url:
        return ok("off")
    if reads_are_keyed(config):
        shown = ", but anybody sees single counts (browser.badge)" if config.browser.badge else ""
        return ok(f"readers need a key{shown}")
    if _listens_here(config):
        return ok("without a key, on this machine only")
    return warning(
        f"read.key is empty, and http.host is {http.host}",
        "Whoever reaches the port reads every count, and each read costs MongoDB time.",
        "`tallyd key new --read NAME`, or set read.key; or read.enabled = false; or"
        ' http.host = "127.0.0.1" behind a proxy that lets nobody read',
    )


def dashboard(config: Config) -> Verdict:
    """Without an operator's key a browser on this machine sees the dashboard. A proxy there may look like one."""
    http = config.http
    if not config.dashboard.enabled:
        return ok("off")
    if hashes := key_hashes(config, "operator"):
        return ok(f"operators need a key ({len(hashes)})")
    ways = [] if _is_here(http.host) or http.unix_socket else [f"http.host is {http.host}"]
    ways += [f"{key} is set" for key in ("trusted_proxies", "unix_socket", "hosts") if getattr(http, key)]
    ways += ["browser.origins is set"] if config.browser.origins else []
    if not ways:
        return ok("without a key, in a browser on this machine only")
    return warning(
        f"no operator's key, and {' and '.join(ways)}",
        "Others reach the daemon, so there may be a proxy. Behind one nobody sees the dashboard; but a proxy on this"
        " machine that hides itself would show it to everybody.",
        "`tallyd key new --operator NAME`, or dashboard.key",
    )


def redis(config: Config) -> Verdict:
    url = config.redis.url
    parts = urlsplit(url)
    if _has_password(url) or "password" in options_of(url):
        return ok("with a password")
    if all(map(_is_here, _hosts("redis", url))):
        return ok("without a password, on this machine")
    return warning(
        f"no password for {parts.hostname}",
        "Whoever reaches this Redis changes every count that is on its way, and can make the daemons count nothing.",
        f"give it a user: ACL SETUSER tallyd on '>PASSWORD' '~{config.redis.prefix}:*' +@all -@dangerous +info;"
        " redis://tallyd:PASSWORD@…",
    )


def mongo(config: Config) -> Verdict:
    url = config.mongo.url
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


def mysql(config: Config) -> Verdict:
    url = config.mysql.url
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


def keys(config: Config) -> Verdict:
    """Plain keys work, and whoever reads the configuration or a backup of it has them."""
    plain = [f"producers.keys.{name}" for name, key in config.producers.keys.items() if not key.startswith(HASH_PREFIX)]
    single = {"read.key": config.read.key, "dashboard.key": config.dashboard.key}
    plain += [name for name, key in single.items() if key and not key.startswith(HASH_PREFIX)]
    if not plain:
        return ok("none in clear")
    return warning(
        f"in clear: {', '.join(plain)}",
        "Whoever sees the configuration, or a copy of it, can send or read in their name.",
        "`tallyd key new NAME` keeps hashes; or put sha256:… in the place of each: printf %s KEY | sha256sum",
    )


CHECKS: Mapping[str, Callable[[Config], Verdict]] = {
    "security.events": events,
    "security.reads": reads,
    "security.dashboard": dashboard,
    "security.keys": keys,
    "security.redis": redis,
    "security.mongo": mongo,
    "security.mysql": mysql,
}


def _listens_here(config: Config) -> bool:
    return bool(config.http.unix_socket) or _is_here(config.http.host)


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
