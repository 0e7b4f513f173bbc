"""`tallyd import` against real servers: a real log counted independently, and every kind of file counted once."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.kit import commands
from tests.kit.importing import EXAMPLE, Counts, forget, line, live, pipe, run, views
from tests.kit.system import ROOT, System, event, expected_rollups

ONE_SYSTEM = True

DATA = ROOT / "tests" / "data"
LOG = DATA / "semicomplete-access.log.gz"

# What the example configuration says, said again in another language and by other means: fields cut at quotes,
# extensions compared as words, programs by the list that was made by hand.
AWK = r"""
BEGIN { n = split("jar war zip tar tgz gz bz2 xz 7z deb rpm gem whl apk dmg exe msi iso", word, " ")
        while (n) is_file[word[n--]] = 1
        n = split("pdf epub doc docx xls xlsx", word, " "); while (n) is_file[word[n--]] = 1
        n = split("htm html xhtml php asp aspx jsp", word, " "); while (n) is_page[word[n--]] = 1 }
FILENAME != "-" { program[$0] = 1; next }
{ split($0, quoted, "\""); split(quoted[2], request, " "); split(quoted[3], answer, " "); split(quoted[1], left, "[")
  if (request[1] != "GET" || quoted[6] in program) next
  path = request[2]; sub(/\?.*/, "", path)
  n = split(path, part, "/"); m = split(part[n], dotted, "."); extension = m > 1 ? tolower(dotted[m]) : ""
  if (extension in is_file && answer[1] == 200) what = "web:file:" path "\tdownload"
  else if ((m < 2 || dotted[m] in is_page) && (answer[1] == 200 || answer[1] == 304)) what = "web:page:" path "\tview"
  else next
  print what "\t2015-05-" substr(left[2], 1, 2) }
