"""Ids that a stranger chose, on the operator's terminal: neither markup, nor control, nor invisible."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.kit.commands import TALLYD, inherited
from tests.kit.system import System, event
from tests.kit.terminal import CTRL_C, terminal

ONE_SYSTEM = True

HOSTILE = ["[/x]", "[link=https://evil.example]ok[/link]", "[black on black]hidden", "a\u202eb", "a\u2028b", "a\u200bb"]
SHOWN = [*HOSTILE[:3], r"a\u202eb", r"a\u2028b", r"a\u200bb"]


@pytest.fixture
def counted(system: System) -> System:
    assert system.count(*(event(entity_id=id_) for id_ in HOSTILE)) == len(HOSTILE)
    system.flush()
    return system


def plain(output: str) -> str:
    assert output.replace("\n", "").isprintable()
    return output


def test_the_top_list_shows_each_as_it_is(counted: System) -> None:
    output = plain(counted.tallyd("top").stdout)
    assert all(id_ in output for id_ in SHOWN)
    assert {row["entity_id"] for row in json.loads(counted.tallyd("top", "--json").stdout)} == set(HOSTILE)


def test_the_top_list_shows_labels_other_counters_and_every_type(system: System) -> None:
    system.sql("INSERT INTO jav (uuid, code) VALUES ('a', 'A-1\u202e')")
    system.count(
        event(entity_id="a", value=3), event(entity_id="a", action="download"), event(entity_id="b", value=2),
        event(entity_type="tag", entity_id="7", value=5),
    )  # fmt: skip
    system.flush()
    rows = json.loads(system.tallyd("top", "--json").stdout)
    assert rows == [
        {"entity_type": "movie", "entity_id": "a", "label": "A-1\u202e", "view": 3, "download": 1},
        {"entity_type": "movie", "entity_id": "b", "view": 2, "download": 0},
        {"entity_type": "tag", "entity_id": "7", "view": 5, "download": 0},
    ]
    output = plain(system.tallyd("top").stdout)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line[0] == "│"]
    assert cells == [["1", "a", r"A-1\u202e", "3", "1"], ["2", "b", "", "2", "0"], ["1", "7", "5", "0"]]
    assert json.loads(system.tallyd("top", "--json", "--type", "tag").stdout) == rows[2:]
    assert json.loads(system.tallyd("top", "--json", "--counter", "download").stdout) == [
        {"entity_type": "movie", "entity_id": "a", "label": "A-1\u202e", "download": 1, "view": 3}
    ]


def test_without_mysql_the_top_list_has_no_labels_and_says_so(counted: System) -> None:
    output = counted.tallyd("top", MYSQL__URL="mysql://root@127.0.0.1:9/away").stdout
    assert "Without labels: MySQL at mysql://127.0.0.1:9" in output


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        (("status", "--watch"), "All is well.", "│ view    │ 7 "),
        (("top", "--watch"), "movie", "│ 7 "),
    ],
)
def test_a_watching_terminal_sees_a_count_arrive(
    system: System, command: tuple[str, ...], before: str, after: str
) -> None:
    env = {**inherited(), **system.environ()}
    with terminal((*TALLYD, *command), env, system.scratch) as shown:
        shown.shows(before.encode())
        system.count(*(event() for _ in range(7)))
        system.flush()
        shown.shows(after.encode())
        shown.types(CTRL_C)
        assert shown.ends() == 0


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_only_a_terminal_can_watch(system: System, options: tuple[str, ...]) -> None:
    done = system.tallyd("status", "--watch", *options, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--watch: only a terminal shows it" in done.stderr


@pytest.mark.parametrize(("id_", "shown"), list(zip(HOSTILE, SHOWN, strict=True)))
def test_a_series_names_it(counted: System, id_: str, shown: str) -> None:
    assert f"jav:movie:{shown}\n" in plain(counted.tallyd("series", id_).stdout)


def test_a_series_says_what_lies_outside_its_days(counted: System) -> None:
    """The events are of February: the last 30 days hold none of them."""
    last = counted.tallyd("series", HOSTILE[0]).stdout.splitlines()[-1]
    assert last == "1 view outside this window, first on 2026-02-19."
    inside = counted.tallyd("series", HOSTILE[0], "--from", "2026-02-01", "--to", "2026-03-01").stdout
    assert "outside" not in inside
    assert "outside" not in counted.tallyd("series", "unknown").stdout


def test_the_dead_letters_name_it(counted: System) -> None:
    counted.mongo["analytics_entity_daily"].update_many({}, {"$set": {"view": "seven"}})
    counted.count(*(event(entity_id=id_) for id_ in HOSTILE))
    counted.flush()
    listed = plain(counted.tallyd("dead", "list").stdout)
    retried = plain(counted.tallyd("dead", "retry", "--all", check=False).stdout)
    for id_ in SHOWN:
        assert f"jav:movie:{id_}:2026-02-19: still failing" in retried
    assert "counter's" in listed


def test_the_audit_names_it(counted: System) -> None:
    counted.mongo["analytics_entity_daily"].update_many({}, {"$set": {"view": 7}})
    audited = plain(counted.tallyd("audit", "--deep", check=False).stdout)
    assert all(id_ in audited for id_ in SHOWN), audited


def test_a_strangers_zip_says_nothing_to_the_terminal(system: System, tmp_path: Path) -> None:
    packed = tmp_path / "strange.zip"
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr("parity/\x1b]0;pwned\x07.json", b"{}")
        opened.writestr("manifest.json", json.dumps({"\x1b[2J": 1}))
    verified = system.tallyd("report", "verify", "--archive", str(packed), check=False)
    assert verified.returncode == 1
    assert r"parity/\x1b]0;pwned\x07.json" in plain(verified.stdout)
