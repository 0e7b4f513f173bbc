"""tallyd on a bare Debian 12 with a live systemd: from the page's commands to poweroff.

The tests are the life of one machine, in this order. Each begins where the one before ended.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest

from tests.kit.commands import ROOT
from tests.kit.wait import wait_until
from tests.systemd import packages
from tests.systemd.machine import MONGO_ADMIN, Machine

PAGE = (ROOT / "ops" / "install.md").read_text()
TIMEOUT_S = 120.0
EVENT = {"domain": "shop", "entity_type": "article", "occurred_at": None}
TABLE = """
mariadb -e "CREATE DATABASE shop; CREATE TABLE shop.articles (id INT PRIMARY KEY AUTO_INCREMENT,
    slug VARCHAR(64) NOT NULL UNIQUE, views BIGINT NOT NULL DEFAULT 0); INSERT INTO shop.articles (slug) VALUES ('m')"
"""
PIP = "[global]\nno-index = true\nfind-links = /root/wheels\ndisable-pip-version-check = true\n"
"""In place of a package index, which the machine cannot reach."""
CONFIG_BEFORE = """
[redis]
url = "redis://tallyd:PASSWORD@127.0.0.1:6379/0"
[mongo]
url = "mongodb://tallyd:PASSWORD@127.0.0.1:27017/tallyd?replicaSet=rs0"
[mysql]
url = "mysql://tallyd:PASSWORD@127.0.0.1:3306/shop?ssl_ca=/etc/mysql/ca.pem"
[domains.shop]
entity_types = ["article"]
[replica.shop.article]
table = "articles"
key = "slug"
columns = { view = "views" }
[rate_limit]
per_minute = 0
"""
JOBS = ("audit", "parity", "report", "expire", "doctor")


def commands(*headings: str) -> str:
    """What the page says to type under these headings."""
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
    chosen = "".join(sections[heading] for heading in headings)
    return "".join(re.findall(r"^```sh\n(.*?)^```$", chosen, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    seed = folder / "seed"
    packages.build(seed / "root/tallyd")
    packages.dependencies(seed / "root/wheels")
    if before := packages.before(folder / "before"):
        shutil.copytree(before / "ops/systemd", seed / "root/before/systemd")
        for wheel in (before / "dist").glob("*.whl"):
            shutil.copy(wheel, seed / "root/before")
        (seed / "root/before/tallyd.toml").write_text(CONFIG_BEFORE)
    (seed / "etc").mkdir()
    (seed / "etc/pip.conf").write_text(PIP)
    with Machine(seed) as booted:
        yield booted


def views(machine: Machine) -> int:
    return int(machine.do("mariadb -N -e \"SELECT views FROM shop.articles WHERE slug = 'm'\""))


def wait_for_views(machine: Machine, expected: int) -> None:
    wait_until(lambda: views(machine) >= expected, f"{expected} views in MySQL", TIMEOUT_S)
    assert views(machine) == expected


def wait_for_words(machine: Machine, unit: str, pattern: str) -> None:
    wait_until(lambda: re.search(pattern, machine.journal(unit)), f"{unit} says {pattern}", TIMEOUT_S)


def health(machine: Machine) -> dict[str, object]:
    found: dict[str, object] = machine.json("curl --fail --silent http://127.0.0.1:8080/healthz")
    return found


def test_the_commands_of_the_page_install_it(machine: Machine) -> None:
    machine.do(TABLE)
    machine.do(
        commands(
            "Put it on the server",
            "Name the stores and what is counted",
            "Give each store's user its rights",
            "Install",
            "Start",
            "Checks by the clock",
        )
    )
    for unit in ("tallyd-ingest.service", "tallyd-flush.service", "tallyd-audit.timer"):
        assert machine.do(f"systemctl is-active {unit}") == "active\n"
    assert machine.do("stat -c '%a %U %G' /etc/tallyd/credentials/redis.url") == "600 root root\n"
    assert machine.do("ps -o user= -C tallyd | sort -u") == "tallyd\n"
    for service in ("tallyd-ingest.service", "tallyd-flush.service", "tallyd-doctor.service"):
        machine.do(f"systemd-analyze security --threshold=13 {service}")
    for port in (9464, 9465):
        assert "tallyd_build_info" in machine.do(f"curl --fail --silent http://127.0.0.1:{port}/metrics")


def test_a_reload_takes_a_right_file_and_fails_on_a_wrong_one(machine: Machine) -> None:
    run_id = health(machine)["run_id"]
    machine.do("printf '[rate_limit]\\nper_minute = 0\\n[flush]\\ninterval_s = 0.5\\n' >>/etc/tallyd/tallyd.toml")
    machine.do("systemctl reload tallyd-ingest tallyd-flush")
    for unit, key in (("tallyd-ingest", "rate_limit.per_minute"), ("tallyd-flush", "flush.interval_s")):
        wait_for_words(machine, unit, f"Reloaded; changed: .*{key}")
    with machine.load(**EVENT) as load:
        load.wait_for_more()
        machine.do("cp -p /etc/tallyd/tallyd.toml /root/right.toml; sed -i '1i enabled = 7' /etc/tallyd/tallyd.toml")
        for unit, port in (("tallyd-ingest", 9464), ("tallyd-flush", 9465)):
            assert machine.try_(f"systemctl reload {unit}").returncode == 1
            wait_for_words(machine, unit, "(?s)Not reloaded.*enabled: ")
            metrics = machine.do(f"curl --fail --silent http://127.0.0.1:{port}/metrics")
            assert "tallyd_config_reload_ok 0.0" in metrics, "the alert ReloadFailed fires"
        load.wait_for_more()
        machine.do("cp -p /root/right.toml /etc/tallyd/tallyd.toml; systemctl reload tallyd-ingest tallyd-flush")
        load.wait_for_more()
        found = load.stop()
    assert found["failures"] == []
    assert found["acked"] == found["events"]
    assert health(machine)["run_id"] == run_id
    wait_for_views(machine, found["acked"])


def test_a_worker_that_hangs_has_the_daemon_killed_and_started_again(machine: Machine) -> None:
    with machine.changed("tallyd-ingest.service", "[Service]\nWatchdogSec=10\n"):
        machine.do("systemctl restart tallyd-ingest")
        run_id = health(machine)["run_id"]
        restarts = int(machine.show("tallyd-ingest", "NRestarts"))
        main = int(machine.show("tallyd-ingest", "MainPID"))
        assert main > 0
        machine.do(f"kill -STOP $(pgrep -P {main} | tail -1)")
        wait_until(lambda: int(machine.show("tallyd-ingest", "NRestarts")) > restarts, "it is started again", TIMEOUT_S)
        wait_until(lambda: machine.says("systemctl is-active tallyd-ingest") == "active", "it is ready", TIMEOUT_S)
        assert health(machine)["run_id"] != run_id
        wait_for_words(machine, "tallyd-ingest", "Watchdog timeout")
    machine.do("systemctl restart tallyd-ingest")


def test_a_daemon_that_cannot_start_pauses_and_one_with_a_wrong_file_stays_down(machine: Machine) -> None:
    with machine.changed("tallyd-flush.service", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit 2'\n"):
        assert machine.try_("systemctl restart tallyd-flush").returncode == 1
        assert machine.show("tallyd-flush", "ActiveState") == "failed"
    with machine.changed("tallyd-flush.service", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit 1'\n"):
        machine.do("systemctl restart --no-block tallyd-flush")
        wait_until(lambda: machine.show("tallyd-flush", "SubState") == "stop-post", "it pauses", TIMEOUT_S)
        machine.do("systemctl kill --signal=KILL tallyd-flush")
    machine.do("systemctl restart tallyd-flush")


def test_a_restart_under_load_fails_no_request(machine: Machine) -> None:
    before = views(machine)
    with machine.load(**EVENT) as load:
        load.wait_for_more()
        machine.do("systemctl restart tallyd-ingest")
        load.wait_for_more()
        machine.do("systemctl restart tallyd.target")
        load.wait_for_more()
        found = load.stop()
    assert found["failures"] == []
    wait_for_views(machine, before + found["acked"])


def test_each_job_keeps_its_result_and_fails_its_unit(machine: Machine) -> None:
    for job in JOBS:
        machine.do(f"systemctl start tallyd-{job}.service")
    assert machine.try_("systemctl start tallyd-shadow-compare.service").returncode == 1, "no table has a shadow"
    assert machine.do("ls /var/lib/tallyd/reports")
    machine.do("mariadb -e \"INSERT INTO shop.articles (slug, views) VALUES ('nobody counted it', 5)\"")
    assert machine.try_("systemctl start tallyd-parity.service").returncode == 1
    assert machine.show("tallyd-parity.service", "ActiveState") == "failed"
    kept = {job["job"]: job["ok"] for job in machine.json("tallyd status --json")["jobs"]}
    assert kept == {"audit": True, "parity-check": False, "report": True, "expire": True, "doctor": True}
    machine.do("mariadb -e \"DELETE FROM shop.articles WHERE slug <> 'm'\"; systemctl start tallyd-parity.service")
    machine.do("systemctl reset-failed")


def test_a_timer_fires(machine: Machine) -> None:
    before = machine.show("tallyd-audit.service", "InvocationID")
    soon = "[Timer]\nOnCalendar=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
    with machine.changed("tallyd-audit.timer", soon):
        machine.do("systemctl restart tallyd-audit.timer")
        wait_until(lambda: machine.show("tallyd-audit.service", "InvocationID") != before, "it fires", TIMEOUT_S)
        wait_until(lambda: machine.show("tallyd-audit.service", "ActiveState") == "inactive", "it has run", TIMEOUT_S)
        assert machine.show("tallyd-audit.service", "Result") == "success"


def test_an_upgrade_under_load_fails_no_request(machine: Machine) -> None:
    if machine.try_("ls before").returncode:
        pytest.skip("This clone has no history, and so no version before this one: git fetch --unshallow")
    machine.do("cp -a /opt/tallyd /root/environment")
    machine.do(commands("Take it off"))
    assert machine.do("systemctl list-unit-files 'tallyd*' --no-legend || true") == ""
    machine.do("redis-cli FLUSHALL; mariadb -e 'UPDATE shop.articles SET views = 0'")
    machine.python(f"import pymongo; pymongo.MongoClient({MONGO_ADMIN!r}).drop_database('tallyd')")
    machine.do(
        """
        mv /root/environment /opt/tallyd
        /opt/tallyd/bin/pip install --quiet --force-reinstall --no-deps before/tallyd-*.whl
        install -m 0640 -g tallyd before/tallyd.toml /etc/tallyd/tallyd.toml
        install -m 0644 before/systemd/*.service before/systemd/*.socket before/systemd/*.target /etc/systemd/system/
        systemctl daemon-reload
        systemctl enable tallyd-ingest.service tallyd-flush.service tallyd.target
        systemctl enable --now tallyd-ingest.socket
        systemctl start tallyd.target
        ln -s /opt/tallyd/bin/tallyd /usr/local/bin/tallyd
        """
    )
    old = health(machine)["version"]
    with machine.load(**EVENT) as load:
        load.wait_for_more()
        machine.do(commands("Upgrade"))
        load.wait_for_more()
        found = load.stop()
    assert found["failures"] == []
    assert f"tallyd {health(machine)['version']}\n" == machine.do("tallyd --version") != f"tallyd {old}\n"
    assert machine.do("ls /etc/systemd/system/tallyd-.service.d")
    wait_for_views(machine, found["acked"])
    machine.do("tallyd audit")


def test_poweroff_stops_all_in_order(machine: Machine) -> None:
    machine.try_("systemctl poweroff")  # the shell itself may not come to its end
    wait_until(lambda: not machine.running, "it is off", TIMEOUT_S)
    for unit in ("tallyd-ingest", "tallyd-flush"):
        end = machine.journal(unit).rpartition("Stopping ")[2]
        assert f"{unit}.service: Deactivated successfully." in end
        assert "Traceback" not in end
