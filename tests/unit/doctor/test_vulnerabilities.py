"""Which releases of Redis have which known vulnerability, and what a distribution's package says it mended."""

from __future__ import annotations

import gzip
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from daemon.doctor import backports, version
from daemon.doctor.vulnerabilities import VULNERABILITIES, affecting

LUA_PARSER = "CVE-2025-49844"


@pytest.mark.parametrize(
    ("release", "affected"),
    [
        ("6.2.19", True),
        ("6.2.20", False),
        ("7.0.15", True),  # no release of that branch has the fix
        ("7.2.10", True),
        ("7.2.11", False),
        ("7.4.6", False),
        ("8.0.3", True),
        ("8.2.2", False),
        ("8.4.0", False),  # a branch that began after the fix
        ("5.0.14", True),
    ],
)
def test_a_release_is_affected_up_to_the_fix_of_its_branch(release: str, *, affected: bool) -> None:
    assert (LUA_PARSER in {each.id for each in affecting(release)}) is affected


def test_a_release_before_the_first_affected_one_is_not_affected() -> None:
    assert "CVE-2026-23631" not in {each.id for each in affecting("6.2.14")}
    assert "CVE-2023-41056" not in {each.id for each in affecting("7.0.8")}


def test_the_newest_releases_have_none() -> None:
    assert affecting("8.8.2") == affecting("7.4.11") == affecting("6.2.24") == affecting("9.0.0") == []


def test_the_list_names_each_once_and_one_fix_a_branch() -> None:
    ids = [each.id for each in VULNERABILITIES]
    assert len(ids) == len(set(ids))
    for each in VULNERABILITIES:
        branches = [fixed[:2] for fixed in each.fixed]
        assert len(branches) == len(set(branches)), each.id
        assert sorted(branches) == branches, each.id


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.11.19-MariaDB-0+deb12u1", (10, 11, 19)),
        ("8.0.36", (8, 0, 36)),
        ("8.4", (8, 4, 0)),
        ("7.2.4-rc1", (7, 2, 4)),
        ("unstable", (0, 0, 0)),
    ],
)
def test_a_version_is_its_first_dotted_number(text: str, parsed: tuple[int, int, int]) -> None:
    assert version.parse(text) == parsed


@pytest.fixture
def changelog(tmp_path: Path) -> Path:
    path = tmp_path / "changelog.Debian.gz"
    path.write_bytes(gzip.compress(b"redis (5:7.0.15-1~deb12u6)\n  * CVE-2025-46817 / CVE-2025-49844\n  * CVE-2024\n"))
    return path


def this_process(**fields: object) -> dict[str, object]:
    """INFO as this very process would answer it, if it were a Redis."""
    uptime_s = int(time.time() - psutil.Process().create_time())
    return {"process_id": os.getpid(), "uptime_in_seconds": uptime_s, "executable": sys.executable, **fields}


def test_a_server_of_this_machine_has_what_its_package_names(changelog: Path) -> None:
    program = Path(psutil.Process().exe())
    assert backports.mended(this_process(), changelog, program) == {"CVE-2025-46817", "CVE-2025-49844"}


def test_a_process_that_only_shares_the_number_says_nothing(changelog: Path) -> None:
    program = Path(psutil.Process().exe())
    assert backports.mended(this_process(uptime_in_seconds=10**8), changelog, program) == set()
    assert backports.mended(this_process(process_id=2**22 + 1), changelog, program) == set()


def test_another_program_or_a_later_package_says_nothing(changelog: Path, tmp_path: Path) -> None:
    other = tmp_path / "redis-check-rdb"
    other.touch()
    assert backports.mended(this_process(), changelog, other) == set()
    assert backports.mended(this_process(), changelog, tmp_path / "absent") == set()


def test_a_missing_or_broken_changelog_says_nothing(tmp_path: Path) -> None:
    program = Path(psutil.Process().exe())
    broken = tmp_path / "changelog.gz"
    broken.write_bytes(b"not gzip")
    assert backports.mended(this_process(), broken, program) == set()
    assert backports.mended(this_process(), tmp_path / "absent", program) == set()
    assert backports.mended({}, broken, program) == set()
