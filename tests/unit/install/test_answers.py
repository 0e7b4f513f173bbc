"""The first configuration, as the answers make it."""

from __future__ import annotations

import tomllib

import msgspec
import pytest

from daemon.config import replica_tables
from daemon.errors import ConfigError
from daemon.install.answers import Answers, config_of, toml

ANSWERS = Answers(
    redis="redis://tallyd:hush@r:6379/0",
    mongo="mongodb://tallyd:hush@m/tallyd",
    mysql="mysql://tallyd:hush@s/shop",
    domain="shop",
    types=("article", "author"),
    actions=("view",),
    table="articles",
    key="slug",
    columns={"view": "views"},
)


def test_the_answers_are_in_force() -> None:
    config = config_of(ANSWERS)
    assert (config.redis.url, config.mongo.url, config.mysql.url) == (ANSWERS.redis, ANSWERS.mongo, ANSWERS.mysql)
    assert config.domains.keys() == {"shop"}
    assert config.domains["shop"].entity_types == ("article", "author")
    [((domain, kind), table)] = replica_tables(config).items()
    assert (domain, kind, table.table, table.key, table.columns) == (
        "shop", "article", "articles", "slug", {"view": "views"},
    )  # fmt: skip


def test_a_file_whose_addresses_lie_apart_holds_no_password() -> None:
    text = toml(ANSWERS, apart=True)
    assert "hush" not in text
    assert tomllib.loads(text)["mysql"] == {"url_file": "mysql.url"}


def test_without_mysql_there_is_no_replica() -> None:
    answers = Answers(redis="redis://r", mongo="mongodb://m", domain="shop", types=("article",))
    assert tomllib.loads(toml(answers, apart=True)).keys() == {"redis", "mongo", "domains"}
    assert replica_tables(config_of(answers)) == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"redis": "http://r"}, "redis.url: must begin with redis://"),
        ({"domain": "My shop"}, "Names hold only a-z"),
        ({"domain": "Shop"}, "domains.Shop: "),
        ({"types": ("a-b",)}, "domains.shop.entity_types[0]: must begin with a-z"),
        ({"actions": ("buy",)}, "domains.shop.actions"),
        ({"table": 'a"\nb'}, "replica.shop.article.table: must begin"),
        ({"columns": {"views": "views"}}, "replica.shop.article.columns"),
    ],
)
def test_a_wrong_answer_is_told_with_its_key(change: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config_of(msgspec.structs.replace(ANSWERS, **change))
    assert told in str(raised.value)
