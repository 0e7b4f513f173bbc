"""`tallyd key`: makes, lists and revokes keys, in the file that `keys.file` names."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_table
from daemon.config import Config, KeyEntry, chosen_file, hashed, read_entries
from daemon.errors import ConfigError, StoreError

ID_CHARACTERS, ID_LENGTH = "abcdefghijkmnpqrstuvwxyz23456789", 6
SECRET_BYTES = 32

app = typer.Typer(help="Make, list and revoke keys of producers, readers and operators.", no_args_is_help=True)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the producer, reader or operator.")],
    config: ConfigOption = None,
    data: DataOption = None,
    read: Annotated[bool, typer.Option("--read", help="A key for reading, and for nothing else.")] = False,
    operator: Annotated[
        bool, typer.Option("--operator", help="A key for the dashboard, for status and dead, and for reading.")
    ] = False,
    signed: Annotated[
        bool, typer.Option("--signed", help="A key that signs requests and is never sent. The file holds it as it is.")
    ] = False,
    domain: Annotated[list[str] | None, typer.Option(help="Only events of this domain; may be repeated.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="Only events of this action; may be repeated.")] = None,
    events_per_minute: Annotated[
        int, typer.Option(min=0, help="Events a minute of all keys of this name. 0: no limit.")
    ] = 0,
    expires: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First UTC day on which it is refused.")
    ] = None,
) -> None:
    """Make a key, and print it once. The file keeps its hash.

    A name may have several keys: make the new one, exchange it everywhere, revoke the old one. Daemons take the file at
    their next reload (SIGHUP, `systemctl reload tallyd-ingest`).

    Example: `tallyd key new shop --domain jav --action view --expires 2027-12-31`
    """
    if read and operator:
        raise typer.BadParameter("an operator's key reads, too", param_hint="--read")
    loaded = load(config, data)
    id_ = "".join(secrets.choice(ID_CHARACTERS) for _ in range(ID_LENGTH))
    key = f"{id_}.{secrets.token_urlsafe(SECRET_BYTES)}"
    entry = KeyEntry(
        id=id_,
        name=name,
        kind="operator" if operator else "reader" if read else "producer",
        hash="" if signed else hashed(key),
        secret=key if signed else "",
        domains=tuple(domain or ()),
        actions=tuple(action or ()),
        events_per_minute=events_per_minute,
        expires=f"{expires:%Y-%m-%d}" if expires else "",
    )
    with _locked(loaded):
        _write(loaded, [*_entries(loaded), entry], config, data)
    print(key)
    how = f"It signs: X-Tallyd-Signature: key={id_},t=…,v1=…" if signed else "It is sent as X-Tallyd-Key."
    if operator:
        how += " In a browser it is the password of /dashboard, with any user."
    typer.echo(f"{how} It is not shown again. Reload the daemons: systemctl reload tallyd-ingest", err=True)


@app.command("list")
def list_(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the keys of the file and of the configuration: whose, what for, until when, and when they came last.

    Redis holds when a producer's key came last. Without Redis, that column is empty.

    Example: `tallyd key list`
    """
    loaded = load(config, data)
    used = run(_last_used(loaded)) if loaded.redis.url else {}
    configured = [KeyEntry(id=name, name=name) for name in loaded.producers.keys]
    keys = [
        {
            "id": entry.id,
            "name": entry.name,
            "kind": entry.kind + (" (signs)" if entry.secret else ""),
            "scope": ", ".join((*entry.domains, *entry.actions)) or ("all" if entry.kind == "producer" else ""),
            "events_per_minute": entry.events_per_minute,
            "expires": entry.expires,
            "last_used": used.get(entry.id, ""),
        }
        for entry in (*configured, *loaded.keys.entries)
    ]
    if as_json:
        print_json(keys)
    elif keys:
        print_table(tuple(keys[0]), [tuple(str(cell) for cell in key.values()) for key in keys])


@app.command("revoke")
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `key list` shows it.")],
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Take a key out of the file. Daemons refuse it from their next reload on.

    Example: `tallyd key revoke k3f9a2`
    """
    loaded = load(config, data)
    with _locked(loaded):
        entries = _entries(loaded)
        left = [entry for entry in entries if entry.id != id_]
        if len(left) == len(entries):
            raise ConfigError(f"{loaded.keys.file} has no key {id_}; see `tallyd key list`.")
        _write(loaded, left, config, data)
    typer.echo("Reload the daemons: systemctl reload tallyd-ingest", err=True)


@contextmanager
def _locked(config: Config) -> Iterator[None]:
    """One command at a time changes the file. The lock is its folder's, because the file itself is replaced.

    Raises ConfigError if none is named.
    """
    if not config.keys.file:
        raise ConfigError(
            'keys.file is not set. Name a file in the configuration: [keys] file = "/etc/tallyd/keys.json".'
        )
    folder = Path(config.keys.file).parent
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"Cannot open {folder} (keys.file): {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _entries(config: Config) -> list[KeyEntry]:
    return msgspec.convert(read_entries(Path(config.keys.file)), list[KeyEntry])


def _write(loaded: Config, entries: list[KeyEntry], config: Path | None, data: Path | None) -> None:
    """Replaces the file, checked by reading it: if it is wrong, it stays as it was. Its owner and mode stay."""
    file = Path(loaded.keys.file)
    before = file.read_bytes() if file.exists() else None
    owned = file.stat() if before is not None else _stat_of_config(config, data)
    _replace(file, msgspec.json.format(msgspec.json.encode({"entries": entries})), owned)
    try:
        load(config, data)
    except ConfigError:
        if before is None:
            file.unlink()
        else:
            _replace(file, before, owned)
        raise


def _stat_of_config(config: Path | None, data: Path | None) -> os.stat_result | None:
    """Who may read the configuration reads a new file of keys, too: the daemon is seldom who types `tallyd key`."""
    with suppress(OSError):
        return chosen_file(config, data=data).stat()
    return None


def _replace(file: Path, content: bytes, owned: os.stat_result | None) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(content)
            opened.flush()
            if owned is not None:
                with suppress(PermissionError):
                    os.fchown(opened.fileno(), owned.st_uid, owned.st_gid)
                    os.fchmod(opened.fileno(), owned.st_mode & (0o777 if file.exists() else 0o660))
            os.fsync(opened.fileno())
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(f"Cannot write {file} (keys.file): {error.strerror}.") from None


async def _last_used(config: Config) -> dict[str, str]:
    from daemon.buffer.connection import opened
    from daemon.buffer.keys import Keys

    found: dict[Any, Any] = {}
    with suppress(StoreError):
        async with opened(config.redis) as redis:
            found = await redis.hgetall(Keys.of(config.redis).used)
    return {
        id_.decode(): f"{dt.datetime.fromtimestamp(int(at), dt.UTC):%Y-%m-%d %H:%M:%S}" for id_, at in found.items()
    }
