"""The rights of each store's user, as text. `tests/integration/test_install.py` types them into real servers."""

from __future__ import annotations

import json

import pytest

from daemon.config import Config, ReplicaTable
from daemon.config.schema import DomainSection, MongoSection, MysqlSection, RedisSection
from daemon.doctor import grants
from daemon.errors import ConfigError
from daemon.rollups.mongo import open_client

TABLE = ReplicaTable(table="articles", key="slug", columns={"view": "views"}, label="title", shadow={"view": "old"})


def test_a_store_without_a_user_has_no_rights_to_give() -> None:
    config = Config(redis=RedisSection(url="redis://h"), mongo=MongoSection(url="mongodb://h"))
    assert [statements for _, statements in grants.about(config).values()] == [[], [], []]


def test_a_password_of_redis_is_shown_as_its_hash_only() -> None:
    [rights, save] = grants.redis(Config(redis=RedisSection(url="redis://tallyd:p%40ss@h")))
    assert rights.startswith("ACL SETUSER tallyd reset on #a4048cba70dad0be0b01a8bb00027c77")
    assert "p@ss" not in rights
    assert save == "ACL SAVE"


@pytest.mark.parametrize("user", ["a%0AFLUSHALL", "a%20b", "a%00b"])
def test_no_name_of_a_user_makes_another_command_of_redis(user: str) -> None:
    with pytest.raises(ConfigError, match="no spaces"):
        grants.redis(Config(redis=RedisSection(url=f"redis://{user}:pw@h")))


def test_no_name_of_a_database_makes_another_statement_of_mysql() -> None:
    rights = grants.columns("a`.* TO x; --", ("tallyd", "%"), TABLE)
    assert " ON `a``.* TO x; --`.`articles` TO 'tallyd'@'%'" in rights


@pytest.mark.parametrize(("options", "source"), [("", "counts"), ("?authSource=admin", "admin")])
def test_the_user_of_mongodb_is_made_where_it_logs_in(options: str, source: str) -> None:
    config = Config(mongo=MongoSection(url=f"mongodb://tallyd:p%22w@h/counts{options}"))
    [statement] = grants.mongo(config)
    made, _, user = statement.partition(".createUser(")
    assert made == f'db.getSiblingDB("{source}")'
    assert json.loads(user.removesuffix(")")) == {
        "user": "tallyd", "pwd": 'p"w', "roles": [{"role": "readWrite", "db": "counts"}],
    }  # fmt: skip


def test_the_user_of_mongodb_without_a_database_in_its_address_has_the_one_that_is_used() -> None:
    config = Config(mongo=MongoSection(url="mongodb://tallyd:pw@h/"))
    client, database = open_client(config.mongo.url, 1_000, "test")
    login = client.options.pool_options._credentials
    assert login is not None
    [statement] = grants.mongo(config)
    assert statement.startswith(f'db.getSiblingDB("{login.source}").createUser(')
    assert f'{{"role": "readWrite", "db": "{database.name}"}}' in statement


@pytest.mark.parametrize(
    ("host", "account", "tls"),
    [
        ("localhost/shop", "localhost", ""),
        ("127.0.0.1/shop", "127.0.0.1", ""),
        ("db.example/shop?ssl=true", "%", " REQUIRE SSL"),
        ("/shop?unix_socket=/run/mysql", "localhost", ""),
    ],
)
def test_the_user_of_mysql_has_rights_on_columns(host: str, account: str, tls: str) -> None:
    config = Config(
        mysql=MysqlSection(url=f"mysql://tallyd:it%27s@{host}"),
        domains={"shop": DomainSection(entity_types=("article",))},
        replica={"shop": {"article": TABLE}},
    )
    create, grant = grants.mysql(config)
    assert create == f"CREATE USER IF NOT EXISTS 'tallyd'@'{account}' IDENTIFIED BY 'it''s'{tls};"
    rights = "SELECT (`slug`, `views`, `title`, `old`), UPDATE (`views`) ON `shop`.`articles`"
    assert grant == f"GRANT {rights} TO 'tallyd'@'{account}';"
