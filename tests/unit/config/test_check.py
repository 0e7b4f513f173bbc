"""What is wrong with a configuration: every problem at once, each with its key and what would be right."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.config import Http
from tests.unit.config.given import keys_of, problems, read, without_place


def test_every_problem_is_told_at_once_with_its_key() -> None:
    found = problems(
        """
        enabled = "yes"
        speed = 11
        [http]
        port = 70000
        workers = 0
        hots = "x"
        [redis]
        shards = 1.5
        [producers.keys]
        "Bad Name" = "0123456789abcdef"
        short = "x"
        [log]
        level = "loud"
        [actions.rating]
        value_max = 0
        counters = { "views.total" = "one", rating_sum = "two" }
        [domains.jav]
        entity_types = []
        [domains.blog]
        actions = ["view", "Bad"]
        [import]
        statuses = [200, 42]
        """,
        FLUSH__INTERVAL_S="soon",
        FLUSH__THRESHOLD="-1",
        RATELIMIT__PER_MINUTE="5",
    )
    assert sorted(keys_of(found)) == sorted([
        "enabled", "speed", "http.port", "http.workers", "http.hots", "redis.shards", "producers.keys.Bad Name",
        "producers.keys.short", "log.level", "actions.rating.value_max", "actions.rating.counters.views.total",
        "actions.rating.counters.rating_sum", "domains.jav.entity_types", "domains.blog.entity_types",
        "domains.blog.actions[1]", "import.statuses[1]", "flush.interval_s", "flush.threshold", "ratelimit",
    ])  # fmt: skip


def test_a_problem_says_what_would_be_right() -> None:
    found = problems("[http]\nport = 0\n[domains.blog]\n", HTTP__HEADER="x")
    assert sorted(map(without_place, found)) == [
        "domains.blog.entity_types: missing",
        "http.header: unknown key; known here: " + ", ".join(sorted(Http.__struct_fields__)),
        "http.port: must be between 1 and 65535",
    ]


@pytest.mark.parametrize(
    ("toml", "hint"),
    [
        ("[http]\nprot = 1", 'http.prot: unknown key; did you mean "port"? Known here: answer_timeout_ms, '),
        ("[ratelimit]", 'ratelimit: unknown key; did you mean "rate_limit"? Known here: actions, '),
        ("[domains.jav]\nentity_types=['a']\naction=[]", 'domains.jav.action: unknown key; did you mean "actions"?'),
        ("[[import.routes]]\nentity = 'x'", 'import.routes[0].entity: unknown key; did you mean "entity_id"?'),
        ("[http]\nzzzz = 1", "http.zzzz: unknown key; known here: "),
    ],
)
def test_an_unknown_key_is_told_with_the_one_it_may_be(toml: str, hint: str) -> None:
    assert without_place(problems(toml)[0]).startswith(hint)


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("[log]\nlevel = 'verbos'", 'log.level: invalid value "verbos"; allowed: debug, info, warning, error'),
        ("[log]\nlevel = 5", "log.level: invalid value 5; allowed: debug, info, warning, error"),
        ("[http]\ninterface = 'wsgi'", 'http.interface: invalid value "wsgi"; allowed: asgi, rsgi'),
        (
            "[read]\ntop_windows = ['day', 'hour']",
            'read.top_windows[1]: invalid value "hour"; allowed: total, day, week, month, year, 24h, 7d, 14d, 30d, 90d',
        ),
        ("[actions.a]\ncounters = {a = 'two'}", 'actions.a.counters.a: invalid value "two"; allowed: one, value'),
        ("[http]\nport = 65536", "http.port: must be between 1 and 65535"),
        ("[spool]\nbytes_max = 1", "spool.bytes_max: must be at least 1048576"),
        ("[flush]\ninterval_s = 0", "flush.interval_s: must be above 0 and at most 86400"),
        ("[http]\nport = '80'", "http.port: must be a whole number"),
        ("[flush]\ninterval_s = true", "flush.interval_s: must be a number"),
        ("enabled = 1", "enabled: must be true or false"),
        ("[http]\nhost = 1", "http.host: must be a text"),
        ("[import]\nstatuses = 200", "import.statuses: must be a list"),
        ("[producers]\nkeys = 'x'", "producers.keys: must be a table"),
        ("http = 1", "http: must be a table"),
        ("[domains.jav]\nentity_types = []", "domains.jav.entity_types: must not be empty"),
        ("[producers.keys]\np = 'short'", "producers.keys.p: must have 16 to 255 characters: ASCII, no spaces"),
        ("[read]\ncors_origins = ['x']", 'read.cors_origins[0]: must be like https://shop.example, or "*"'),
        (
            "[actions.View]",
            "actions.View: must begin with a-z and hold only a-z, 0-9 and _, 32 characters at most",
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_it_must_be(toml: str, problem: str) -> None:
    assert [without_place(line) for line in problems(toml)] == [problem]


def test_no_problem_shows_a_secret() -> None:
    found = problems(
        "[redis]\nurl = 5\n[read]\nkey = 'hush'",
        PRODUCERS__KEYS='{"shop": "hush hush hush hush"}',
        MYSQL__URL="mysql://me:hush@h",
    )
    assert set(keys_of(found)) == {"redis.url", "read.key", "producers.keys.shop"}
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("[http]\nport = 80.0", "http.port"),
        ("[http]\nport = true", "http.port"),
        ("[dedupe]\nwindow_s = 0", "dedupe.window_s"),
        ("[redis]\nshards = 16385", "redis.shards"),
        ("[http]\nbatch_events_max = 2001", "http.batch_events_max"),
        ("[actions.a]\nvalue_min = 0", "actions.a.value_min"),
        ("[actions.a]\nvalue_max = 1000000001", "actions.a.value_max"),
        ("[actions.a]\ncounters = 5", "actions.a.counters"),
        ("[actions.a.counters]\nx = 1", "actions.a.counters.x"),
        ("[domains.jav]\nentity_types = ['Movie']", "domains.jav.entity_types[0]"),
        ("[domains.jav]\nentity_types = 'movie'", "domains.jav.entity_types"),
        ("[domains.jav]\nentity_types = ['movie']\nentity_id = { movie = '' }", "domains.jav.entity_id.movie"),
        ("[domains.jav]\nentity_types = ['movie']\nurls = { movie = 'javascript:{id}' }", "domains.jav.urls.movie"),
        ("[domains.jav]\nentity_types = ['movie']\nurls = { movie = 'https://{id}.org/' }", "domains.jav.urls.movie"),
        ("[domains.jav]\nentity_types = ['movie']\nurls = { movie = 'https://shop.org/' }", "domains.jav.urls.movie"),
        ("[replica.jav]\nmovie = 5", "replica.jav.movie"),
        ("[replica.jav.movie]\ntable='t'\nkey='k; DROP'\ncolumns={view='v'}", "replica.jav.movie.key"),
        ("[replica.jav.movie]\ntable='t'\nkey='k'\ncolumns={}", "replica.jav.movie.columns"),
        ("[producers]\nkeys = { shop = 'sixteen chars  ok' }", "producers.keys.shop"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(toml: str, key: str) -> None:
    assert key in keys_of(problems(toml))


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("[actions.a]\nvalue_min = 5\nvalue_max = 4", "actions.a"),
        ("[actions.a]\ncounters = { flush_seq = 'one' }", "actions.a.counters.flush_seq"),
        ("[actions.date]", "actions.date.counters.date"),
        ("[actions.dead_applied]", "actions.dead_applied.counters.dead_applied"),
        ("[domains.jav]\nentity_types = ['movie']\nactions = ['veiw']", "domains.jav.actions"),
        ("[domains.jav]\nentity_types = ['movie']\nentity_id = { film = 'uuid' }", "domains.jav.entity_id.film"),
        ("[domains.jav]\nentity_types = ['movie']\nurls = { film = 'https://a/{id}' }", "domains.jav.urls.film"),
        ("[domains.jav]\nentity_types = ['movie']\nentity_id = { movie = 'uid' }", "domains.jav.entity_id.movie"),
        ("[domains.jav]\nentity_types = ['movie']\nentity_id = { movie = '(' }", "domains.jav.entity_id.movie"),
        ("[domains.jav]\nentity_types = ['movie']\nentity_id = { movie = '(a+)+' }", "domains.jav.entity_id.movie"),
        (
            "[actions.a.counters]\nabcdefghijklmnopqrstuvwxyz0 = 'one'\n[browser]\nrobots = 'apart'",
            "actions.a.counters.abcdefghijklmnopqrstuvwxyz0",
        ),
        ("[actions.view]\nvisitor_window_s = 30\n[actions.view_raw]", "actions.view.counters.view"),
        (
            "[actions.a.counters]\nview_robot = 'one'\n[browser]\nrobots = 'apart'",
            "actions.view.counters.view",
        ),
        ("[replica.jav.film]\ntable='t'\nkey='k'\ncolumns={view='v'}", "replica.jav.film"),
        ("[replica.jav.movie]\ntable='t'\nkey='k'\ncolumns={share='v'}", "replica.jav.movie.columns.share"),
        ("[redis]\ndurability = 'replicated'", "redis.durability"),
        ("[flush]\nretry_ms = 5\nretry_max_ms = 4", "flush.retry_ms"),
        ("[flush]\nmetrics_port = 9464", "flush.metrics_port"),
        ("[ingest]\nqueue_events_max = 1999", "ingest.queue_events_max"),
        ("[http]\ntrusted_proxies = ['10.0.0.0/8', 'proxy.example']", "http.trusted_proxies[1]"),
        ("[http]\ntrusted_proxies = ['10.0.0.1/8']", "http.trusted_proxies[0]"),
        ("[http]\nhosts = ['Shop.example']", "http.hosts[0]"),
        ("[http]\nhosts = ['shop.example:80']", "http.hosts[0]"),
        ("[browser]\norigins = ['shop.example']", "browser.origins[0]"),
        ("[browser]\norigins = ['https://shop.example/']", "browser.origins[0]"),
        ("[browser]\nalias = 't'", "browser.alias"),
        ("[browser]\nalias = '/t/'", "browser.alias"),
        ("[browser]\nalias = '/healthz'", "browser.alias"),
        ("[browser]\nalias = '/api/v1/analytics/top'", "browser.alias"),
        ("[browser]\nalias = '/analytics.js'", "browser.alias"),
        ("[browser]\nscript = '/analytics.min.js'", "browser.script"),
        ("[browser]\nscript = 's.js'", "browser.script"),
        ("[browser]\nscript = '/js/counts.js'", "browser.script"),
        ("[browser]\nalias = '/t'\nscript = '/t/batch'", "browser.script"),
        ("[browser]\nscript = '/s.js'\npixel = '/s.js'", "browser.pixel"),
        ("[browser]\nalias = '/t'\npixel = '/t'", "browser.pixel"),
        ("[browser]\nalias = '/counts.js'", "browser.alias"),
        ("[browser]\nscript = '/js/s.js'\npixel = '/js/counts.js'", "browser.pixel"),
        ("[browser]\npixel = '/p'\nbadge = '/p'", "browser.badge"),
        ("[browser]\nbadge = '/openapi.json'", "browser.badge"),
        ("[browser]\npixel = '/p'\n[ingest]\nrequire_key = true", "browser.pixel"),
        ("[producers.keys]\nshop = 'sha256:0123456789abcdef'", "producers.keys.shop"),
        ("[read]\nkey = 'sha256:0123456789abcdef'", "read.key"),
        (
            "[[keys.entries]]\nid = 'abcdef'\nname = 'shop'\nsecret = '0123456789abcdef'\nkind = 'reader'",
            "keys.entries[0]",
        ),
        (
            "[[keys.entries]]\nid = 'abcdef'\nname = 'shop'\nsecret = '0123456789abcdef'\nexpires = '31.1.2027'",
            "keys.entries[0].expires",
        ),
        (
            "[[keys.entries]]\nid = 'abcdef'\nname = 'shop'\nsecret = '0123456789abcdef'\ndomains = ['no']",
            "keys.entries[0].domains",
        ),
        ("[http]\ntrusted_proxies = ['::/0']", "http.trusted_proxies[0]"),
        ("[import]\nbot_pattern = '('", "import.bot_pattern"),
        ("[redis]\nurl = 'localhost:6379'", "redis.url"),
        ("[redis]\nurl = 'redis://h:99999/0'", "redis.url"),
        ("[redis]\nurl = 'redis://:secr/et@h/0'", "redis.url"),
        ("[redis]\nurl = 'redis://[::1'", "redis.url"),
        ("[mongo]\nurl = 'mongodb://'", "mongo.url"),
        ("[mongo]\nurl = 'mongodb://a:1,b:x/db'", "mongo.url"),
        ("[mongo]\nurl = 'postgres://h/db'", "mongo.url"),
        ("[mysql]\nurl = 'mysql://h'", "mysql.url"),
        ("[mysql]\nurl = 'mysql:///db'", "mysql.url"),
    ],
)
def test_values_that_do_not_go_together_are_told(toml: str, key: str) -> None:
    found = problems(toml)
    assert keys_of(found) == [key]
    assert "secr" not in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://:p@h:6379/0", "redis://u:p%40%2F@[::1]:6379/0", "rediss://h/1", "unix:///run/redis.sock",
        "unix://:p@/run/redis.sock?db=1",
    ],
)  # fmt: skip
def test_addresses_of_redis_are_taken(url: str) -> None:
    assert read(REDIS__URL=url).redis.url == url


@pytest.mark.parametrize("url", ["mongodb://h", "mongodb://u:p@a:1,b:2,[::1]:3/db?replicaSet=r", "mongodb+srv://h/db"])
def test_addresses_of_mongodb_are_taken(url: str) -> None:
    assert read(MONGO__URL=url).mongo.url == url


@pytest.mark.parametrize(
    ("variable", "text", "key"),
    [
        ("HTTP", "5", "http"),
        ("HTTP__PORT", "", "http.port"),
        ("HTTP__PORT", "80a", "http.port"),
        ("HTTP__PORT__X", "1", "http.port"),
        ("IMPORT__METHODS", "GET", "import.methods"),
        ("IMPORT__METHODS", '["GET"', "import.methods"),
        ("PRODUCERS__KEYS", "{", "producers.keys"),
        ("NOSUCH__KEY", "1", "nosuch"),
        ("HTTP__NOSUCH", "1", "http.nosuch"),
        ("NOSUCH", "1", "nosuch"),
    ],
)
def test_a_wrong_variable_is_told(variable: str, text: str, key: str) -> None:
    (found,) = problems(**{variable: text})
    assert found.startswith(f"TALLYD_{variable}: {key}: ")


def test_a_variable_under_a_value_of_the_file_is_told() -> None:
    assert problems("http = 5\n", HTTP__PORT="80") == [
        "TALLYD_HTTP__PORT: http.port: http is not a table",
        "given.toml line 1: http: must be a table",
    ]


# Routes of an import ----------------------------------------------------------------------------------------------

ROUTE = {"pattern": "^/(?P<id>.*)", "domain": "jav", "entity_type": "movie", "entity_id": "{id}", "action": "view"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pattern": "("}, "pattern: not a regular expression"),
        ({"domain": "web"}, "domain: there is no domain 'web'; known: jav"),
        ({"entity_type": "page"}, "entity_type: domain 'jav' has no 'page'; known: actor, movie, tag"),
        ({"action": "share"}, "action: domain 'jav' has no 'share'; known: download, view"),
        ({"entity_id": "{name}"}, "entity_id: '{name}': there is no {name}; known: {0}, {1}, {id}"),
        ({"entity_id": "{2}"}, "entity_id: '{2}': there is no {2}"),
        ({"entity_id": "{}"}, "entity_id: '{}': there is no {}"),
        ({"entity_id": "{0.__class__}"}, "entity_id: '{0.__class__}': there is no {0.__class__}"),
        ({"entity_id": "{0!r}"}, "entity_id: '{0!r}': only"),
        ({"entity_id": "{0:>99}"}, "entity_id: '{0:>99}': only"),
        ({"entity_id": "{0"}, "entity_id: '{0': "),
        ({"statuses": [99]}, "statuses"),
        ({"bots": "maybe"}, "bots"),
        ({"other": 1}, "other: unknown key"),
    ],
)
def test_a_wrong_route_is_told_with_its_key(change: dict[str, Any], problem: str) -> None:
    found = problems(IMPORT__ROUTES=json.dumps([{**ROUTE, **change}]))
    assert without_place(found[0]).startswith(f"import.routes[0].{problem}")


def test_what_groups_fill_in_is_left_to_the_catalogue() -> None:
    route = {**ROUTE, "pattern": "^/([a-z]+)/", "entity_type": "{1}", "domain": "{1}", "entity_id": "{0}"}
    (taken,) = read(IMPORT__ROUTES=json.dumps([route])).import_.routes
    assert (taken.domain, taken.statuses) == ("{1}", None)


def test_null_in_a_variable_leaves_the_default() -> None:
    (route,) = read(IMPORT__ROUTES=json.dumps([{**ROUTE, "statuses": None}])).import_.routes
    assert route.statuses is None
