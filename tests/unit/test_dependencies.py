"""What tallyd needs to run: locked by hash, and under licences that may be passed on with it."""

from __future__ import annotations

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
