"""`tallyd report`: evidence that MySQL and MongoDB agree, as files; and the check of such files."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, progress, say
from daemon.cli.record import RecordOption, recorded
from daemon.config import Config
from daemon.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from daemon.verify.report.generate import Report, Wanted

DIR_DEFAULT = Path("reports")
LIMIT_DEFAULT = 1_000
DAYS_MAX = 366

FolderOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the files go.")]

app = typer.Typer(help="Write down whether MySQL and MongoDB agree, and verify what was written.", no_args_is_help=True)


@app.command()
def generate(
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="How many days, today (UTC) being the last.")],
    config: ConfigOption = None,
    data: DataOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Rows of each mapped type, and entities of each day.")
    ] = LIMIT_DEFAULT,
    folder: FolderOption = DIR_DEFAULT,
    rollback: Annotated[bool, typer.Option("--rollback", help="Also: could the application go back now?")] = False,
    legacy_url: Annotated[
        str | None, typer.Option(metavar="URL", help="With --rollback: the application's own counting route.")
    ] = None,
    pack: Annotated[bool, typer.Option("--archive", help="Also all of it as a zip with SHA-256 sums.")] = False,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one parity artifact for each day: what was counted that day, and whether the rollups agree about it. Each
    also says what is pending, and whether MySQL equals MongoDB now. Exit 1 if a row or a rollup differs.

    Today's artifact is replaced by each run of today. Those of past days are never written again.

    Example: `tallyd report generate --days 30 --rollback --archive --dir ./reports`
    """
    from daemon.verify.report.generate import Wanted
    from daemon.verify.report.routes import checked_url

    loaded = load(config, data, "redis", "mongo", "mysql")
    url = None if legacy_url is None else checked_url(legacy_url)
    with recorded(loaded, "report", wanted=record) as kept:
        report = run(_generate(loaded, Wanted(days, limit, folder, rollback, url, pack)))
        found = (
            f"{report.checked:,} rows checked: {report.mismatches:,} mismatches, {report.pending:,} pending;"
            f" {report.disagreements:,} rollups disagree."
        )
        if as_json:
            print_json(report)
        else:
            print(f"{len(report.files)} artifacts in {folder}, the last {report.files[-1]}.")
            if report.kept:
                print(f"{len(report.kept)} of past days stay as they were.")
            if report.archive:
                print(f"Archive: {folder / report.archive}")
            print(found)
        kept.summary = found
        names = ("checked", "mismatches", "pending", "disagreements")
        kept.figures |= {"files": len(report.files), **{name: getattr(report, name) for name in names}}
        if report.mismatches or report.disagreements:
            raise CheckFailed(f"{report.mismatches} rows and {report.disagreements} rollups differ.")


async def _generate(config: Config, wanted: Wanted) -> Report:
    from daemon.verify.report import generate

    with progress("Reporting", wanted.days) as move:
        return await generate.generate(config, wanted, lambda _: move(advance=1))


@app.command()
def gate(
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="How many days in a row: 7, 14, 30 or 90.")],
    folder: FolderOption = DIR_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Ask for evidence of each of the last days (UTC). Exit 1 and name the first day that is bad or has none.

    A day is bad if a row or a rollup differs, if its artifact does not verify, or if that was written after the day. So
    run `tallyd report generate --days 1` on each day. Today counts once it has an artifact.

    Example: `tallyd report gate --days 30 --dir /var/lib/tallyd/reports`
    """
    from daemon.verify.report.gate import read_gate

    _check_folder(folder)
    found = read_gate(folder, days, dt.datetime.now(dt.UTC).date())
    if as_json:
        print_json(found)
    else:
        for bad in found.bad:
            say(f"{bad.date} {bad.why}.")
        print(f"{days - len(found.bad)} of {days} days are in order, from {found.first} to {found.last}.")
    if found.bad:
        raise CheckFailed(f"{found.bad[0].date} {found.bad[0].why}.")


@app.command()
def verify(
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help=f"A folder of artifacts. Default: {DIR_DEFAULT}.")
    ] = None,
    archive: Annotated[Path | None, typer.Option("--archive", metavar="ZIP", help="An archive of them.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Ask for all that tallyd writes, and a manifest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check artifacts against the schema, their own sums and the manifest. Name each problem, and exit 1 if there is
    one. Artifacts of other producers need the fields of analytics-artifact.v1 only; --strict asks for all of tallyd's.

    Example: `tallyd report verify --archive reports/archive/evidence-20260219_101500.zip --strict`
    """
    from daemon.verify.report import verify

    if folder is not None and archive is not None:
        raise ConfigError("--dir and --archive: choose one.")
    if archive is not None:
        if not archive.is_file():
            raise ConfigError(f"--archive: there is no file {archive}.")
        verdict = verify.verify_archive(archive, strict=strict)
    else:
        folder = folder or DIR_DEFAULT
        _check_folder(folder)
        verdict = verify.verify_folder(folder, strict=strict)
    if as_json:
        print_json({"files": verdict.files, "problems": [problem._asdict() for problem in verdict.problems]})
    else:
        for file, field, message in verdict.problems:
            say(f"{file}: {f'{field} ' if field else ''}{message}")
        print(f"{verdict.files} files read, {len(verdict.problems)} problems.")
    if verdict.problems:
        raise CheckFailed(f"{len(verdict.problems)} problems were found.")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"--dir: there is no folder {folder}.")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the artifacts.

    Example: `tallyd report schema > analytics-artifact.v1.schema.json`
    """
    from daemon.verify.report import artifact

    print(artifact.schema().decode(), end="")