"""


def independent_count(tmp_path: Path) -> Counts:
    """Counts the real log with gunzip, awk, sort and uniq."""
    program = tmp_path / "count.awk"
    program.write_text(AWK)
    command = 'gunzip -c "$1" | LC_ALL=C awk -f "$2" "$3" - | LC_ALL=C sort | uniq -c'
    done = commands.run(["/bin/sh", "-c", command, "sh", LOG, program, DATA / "semicomplete-bots.txt"], check=True)
    counts = {}
    for row in done.stdout.splitlines():
        amount, rest = row.lstrip().split(" ", 1)
        entity, counter, day = rest.split("\t")
        counts[entity, counter, day] = int(amount)
    return counts


# The demonstration ----------------------------------------------------------------------------------------------------


def test_the_real_log_is_counted_as_awk_counts_it(system: System, tmp_path: Path) -> None:
    expected = independent_count(tmp_path)
    assert len(expected) > 400
    done = run(system, LOG)
    assert live(system) == expected
    assert done["total"]["counted"] == sum(expected.values())
    assert done["total"]["lines"] == 10_000
    assert done["rejects"] is None
    assert not list(system.scratch.glob("*rejected*"))

    system.tallyd("flush", "--once", "--config", EXAMPLE)
    by_day = [(entity, counter, dt.date.fromisoformat(day), n) for (entity, counter, day), n in expected.items()]
    assert system.rollups() == expected_rollups(by_day)
    assert live(system) == {}


def test_the_top_list_of_the_readme(system: System) -> None:
    run(system, LOG)
    system.tallyd("flush", "--once", "--config", EXAMPLE)
    top = json.loads(system.tallyd("top", "--config", EXAMPLE, "--limit", "3", "--json").stdout)
    assert [(row["entity_id"], row["view"]) for row in top] == [
        ("/projects/xdotool/", 204), ("/projects/xdotool/xdotool.xhtml", 144), ("/", 126)
    ]  # fmt: skip


def test_a_dry_run_counts_the_same_without_redis(system: System, tmp_path: Path) -> None:
    done = run(system, "--dry-run", LOG, REDIS__URL="redis://127.0.0.1:1/0")
    assert done["total"]["counted"] == sum(independent_count(tmp_path).values())
    assert system.redis.dbsize() == 0


def test_shards_make_no_difference(system: System, tmp_path: Path) -> None:
    run(system, LOG, REDIS__SHARDS="3")
    assert live(system, shards=3) == independent_count(tmp_path)


# Counted once ---------------------------------------------------------------------------------------------------------


def test_the_same_content_is_counted_once_whatever_it_comes_as(system: System, tmp_path: Path) -> None:
    content = b"".join(line(n, f"/p{n % 7}") for n in range(5_000))
    plain, renamed, packed = tmp_path / "a.log", tmp_path / "other name.txt", tmp_path / "packed-without-the-name"
    plain.write_bytes(content)
    renamed.write_bytes(content)
    packed.write_bytes(gzip.compress(content, 1))
    assert run(system, plain)["total"]["counted"] == 5_000
    for again in (plain, renamed, packed):
        done = run(system, again)
        assert (done["total"]["counted"], done["total"]["lines"]) == (0, 0)
        assert done["files"][0]["from_line"] == 5_001
        assert "nothing new, all of its 5,000 lines were imported before" in done["said"]
    for piped in (content, packed.read_bytes()):
        assert pipe(system, piped)["total"]["lines"] == 0
    assert views(system) == system.views() == 5_000


def test_it_is_recognised_by_its_lines_when_the_records_are_gone(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n) for n in range(3_000)))
    run(system, log)
    system.redis.delete("anl:imports")
    assert run(system, log)["total"]["duplicates"] == 3_000
    assert views(system) == 3_000


def test_a_file_is_taken_up_where_it_ended_although_the_dedupe_memory_has_forgotten_it(
    system: System, tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n) for n in range(100)))
    run(system, log)
    forget(system)
    assert run(system, log)["total"]["lines"] == 0
    log.write_bytes(log.read_bytes() + b"".join(line(n) for n in range(100, 130)))
    done = run(system, log)
    assert (done["total"]["counted"], done["total"]["duplicates"]) == (30, 0)
    assert done["files"][0]["from_line"] == 101
    grown = tmp_path / "rotated.gz"
    grown.write_bytes(gzip.compress(log.read_bytes() + line(130)))
    forget(system)
    assert run(system, grown)["total"]["counted"] == 1
    assert views(system) == 131


def test_a_shorter_copy_of_an_imported_file_is_recognised_where_an_import_ended(system: System, tmp_path: Path) -> None:
    short, long = tmp_path / "yesterday", tmp_path / "today"
    short.write_bytes(b"".join(line(n) for n in range(10)))
    long.write_bytes(short.read_bytes() + b"".join(line(n) for n in range(10, 20)))
    run(system, short)
    run(system, long)
    forget(system)
    assert run(system, short)["total"]["lines"] == 0


def test_files_that_part_are_counted_from_where_they_part(system: System, tmp_path: Path) -> None:
    begun = b"".join(line(n) for n in range(10))
    left, right = tmp_path / "left", tmp_path / "right"
    left.write_bytes(begun + line(11, "/l"))
    right.write_bytes(begun + line(12, "/r"))
    run(system, left)
    done = run(system, right)
    assert (done["total"]["counted"], done["total"]["duplicates"]) == (1, 10)
    assert pipe(system, right.read_bytes())["total"]["lines"] == 0
    assert views(system) == 12


ROUTE = """
[[import.routes]]
pattern = '%s'
domain = "web"
entity_type = "page"
entity_id = "{0}"
action = "view"
"""


def with_routes(tmp_path: Path, *patterns: str) -> tuple[str, Path]:
    """The arguments that name a configuration in which these paths count as pages."""
    config = tmp_path / f"{len(patterns)} routes.toml"
    config.write_text("[domains.web]\nentity_types = ['page']\n" + "".join(ROUTE % each for each in patterns))
    return "--config", config


def test_a_file_of_which_nothing_counted_is_not_marked_as_imported(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n) for n in range(500)))
    for wrong in (with_routes(tmp_path, "^nothing$"), ("--format", "ndjson")):
        done = run(system, *wrong, log)
        said = "a.log: 0 of 500 lines counted: check [[import.routes]] and --format. No line is marked as imported.\n"
        assert said in done["said"]
        assert done["exit"] == 0
    assert not system.redis.exists("anl:imports")
    assert run(system, log)["total"]["counted"] == 500


def test_again_counts_what_matched_no_route_before_and_nothing_twice(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n, "/b" if n % 5 else "/a") for n in range(500)))
    both = with_routes(tmp_path, "^/a$", "^/b$")
    assert run(system, *with_routes(tmp_path, "^/a$"), log)["total"]["counted"] == 100
    for counted in (400, 0):
        done = run(system, *both, "--again", log)["total"]
        assert (done["lines"], done["counted"], done["duplicates"]) == (500, counted, 500 - counted)
        assert views(system) == 500
    assert run(system, *both, log)["total"]["lines"] == 0


def test_again_does_not_reach_back_to_ids_that_are_forgotten(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(n) for n in range(300)))
    run(system, log)
    [(field, written)] = system.redis.hgetall("anl:imports").items()
    three_days_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    place = json.loads(written) | {"began": three_days_ago.isoformat("T", "seconds")}
    system.redis.hset("anl:imports", field, json.dumps(place))
    forget(system)
    log.write_bytes(log.read_bytes() + b"".join(line(n) for n in range(300, 400)))
    run(system, log)
    again = run(system, "--again", log)
    assert (again["total"]["lines"], again["total"]["duplicates"], views(system)) == (100, 100, 400)
    assert "its first 300 lines are not read again" in again["said"]


def test_equal_lines_of_one_file_all_count(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(line(1) * 50)
    assert run(system, log)["total"]["counted"] == 50


@pytest.mark.parametrize("rest", [b"\n", b" and more\n"], ids=["it was whole", "it was half"])
def test_a_last_line_without_newline_counts_once(system: System, tmp_path: Path, rest: bytes) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(line(1) + line(2).removesuffix(b"\n"))
    assert run(system, log)["total"]["counted"] == 2
    assert run(system, log)["total"]["lines"] == 0
    forget(system)
    log.write_bytes(log.read_bytes() + rest + line(3))
    assert run(system, log)["total"]["counted"] == 1
    assert views(system) == 3


def test_half_a_last_line_is_judged_again_when_it_is_whole(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    whole = line(2)
    log.write_bytes(line(1) + whole[:40])
    done = run(system, log)
    assert (done["total"]["counted"], done["total"]["rejected"]) == (1, {"malformed": 1})
    log.write_bytes(line(1) + whole)
    done = run(system, log)
    assert (done["total"]["counted"], done["total"]["rejected"], done["files"][0]["from_line"]) == (1, {}, 2)
    assert views(system) == 2


# What is in a file ----------------------------------------------------------------------------------------------------


def test_rejected_lines_are_counted_by_reason_and_written(system: System, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    bad = [
        b"\n",
        b"what is this\n",
        line(2).replace(b"GET /a HTTP/1.1", rb"\x16\x03\x01\x02"),
        line(3, "/" + "x" * 300),
        line(4, "/" + "y" * 5_000),
        b"\xff\xfe\n",
        line(5, status=404),
    ]
    log.write_bytes(line(1) + b"".join(bad) + line(6))
    done = run(system, log, IMPORT__LINE_BYTES_MAX="1000")
    assert done["exit"] == 0
    assert done["total"]["rejected"] == {"malformed": 2, "bad_request": 1, "invalid": 1, "line_too_long": 1}
    assert done["total"]["left_out"] == {"blank": 1, "status": 1}
    assert done["total"]["counted"] == 2
    written = system.scratch / "tallyd-import-rejected.ndjson"
    assert done["rejects"] == written.name
    rejects = [json.loads(each) for each in written.read_bytes().splitlines()]
    assert [(each["line"], each["reason"]) for each in rejects] == [
        (3, "malformed"), (4, "bad_request"), (5, "invalid"), (6, "line_too_long"), (7, "malformed")
    ]  # fmt: skip
    assert all(each["file"] == str(log) for each in rejects)
    assert rejects[0]["text"] == "what is this"
    assert rejects[2]["errors"] == {"entity_id": ["The entity id field must not be greater than 255 characters."]}
    assert rejects[3]["text"].startswith("10.0.0.1 - - [17/May/2015")
    assert len(rejects[3]["text"]) == 1_001
    assert rejects[4]["text"] == r"\xff\xfe"


def test_ndjson_goes_the_way_of_the_http_batch(system: System, tmp_path: Path) -> None:
    events = [event(domain="web", entity_type="page", entity_id=f"/p{n % 3}", value=n % 5 + 1) for n in range(5_000)]
    file = tmp_path / "events"
    lines = [json.dumps(each).encode() for each in events]
    lines[10:10] = [b"", b"{not json", b"[]", json.dumps({**events[0], "action": "share", "value": 0}).encode()]
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    done = run(system, file)
    assert done["files"][0]["format"] == "ndjson"
    assert done["total"]["counted"] == 5_000
    assert done["total"]["rejected"] == {"not_json": 1, "invalid": 2}
    assert sum(live(system).values()) == sum(each["value"] for each in events)
    with system.ingest(CONFIG=EXAMPLE) as ingest:
        assert ingest.post(events[77]).status_code == 202
    assert sum(live(system).values()) == sum(each["value"] for each in events), "it is one id, wherever it comes from"
    forget(system)
    assert run(system, file)["total"]["lines"] == 0
    file.write_bytes(file.read_bytes() + b"\r\nnot json\r\n" + json.dumps(event()).encode())
    done = run(system, file)
    assert done["files"][0]["format"] == "ndjson", "the file's beginning says so, not the first line that is new"
    assert done["total"]["rejected"] == {"not_json": 1, "invalid": 1}


def test_an_ndjson_event_that_does_not_say_when_counts_on_the_day_of_its_import(system: System, tmp_path: Path) -> None:
    sent = event(domain="web", entity_type="page", entity_id="/now", occurred_at=None)
    file = tmp_path / "events"
    file.write_text("\n".join(json.dumps(each) for each in (sent, {**sent, "occurred_at": "2026-02-19T10:00:00Z"})))
    before = dt.datetime.now(dt.UTC).date()
    total = run(system, file)["total"]
    assert (total["counted"], total["duplicates"]) == (1, 1)
    days = {("web:page:/now", "view", str(day)) for day in (before, dt.datetime.now(dt.UTC).date())}
    assert live(system).keys() <= days


def test_the_format_can_be_forced(system: System, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"{}\n" + line(1))
    assert run(system, file, "--dry-run")["total"]["rejected"] == {"invalid": 1, "not_json": 1}
    assert run(system, file, "--dry-run", "--format", "combined")["total"]["rejected"] == {"malformed": 1}


def test_an_empty_file_is_fine(system: System, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    done = run(system, empty, empty)
    assert (done["exit"], done["total"]["lines"]) == (0, 0)
    assert system.redis.hlen("anl:imports") == 0


def test_a_pipe_by_name_is_read_like_standard_input(system: System, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["/bin/sh", "-c", 'gunzip -c "$1" > "$2"', "sh", LOG, fifo]):
        assert run(system, fifo)["total"]["counted"] == 1_609


# Usage ----------------------------------------------------------------------------------------------------------------


def test_wrong_usage_is_told_before_anything_is_counted(system: System, tmp_path: Path) -> None:
    done = system.tallyd("import", "--config", EXAMPLE, str(LOG), "missing.log", str(tmp_path), check=False)
    assert done.returncode == 2
    assert "missing.log: No such file or directory" in done.stderr
    assert f"{tmp_path}: is a directory" in done.stderr
    assert system.redis.dbsize() == 0
    assert system.tallyd("import", "--config", EXAMPLE, "-", "-", check=False).returncode == 2
    assert system.tallyd("import", "--rejects", "nowhere/file", str(LOG), check=False).returncode == 2
    assert system.tallyd("import", check=False).returncode == 2


def test_an_access_log_without_routes_says_what_to_configure(system: System) -> None:
    done = system.tallyd("import", str(LOG), check=False)
    assert done.returncode == 2
    assert "[[import.routes]]" in done.stderr
    assert system.redis.hlen("anl:imports") == 0


def test_nothing_is_imported_while_counting_is_switched_off(system: System) -> None:
    done = system.tallyd("import", "--config", EXAMPLE, str(LOG), check=False, ENABLED="false")
    assert done.returncode == 2
    assert "enabled = false" in done.stderr


def test_another_layout_is_refused_at_once(system: System) -> None:
    run(system, LOG)
    started = time.monotonic()
    done = run(system, LOG, check=False, REDIS__SHARDS="2")
    assert done["exit"] == 2
    assert "laid out differently" in done["failure"]
    assert time.monotonic() - started < 10


def test_the_summary_tells_every_file_and_the_sum(system: System, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_bytes(line(1) + b"what is this\n")
    done = system.tallyd("import", "--config", EXAMPLE, str(LOG), str(other))
    rows = [" ".join(row.split()) for row in done.stdout.splitlines()]
    assert [row for row in rows if row.startswith("lines")] == [
        f"lines 10,000 {LOG}",
        f"lines 2 {other}",
        "lines 10,002 total",
    ]
    assert [row for row in rows if row.startswith("counted")] == ["counted 1,609", "counted 1", "counted 1,610"]
    assert rows.count("left out 8,391 no_route 5,775, bot 2,212, status 365, method 39") == 2
    assert rows.count("rejected 1 malformed 1") == 2
    assert "Rejected lines are in tallyd-import-rejected.ndjson" in done.stderr


def test_a_terminal_sees_a_progress_bar(system: System) -> None:
    shown = system.on_terminal("import", "--config", EXAMPLE, str(LOG))
    assert "225.9/225.9 kB" in shown
    assert "1,609" in shown
