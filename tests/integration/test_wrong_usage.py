"""A command that cannot mean what was asked, or lacks its configuration, ends with 2 and says what is wrong."""

from __future__ import annotations

import pytest

from tests.kit.system import System

TAGS = '{"jav": {"tag": {"table": "tags", "key": "id", "columns": {"view": "views"}}}}'
MOVIES = '{"table": "jav", "key": "uuid", "columns": {"view": "views"}, "shadow": {%s}}'


@pytest.mark.parametrize(
    ("command", "env", "named"),
    [
        ("parity-check --limit 1 --all", {}, "--limit and --all"),
        ("parity-check --type jav.actor", {}, "mapped: jav.movie"),
        ("parity-check", {"MYSQL__URL": ""}, "mysql.url"),
        ("report verify --dir nowhere", {}, "there is no folder nowhere"),
        ("report gate --days 7 --dir nowhere", {}, "there is no folder nowhere"),
        ("report verify --archive nowhere.zip", {}, "there is no file nowhere.zip"),
        ("report verify --dir . --archive x", {}, "choose one"),
        ("report generate --days 1 --legacy-url file:///etc/passwd", {}, "--legacy-url"),
        ("shadow-compare --tolerance little", {}, "--tolerance"),
        ("shadow-compare", {"REPLICA__JAV__MOVIE": MOVIES % ""}, "shadow = {"),
        ("shadow-compare", {"REPLICA__JAV__MOVIE": MOVIES % '"view": "views"'}, "tallyd writes column 'views' itself"),
        ("shadow-compare", {"REPLICA__JAV__MOVIE": MOVIES % '"download": "own"'}, "replica.jav.movie.shadow.download"),
        ("export totals --from 2026-01-01", {}, "totals have no days"),
        ("export daily --from 2026-02-01 --to 2026-01-01", {}, "is after"),
        ("export daily --type jav.song", {}, "jav.movie, jav.actor, jav.tag"),
        ("export daily --output nowhere/x", {}, "no folder nowhere"),
        ("export fortnightly", {}, "fortnightly"),
        ("import --again /etc/hostname", {"REDIS__SHARDS": "2"}, "--again: with redis.shards = 2"),
        ("backfill", {"MYSQL__URL": ""}, "mysql.url: not set"),
        ("backfill", {"DOMAINS": '{"web": {"entity_types": ["page"]}}'}, "[replica.DOMAIN.TYPE]"),
        ("backfill", {"REPLICA": TAGS}, "table tags has no column id, views"),
        ("backfill", {"REPLICA": TAGS.replace("tags", "jav").replace('"id"', '"code"')}, "code has no index"),
        ("backfill --type jav.actor", {}, "jav.actor is mapped to no table; mapped: jav.movie"),
    ],
)
def test_it_ends_with_2_and_says_what_is_wrong(system: System, command: str, env: dict[str, str], named: str) -> None:
    done = system.tallyd(*command.split(), check=False, **env)
    assert done.returncode == 2
    assert named in " ".join(done.stderr.split())
