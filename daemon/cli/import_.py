"""`tallyd import`: files into the system. The work is in `daemon.importer`."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import DownloadColumn, TransferSpeedColumn

from daemon.cli.options import ConfigOption, DataOption, JsonOption, check_folder_of, load, run
from daemon.cli.output import bars, print_json, wide_console
from daemon.config import producer_names, require
from daemon.errors import ConfigError
from daemon.importer.outcome import Format

if TYPE_CHECKING:
    from daemon.importer.session import Outcome
    from daemon.importer.source import Source

REJECTS_DEFAULT = Path("tallyd-import-rejected.ndjson")
STANDARD_INPUT = 0


def import_files(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files, gzipped or not; - for standard input.")],
    config: ConfigOption = None,
    data: DataOption = None,
    format_: Annotated[
        Format,
        typer.Option("--format", help="combined (also common), ndjson, or auto: told from the first line."),
    ] = Format.AUTO,
    producer: Annotated[
        str,
        typer.Option(metavar="NAME", help="The producer whose key these NDJSON events were sent with, or would be."),
    ] = "",
    rejects: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Where rejected lines are appended to. Default: {REJECTS_DEFAULT}."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Read lines again that were imported, after a change of the routes.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only read and check; no Redis, no file of rejects unless named.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Import access logs (combined, common) and NDJSON events. What was imported once is not counted again.

    `import` in the configuration says which requests of an access log count, and as what (see
    ops/weblog.example.toml). Redis keeps how far each file was read, by its content. So the same file is recognised
    when it was renamed, gzipped or has grown. An import that was stopped or killed goes on where it was. Ctrl-C stops
    it cleanly.

    A file of which nothing counted is not marked as imported: mend the routes and import it again. If only some lines
    matched no route, say --again. Lines that were counted stay counted as they were. It goes back as far as their ids
    are known: `dedupe.window_s`, 48 hours.

    An event that was sent over HTTP and is in a file counts once. If a producer sent it with its key, name the
    producer: its event ids are its own.

    Exit codes: 0 every file was read to its end, whatever lines were rejected; 1 a file was not; 2 wrong usage.

    Example: `tallyd import --config ops/weblog.example.toml access.log access.log.1.gz`
    """
    from daemon.importer import session
    from daemon.importer.rejects import Rejects

    loaded = load(config, data)
    if not dry_run:
        require(loaded, "redis")
        if not loaded.enabled:
            raise ConfigError("enabled = false: nothing would be counted. Set it to true to import, or try --dry-run.")
    if again and loaded.redis.shards > 1:
        raise ConfigError(
            f"--again: with redis.shards = {loaded.redis.shards} an id is known only beside its entity. A line whose"
            " route is another now would count twice."
        )
    if producer and producer not in producer_names(loaded):
        raise ConfigError(f"--producer {producer}: no key has this name, in [producers] or in keys.file.")
    check_folder_of(rejects, "--rejects")
    stopping = threading.Event()
    sources = _sources(files, stopping)
    rejected = Rejects(rejects or (None if dry_run else REJECTS_DEFAULT))
    shown = sys.stdout.isatty() and sys.stderr.isatty()
    with bars(DownloadColumn(), TransferSpeedColumn(), shown=shown) as bar:
        outcome = run(
            session.run(
                loaded,
                sources,
                rejected,
                bar,
                stopping,
                chosen=format_,
                producer=producer,
                again=again,
                dry_run=dry_run,
            )
        )
    _print(outcome, rejected.written_to, again=again, dry_run=dry_run, as_json=as_json)
    if outcome.stopped_by:
        raise typer.Exit(128 + outcome.stopped_by)
    if outcome.failure:
        raise outcome.failure
    raise typer.Exit(1 if any(each.error for each in outcome.files) else 0)


def _sources(files: list[str], stopping: threading.Event) -> list[Source]:
    """Opens all files before anything is counted. Raises ConfigError with every file that cannot be opened."""
    from daemon.importer.source import FileSource, StreamSource

    sources: list[Source] = []
    problems = []
    if files.count("-") > 1:
        problems.append("-: standard input can be read once only")
    if "-" in files and sys.stdin is None:  # then another file may have its number
        problems.append("-: standard input is closed")
    for name in files:
        try:
            if name == "-":
                sources.append(StreamSource(STANDARD_INPUT, "standard input", stopping))
            elif stat.S_ISREG(Path(name).stat().st_mode):
                sources.append(FileSource(Path(name), stopping))
            elif stat.S_ISDIR(Path(name).stat().st_mode):
                problems.append(f"{name}: is a directory; name the files in it")
            else:  # a pipe, such as the shell's <(...)
                sources.append(StreamSource(os.open(name, os.O_RDONLY), name, stopping))
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    if problems:
        for each in sources:
            each.close()
        raise ConfigError("Cannot import:\n" + "\n".join(f"  {problem}" for problem in problems))
    return sources


def _print(outcome: Outcome, rejects: Path | None, *, again: bool, dry_run: bool, as_json: bool) -> None:
    from daemon.importer import summary

    if as_json:
        print_json(summary.plain(outcome, rejects, dry_run=dry_run))
    elif outcome.files:
        wide_console().print(summary.shown(outcome.files))
    for note in summary.notes(outcome, rejects, again=again, dry_run=dry_run):
        typer.echo(note, err=True)
