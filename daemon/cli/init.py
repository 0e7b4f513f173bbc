"""`tallyd init`: a first configuration, made of a few answers. It checks each store, and prints the rights it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
import msgspec
import typer

from daemon.cli.options import run
from daemon.cli.output import say
from daemon.config import Config
from daemon.config.load import FILE_DEFAULT
from daemon.errors import CheckFailed, ConfigError
from daemon.files import replaced
from daemon.install.answers import Answers, config_of, toml

if TYPE_CHECKING:
    from daemon.doctor.finding import Finding

Store = Literal["redis", "mongo", "mysql"]

STORES: dict[Store, tuple[str, str]] = {
    "redis": ("Redis", "redis://tallyd:PASSWORD@127.0.0.1:6379/0"),
    "mongo": ("MongoDB", "mongodb://tallyd:PASSWORD@127.0.0.1:27017/tallyd?replicaSet=rs0"),
    "mysql": ("MySQL or MariaDB", "mysql://tallyd:PASSWORD@127.0.0.1:3306/shop?ssl=true"),
}
"""Name for people, and an example of an address."""

RedisOption = Annotated[str, typer.Option("--redis-url", metavar="URL", envvar="TALLYD_REDIS__URL", help="Redis.")]
MongoOption = Annotated[str, typer.Option("--mongo-url", metavar="URL", envvar="TALLYD_MONGO__URL", help="MongoDB.")]
MysqlOption = Annotated[
    str, typer.Option("--mysql-url", metavar="URL", envvar="TALLYD_MYSQL__URL", help="MySQL or MariaDB, if any.")
]
NewDomainOption = Annotated[str, typer.Option("--domain", help="What is counted, as a name: shop.")]
NewTypesOption = Annotated[
    list[str] | None, typer.Option("--type", help="A kind of things that are counted: article. May be repeated.")
]
NewActionsOption = Annotated[
    list[str] | None, typer.Option("--action", help="Default: view and download. May be repeated.")
]
TableOption = Annotated[
    str, typer.Option("--table", help="The table of MySQL that shows the counts of the first type.")
]
KeyColumnOption = Annotated[str, typer.Option("--key", metavar="COLUMN", help="Its column with the entity's id.")]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="COUNTER=COLUMN", help="A column that tallyd sets: view=views. May be repeated."),
]
UncheckedOption = Annotated[bool, typer.Option("--no-check", help="Ask no store whether it is fit.")]


def init(
    redis: RedisOption = "",
    mongo: MongoOption = "",
    mysql: MysqlOption = "",
    domain: NewDomainOption = "",
    type_: NewTypesOption = None,
    action: NewActionsOption = None,
    table: TableOption = "",
    key: KeyColumnOption = "",
    column: ColumnsOption = None,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The file to write.")] = FILE_DEFAULT,
    grants: Annotated[
        Store | None,
        typer.Option(
            help="Only print the rights of this store's user, to pipe into its shell. They hold its password."
        ),
    ] = None,
    no_check: UncheckedOption = False,
) -> None:
    """Write a first configuration: the stores, what is counted, and the table that shows it.

    On a terminal it asks what no flag gave, says which rights each store's user needs, and checks each store. Nothing
    is written while a store is not fit. The file holds the addresses, so only its owner may read it. On a server,
    `tallyd install --system` asks the same, and keeps the addresses apart.

    Example: `tallyd init --domain shop --type article --table articles --key slug --column view=views`

    Example: `tallyd init --grants mysql --mysql-url URL --domain shop --type article --table articles --key slug
    --column view=views | mariadb`
    """
    given = given_answers(redis, mongo, mysql, domain, type_, action, table, key, column)
    if grants is not None:
        print("\n".join(_statements(grants, given)))
        return
    if output.exists():
        raise ConfigError(f"{output} is there already. Edit it, or name another file with --output.")
    answers = ask(given, check=not no_check)
    text = toml(answers, apart=False)
    with replaced(output) as file:
        os.fchmod(file.fileno(), 0o600)  # before a password is in it
        file.write(text.encode())
    say(f"{output} is written. Next: tallyd doctor --config {output}")


def given_answers(
    redis: str,
    mongo: str,
    mysql: str,
    domain: str,
    types: Iterable[str] | None,
    actions: Iterable[str] | None,
    table: str,
    key: str,
    columns: Iterable[str] | None,
) -> Answers:
    """The answers that flags gave. Raises ConfigError for a `--column` without =."""
    pairs = [each.partition("=") for each in columns or ()]
    if wrong := [counter for counter, equals, column in pairs if not equals or not column]:
        raise ConfigError(f"--column {wrong[0]}: must look like view=views.")
    return Answers(
        redis=redis,
        mongo=mongo,
        mysql=mysql,
        domain=domain,
        types=tuple(types or ()),
        actions=tuple(actions or ()),
        table=table,
        key=key,
        columns={counter: column for counter, _, column in pairs},
    )


def ask(given: Answers, *, check: bool) -> Answers:
    """All answers: on a terminal it asks for those that are missing. Each store is checked as soon as it is known.

    Raises ConfigError if answers are missing or wrong, and CheckFailed if a store is not fit.
    """
    asking = sys.stdin.isatty()
    answers = _asked_what_counts(given) if asking else given
    lacking = [f"--{name}" for name, value in (("domain", answers.domain), ("type", answers.types)) if not value]
    lacking += [f"--{store}-url" for store in ("redis", "mongo") if not asking and not getattr(answers, store)]
    if answers.table and not (answers.key and answers.columns):
        lacking.append("--key and --column, with --table")
    if lacking:
        raise ConfigError(f"Missing: {', '.join(lacking)}. On a terminal, tallyd asks.")
    config_of(answers)
    for store, (name, example) in STORES.items():
        answers = _store(store, name, example, answers, check=check, asking=asking and not getattr(given, store))
    return answers


def _asked_what_counts(answers: Answers) -> Answers:
    def asked(value: str, text: str) -> str:
        return value or str(typer.prompt(text, default="", show_default=False)).strip()

    domain = answers.domain or str(typer.prompt("What is counted? A name such as shop"))
    types = answers.types or tuple(str(typer.prompt("Which kinds of things? Names such as article, author")).split())
    types = tuple(name.strip(",") for name in types)
    table, key, columns = answers.table, answers.key, dict(answers.columns)
    if not (table or answers.mysql):
        table = asked("", f"Which table of MySQL shows the counts of {types[0]}? Nothing: none")
    if table:
        key = key or str(typer.prompt(f"Its column with the id of the {types[0]}"))
        if not columns:
            columns = {"view": str(typer.prompt("Its column for the views"))}
    return msgspec.structs.replace(answers, domain=domain, types=types, table=table, key=key, columns=columns)


def _store(store: Store, name: str, example: str, answers: Answers, *, check: bool, asking: bool) -> Answers:
    """Asks for the address until its store is fit, or checks the one that was given."""
    while True:
        known = answers
        if asking and not (store == "mysql" and not answers.table):
            hidden: str = typer.prompt(f"{name}, as {example}", hide_input=True)
            known = msgspec.structs.replace(answers, **{store: hidden.strip()})
        try:
            config_of(known)
            if check and getattr(known, store):
                _check(store, name, known)
        except (ConfigError, CheckFailed) as error:
            if not asking:
                raise
            say(str(error), "red")
            if not click.confirm("Again?", default=True):
                raise
        else:
            return known


def _check(store: Store, name: str, answers: Answers) -> None:
    """Says what the doctor says about one store. If something is fatal, prints the rights that its user needs, and
    raises CheckFailed."""
    from daemon.doctor import checks, grants

    of: dict[Store, Callable[[Config], Coroutine[Any, Any, list[Finding]]]] = {
        "redis": checks.of_redis,
        "mongo": checks.of_mongo,
        "mysql": checks.of_mysql,
    }
    findings = run(of[store](config_of(answers)))
    bad = [each for each in findings if each.severity == "fatal"]
    for each in findings:
        if each.severity in ("warning", "fatal"):
            say(
                f"{each.severity} {each.check}: {each.found}", {"warning": "yellow", "fatal": "bold red"}[each.severity]
            )
            say(f"  fix: {each.fix}")
    if not bad:
        say(f"{name} is fit.", "green")
        return
    where, statements = _rights(store, answers)
    if statements and (store == "redis" or sys.stdout.isatty()):
        say(f"The rights that its user needs; type them in {where}:")
        print("\n".join(statements))
    elif statements:  # they hold its password, and what is no terminal may be a log
        say(f"`tallyd init --grants {store}` prints the rights that its user needs, to type in {where}.")
    if statements and store == "redis":
        say("Without an ACL file, CONFIG REWRITE keeps them. Redis 7.0: the default user must keep all rights, or be")
        say(f"closed so: ACL SETUSER {grants.DEFAULT_USER}")
    raise CheckFailed(f"{name} is not fit: {len(bad)} fatal.")


def _rights(store: Store, answers: Answers) -> tuple[str, list[str]]:
    from daemon.doctor import grants

    return grants.about(config_of(answers))[store]


def _statements(store: Store, answers: Answers) -> list[str]:
    """The statements of one store. Of the other answers, only the table's are needed, and only by MySQL."""
    if not getattr(answers, store):
        raise ConfigError(f"--grants {store} needs --{store}-url.")
    if store == "mysql" and not (answers.domain and answers.types and answers.table):
        raise ConfigError("--grants mysql needs --domain, --type, --table, --key and --column, too.")
    known = msgspec.structs.replace(answers, domain=answers.domain or "any", types=answers.types or ("any",))
    _, statements = _rights(store, known)
    if not statements:
        raise ConfigError(f"The address of {STORES[store][0]} names no user, so there are no rights to give.")
    return statements
