"""Which scripts the doctor tries."""

from __future__ import annotations

from daemon.buffer import scripts
from daemon.doctor import probes


def test_every_script_has_a_probe() -> None:
    assert set(probes.PROBES) == set(scripts.ALL)
    assert {path.stem for path in scripts.LUA_DIR.glob("*.lua")} == {script.name for script in scripts.ALL}
