"""The addresses of the stores: their options, what is wrong with one, and what of it may be shown.

Who calls it: `check`, `effective`, and the clients of the stores. No text of it holds a part of a user name, of a
password, or of an option's value that may be a secret. It opens no connection.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

Store = Literal["redis", "mongo", "mysql"]

MYSQL_PORT_DEFAULT = 3306
REDIS_PORT_DEFAULT = 6379


class Form(NamedTuple):
    """What an address of a store may be. `hidden`: options whose values no output shows."""

    schemes: tuple[str, ...]
    options: tuple[str, ...]
    hidden: tuple[str, ...]


FORMS: Mapping[Store, Form] = {
    "redis": Form(
        ("redis", "rediss", "unix"),
        (
            "db", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_check_hostname", "ssl_cert_reqs", "ssl_ciphers",
            "ssl_keyfile", "ssl_min_version",
        ),
        ("password", "ssl_ca_data", "ssl_password", "username"),
    ),
    "mongo": Form(
        ("mongodb", "mongodb+srv"),
        (  # besides these, whatever the driver knows
            "appName", "authMechanism", "authSource", "compressors", "directConnection", "heartbeatFrequencyMS",
            "loadBalanced", "maxPoolSize", "minPoolSize", "readPreference", "replicaSet", "srvServiceName", "ssl",
            "tls", "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsCAFile", "tlsCertificateKeyFile",
            "tlsInsecure", "w",
        ),
        (),
    ),
    "mysql": Form(
        ("mysql", "mariadb"), ("ssl", "ssl_ca", "ssl_cert", "ssl_check_hostname", "ssl_key", "unix_socket"), ()
    ),
}  # fmt: skip

_SHOWN = frozenset(name.lower() for form in FORMS.values() for name in form.options)
_FILES = ("ssl_ca", "ssl_ca_certs", "ssl_cert", "ssl_certfile", "ssl_key", "ssl_keyfile")
"""Options that name a file. Those of MongoDB are read by its driver."""
_SWITCHES = ("ssl", "ssl_check_hostname")
_ESCAPES = "percent-encode the password: @ is %40, : is %3A, / is %2F, # is %23, ? is %3F, % is %25"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def problem_of(store: Store, url: str) -> str:
    """What is wrong with the address, "" if nothing is."""
    form = FORMS[store]
    scheme, separator, _ = url.partition("://")
    if scheme not in form.schemes or not separator:
        return f"must begin with {' or '.join(f'{each}://' for each in form.schemes)}"
    try:
        parts = urlsplit(url)
        users, _, named = parts.netloc.rpartition("@")
        hosts = [urlsplit(f"//{host}") for host in named.split(",")]
        complete = all(host.hostname and (host.port is None or host.port) for host in hosts)
    except ValueError:  # its text may hold a part of the password
        return f"not an address; {_ESCAPES}"
    if parts.fragment or "@" in parts.query or (scheme != "unix" and "@" in parts.path):
        return f"not an address: a character of the password ends it; {_ESCAPES}"
    if store == "mongo" and ("@" in users or users.count(":") > 1 or _STRAY_PERCENT.search(users)):
        return f"its driver does not take this user name or password; {_ESCAPES}"
    options = options_of(url)
    if not (complete or scheme == "unix" or (store == "mysql" and not named and "unix_socket" in options)):
        return "names no host"
    if store == "mysql" and not parts.path.strip("/"):
        return "names no database; must look like mysql://user:password@host:3306/database"
    if len(hosts) > 1 and store == "mysql":
        return "names several hosts"
    if len(hosts) > 1 and store == "redis" and not _is_of_cluster(scheme, parts.path, options):
        return "names several hosts, so it is a Redis Cluster, and that has database 0 only"
    if text := _options_problem(store, scheme, options, parts.query):
        return text
    try:
        tls_of(url)
    except OSError as error:  # ssl.SSLError is one
        return f"the files of its ssl_… options make no TLS: {error}"
    return ""


def options_of(url: str) -> dict[str, str]:
    """The options of an address, decoded. The last of two with one name counts."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def mysql_of(url: str) -> dict[str, Any]:
    """Where asyncmy connects to, and as whom: what its `connect` takes from a checked `mysql.url`, without TLS."""
    parts, options = urlsplit(url), options_of(url)
    return {
        "host": parts.hostname or "localhost",
        "port": parts.port or MYSQL_PORT_DEFAULT,
        "unix_socket": options.get("unix_socket"),
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or ""),
        "db": unquote(parts.path.strip("/")),
    }


