"""The package as it is shipped: what the wheel holds, that it works elsewhere, which versions it insists on."""

from __future__ import annotations

import os
import re
import site
import sys
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import daemon
from daemon.errors import TallydError
from daemon.install import shipped
from daemon.web.assets import BUILT, COUNTS, SOURCE
from tests.kit.commands import ROOT, run
from tests.kit.system import System, event

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def said(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What the command prints; a failed one fails the test with all it said."""
    return run(command, cwd=cwd, env=env, check=True).stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    said(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh virtual environment, elsewhere, with tallyd from the wheel.

    What tallyd depends on comes from the environment of the tests: its folder is on the path, but path files in it,
    such as that of the editable install, are not followed.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    said(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin"


def test_the_wheel_holds_the_package_with_its_scripts_and_types_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"daemon", f"tallyd-{daemon.__version__}.dist-info"}
    scripts = {f"daemon/lua/{path.name}" for path in (ROOT / "lua").glob("*.lua")}
    assert scripts
    assert {*scripts, "daemon/py.typed", "daemon/ops/constraints.txt", "daemon/ops/tallyd.example.toml"} <= names
    shipped = {f"daemon/{path.relative_to(ROOT)}" for path in (ROOT / "ops/systemd").rglob("*") if path.is_file()}
    shipped |= {f"daemon/{path.relative_to(ROOT)}" for path in (ROOT / "ops/prometheus").rglob("*.yml")}
    shipped |= {f"daemon/{path.relative_to(ROOT)}" for path in (ROOT / "ops/grafana").rglob("*.json")}
    assert "daemon/ops/systemd/tallyd-ingest.service" in shipped
    assert shipped <= names
    assert not [name for name in names if "node_modules" in name]


def test_the_installed_package_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    place = said(installed / "python", "-c", "import daemon; print(daemon.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent)


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    assert "exactly once" in said(installed / "tallyd", "--help", cwd=tmp_path)
    assert said(installed / "tallyd", "--version", cwd=tmp_path).strip() == f"tallyd {daemon.__version__}"


def test_the_installed_command_puts_its_own_units_on_a_server(installed: Path, tmp_path: Path) -> None:
    stores = ("--redis-url", "redis://r", "--mongo-url", "mongodb://m", "--domain", "shop", "--type", "article")
    root = ("--prefix", installed.parent, "--root", tmp_path, "--no-check")
    said(installed / "tallyd", "install", "--system", *stores, *root, cwd=tmp_path)
    units = shipped.units()
    assert units
    for name, text in units.items():
        written = (tmp_path / "etc/systemd/system" / name).read_text()
        assert written == text.replace("/opt/tallyd", str(installed.parent))


def test_the_installed_command_knows_the_text_of_every_key(installed: Path, tmp_path: Path) -> None:
    example = said(installed / "tallyd", "config", "--example", cwd=tmp_path)
    assert example == (ROOT / "ops" / "tallyd.example.toml").read_text()


def test_the_installed_package_counts_an_event(installed: Path, system: System) -> None:
    with system.ingest(command=(str(installed / "tallyd"),)) as ingest:
        assert ingest.post(event()).status_code == 202
    environ = {**os.environ, **system.env}
    said(installed / "tallyd", "flush", "--once", cwd=system.scratch, env=environ)
    assert system.rollup("totals") == {"jav:movie:0f8fad5b-d9cb-469f-a165-70867728950e": {"view": 1}}


def test_the_installed_package_serves_the_tracker(installed: Path, system: System) -> None:
    with system.ingest(command=(str(installed / "tallyd"),)) as ingest:
        for path, file in (("/analytics.js", SOURCE), ("/analytics.min.js", BUILT), ("/counts.js", COUNTS)):
            assert ingest.client.get(path).content == (ROOT / "daemon/web" / file).read_bytes()


def test_daemon_is_ours() -> None:
    # PyPI's python-daemon installs a top-level `daemon`, too: whichever came last has overwritten files of the other.
    assert Path(daemon.__file__ or "").is_relative_to(ROOT)
    assert TallydError.__module__ == "daemon.errors"
    assert set(metadata.packages_distributions().get("daemon", ())) <= {"tallyd"}, "uninstall python-daemon"


@pytest.mark.parametrize(
    ("name", "last_bad"),
    [
        ("asyncmy", "0.2.12"),  # CVE-2025-65896
        ("uvloop", "0.22.1"),  # could close a recycled descriptor after a cancelled connect
    ],
)
def test_versions_known_to_be_bad_are_excluded(name: str, last_bad: str) -> None:
    [requirement] = [each for each in map(Requirement, PROJECT["dependencies"]) if each.name == name]
    assert not requirement.specifier.contains(last_bad)
    assert Version(metadata.version(name)) > Version(last_bad)


def test_the_lock_holds_every_requirement() -> None:
    wanted = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for each in map(Requirement, wanted):
        if each.name != "tallyd":  # an extra that names another one
            assert each.specifier.contains(locked[each.name]), f"{each.name}: run `./justw lock`"


def pinned(name: str) -> dict[str, str]:
    """Package → its version, marker and hashes, of a file of requirements."""
    text = re.sub(r" *\\?\n(?: +#.*\n)*(?=    --hash)| *\n +#.*", " ", (ROOT / name).read_text())
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line)


def test_a_server_gets_the_locked_versions_with_their_hashes() -> None:
    locked, constraints = pinned("requirements.lock"), pinned("ops/constraints.txt")
    wanted = {each.name for each in map(Requirement, PROJECT["dependencies"])}
    assert wanted <= constraints.keys(), "run `./justw lock`"
    for name, rest in constraints.items():
        version, *hashes = rest.replace(";", " ;").split()
        assert [word for word in hashes if word.startswith("--hash=")]
        assert version == locked[name].replace(";", " ;").split()[0]
        assert {word for word in hashes if word.startswith("--hash=")} <= set(locked[name].split())


@pytest.mark.parametrize("name", ["requirements.lock", "ops/constraints.txt"])
def test_the_lock_names_no_place(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.findall(r"\w+://.*|^-.*|(?<!\w)/\w+.*", text, re.MULTILINE)
