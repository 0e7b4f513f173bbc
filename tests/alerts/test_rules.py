"""The rules of ops/prometheus by themselves: promtool feeds them series, and says which alert fires when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kit.commands import ROOT, run

PROMETHEUS = ROOT / "ops/prometheus"
RUNBOOK = ROOT / "ops/runbook.md"


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]:
        yield from (rule for rule in group["rules"] if "alert" in rule)


def names() -> list[str]:
    return sorted({rule["alert"] for rule in rules()})


def test_promtool_finds_no_mistake() -> None:
    done = run(["promtool", "check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    done = run(["promtool", "test", "rules", PROMETHEUS / "alerts_test.yml"])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", names())
def test_a_test_sees_the_alert_fire_and_another_one_sees_it_quiet(alert: str) -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["promql_expr_test"] if f'"{alert}"' in check["expr"]]
    assert {bool(check["exp_samples"]) for check in checks} == {True, False}


def test_an_alert_says_how_urgent_it_is_and_where_its_page_is() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, rule
        assert rule["annotations"]["runbook_url"] == f"ops/runbook.md#{rule['alert'].lower()}"


def test_the_runbook_has_a_section_of_each_alert_and_of_no_other() -> None:
    sections = re.findall(r"^### (\w+)\n\n\*\*(Page|Ticket)\.\*\*", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted({(rule["alert"], rule["labels"]["severity"].title()) for rule in rules()})


def test_alerts_and_dashboards_ask_for_nothing_that_no_daemon_tells() -> None:
    asked = "".join(path.read_text() for path in (PROMETHEUS / "alerts.yml", *(ROOT / "ops/grafana").glob("*.json")))
    told = set(re.findall(r"^\| `(tallyd_\w+)`", (ROOT / "ops/metrics.md").read_text(), re.MULTILINE))
    names = {re.sub("_bucket$", "", name) for name in re.findall(r"\btallyd_\w+", asked)}
    assert names - told == set()