def hosts_of(url: str) -> list[tuple[str, int]]:
    """The hosts and ports that a checked `redis.url` names; none if it is a socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return []
    named = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    return [(host.hostname or "localhost", host.port or REDIS_PORT_DEFAULT) for host in named]


def is_cluster(url: str) -> bool:
    """Whether a checked `redis.url` names several hosts: nodes of one Redis Cluster."""
    return len(hosts_of(url)) > 1


def url_at(url: str, host: str, port: int) -> str:
    """The address with one host and port in place of its own."""
    parts = urlsplit(url)
    users, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{users}{at}{f'[{host}]' if ':' in host else host}:{port}").geturl()


@cache
def tls_of(url: str) -> ssl.SSLContext | None:
    """The TLS of a checked address of Redis or MySQL, None without. It is made once: a new certificate on disk needs a
    new process. Raises OSError if a file does not hold what its option says."""
    scheme, options = url.partition("://")[0], options_of(url)
    if scheme == "rediss":
        from redis.asyncio.connection import SSLConnection, parse_url  # noqa: PLC0415  (as redis-py's clients make it)

        read = parse_url(url_at(url, *hosts_of(url)[0]))
        settings: dict[str, Any] = {name: value for name, value in read.items() if name[:4] == "ssl_"}
        return SSLConnection(**settings).ssl_context.get()
    if scheme not in FORMS["mysql"].schemes or not _wants_tls(options):
        return None
    context = ssl.create_default_context(cafile=options.get("ssl_ca"))
    context.check_hostname = _is_on(options, "ssl_check_hostname", default=True)
    if "ssl_cert" in options:
        # Without a password for the key OpenSSL would ask the terminal.
        context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"), password="")
    return context


def address_of(url: str) -> str:
    """The address of a store for messages: its URL without user, password and options."""
    parts = urlsplit(url)
    path = options_of(url).get("unix_socket")
    socket = f"?unix_socket={path}" if path else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{socket}"


def masked_url(url: str) -> str:
    """The address with `***` in place of the password, of a user without one, and of values that may be secrets."""
    if not url:
        return url
    parts = urlsplit(url)
    users, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = users.partition(":")
    shown = f"{user}:***" if colon else "***"
    pairs = (pair.partition("=") for pair in re.split("[&;]", parts.query) if pair)
    options = (f"{name}={value if name.lower() in _SHOWN else '***'}" if is_ else "***" for name, is_, value in pairs)
    query = "&".join(options)
    return f"{parts.scheme}://{shown if at else ''}{at}{hosts}{parts.path}{'?' if query else ''}{query}"


# Options --------------------------------------------------------------------------------------------------------------


def _is_on(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    return {"true": True, "false": False}.get(options.get(name, "").lower(), default)


def _wants_tls(options: Mapping[str, str]) -> bool:
    """Whether the options of a `mysql.url` ask for TLS: `ssl=true`, or any `ssl_…`."""
    return _is_on(options, "ssl", default=any(name.startswith("ssl_") for name in options))


def _is_of_cluster(scheme: str, path: str, options: Mapping[str, str]) -> bool:
    return scheme != "unix" and path.strip("/") in ("", "0") and options.get("db", "0") == "0"


def _options_problem(store: Store, scheme: str, options: Mapping[str, str], query: str) -> str:
    if store == "mongo":
        return _mongo_problem(query) if query else ""
    form = FORMS[store]
    known = sorted((*form.options, *form.hidden))
    for name, value in options.items():
        if name not in known:
            return f"unknown option {name!r}; known: {', '.join(known)}"
        if name in _SWITCHES and value.lower() not in ("true", "false"):
            return f"{name} must be true or false"
        if name in _FILES and not os.access(value, os.R_OK):
            return f"{name} names {value}, which this user cannot read"
    encrypting = [name for name in options if name.startswith("ssl_")]
    if store == "mysql":
        if encrypting and not _wants_tls(options):
            return f"ssl=false and {encrypting[0]} contradict each other"
        if "ssl_key" in options and "ssl_cert" not in options:
            return "ssl_key without ssl_cert"
        return "unix_socket and TLS contradict each other" if "unix_socket" in options and _wants_tls(options) else ""
    if encrypting and scheme != "rediss":
        return f"{encrypting[0]} needs rediss:// in place of {scheme}://"
    if options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        return "ssl_cert_reqs must be required, optional or none"
    numbers = [name for name in ("db", "ssl_min_version") if not options.get(name, "0").isdecimal()]
    return f"{numbers[0]} must be a whole number" if numbers else ""


def _mongo_problem(query: str) -> str:
    """What the driver does not take. It says itself what its options may be."""
    from pymongo.common import URI_OPTIONS_VALIDATOR_MAP  # noqa: PLC0415  (only an address with options needs it)
    from pymongo.errors import PyMongoError  # noqa: PLC0415
    from pymongo.uri_parser import split_options  # noqa: PLC0415

    for pair in re.split("[&;]", query):
        name, _, value = pair.partition("=")
        if name.lower() not in URI_OPTIONS_VALIDATOR_MAP:
            return f"unknown option {name!r}; known: {', '.join(sorted(URI_OPTIONS_VALIDATOR_MAP))}"
        try:
            split_options(f"{name}={value}", validate=True, warn=False)
        except (PyMongoError, ValueError, TypeError, OSError) as error:
            return f"{name}: {error}" if name.lower() in _SHOWN else f"{name}: its driver does not take this value"
    try:
        split_options(query, validate=False)
    except (PyMongoError, ValueError) as error:  # of two options together: it names no value
        return str(error)
    return ""
