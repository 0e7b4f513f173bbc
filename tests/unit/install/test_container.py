"""The image and its compose file, as far as no engine allows: what they name exists, and fits tallyd's own limits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from daemon.cli import application
from daemon.config import Config, load
from daemon.ingest.app import SUPERVISOR_PATHS
from tests.kit.commands import ROOT

FOLDER = ROOT / "ops/container"
DOCKERFILE = re.sub(r"\\\n\s*", "", (FOLDER / "Dockerfile").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("ingest", "flush")
COMMANDS: Any = get_command(application())


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction, in order."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def asked(command: str) -> tuple[int, str]:
    """Port and path that a health check asks."""
    [(port, path)] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", command)
    return int(port), path


def test_the_image_runs_tallyd_as_a_user_without_rights() -> None:
    assert instructions("ENTRYPOINT") == ['["tallyd"]']
    assert json.loads(instructions("CMD")[-1])[0] in COMMANDS.commands
    [user] = instructions("USER")
    assert int(user) > 0
    assert f"--uid {user} " in instructions("RUN")[-1]


def test_the_image_installs_what_just_wheel_builds() -> None:
    recipe = (ROOT / "Justfile").read_text().partition("\nwheel: ")[2].partition("\n\n")[0]
    [path] = re.findall(r"--requirement /dist/(\S+)", " ".join(instructions("RUN")))
    assert f">dist/{path}" in recipe
    assert instructions("COPY")[0] == ". /dist"


def test_its_variables_are_keys_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = dict(re.findall(r"(TALLYD_\w+)=(\S+)", "".join(instructions("ENV"))))
    assert environ
    config = load(environ=environ)
    assert [config.spool.dir] == re.findall(r"(\S+/spool)$", instructions("RUN")[-1])
    assert Path(config.spool.dir).is_relative_to(instructions("VOLUME")[0])


def test_the_health_checks_ask_the_ports_and_paths_that_there_are() -> None:
    config = Config()
    assert asked(instructions("HEALTHCHECK")[0]) == (config.http.port, "/livez")
    assert asked(SERVICES["flush"]["healthcheck"]["test"][-1]) == (config.flush.metrics_port, "/livez")
    assert "/livez" in SUPERVISOR_PATHS
    assert instructions("EXPOSE") == [str(config.http.port)]
    assert SERVICES["ingest"]["ports"] == [f"127.0.0.1:{config.http.port}:{config.http.port}"]


@pytest.mark.parametrize("name", OURS)
def test_a_daemon_of_the_compose_file_has_no_rights_and_writes_to_its_volume_only(name: str) -> None:
    service = SERVICES[name]
    assert service["command"] == [name]
    assert name in COMMANDS.commands
    assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    assert "no-new-privileges:true" in service["security_opt"]
    config = Config()
    most_s = {
        "ingest": config.http.closing_ms / 1000 + 0.8 + config.http.drain_timeout_s,
        "flush": config.flush.stop_timeout_s + 4,
    }
    assert int(service["stop_grace_period"].removesuffix("s")) > most_s[name]


@pytest.mark.parametrize("name", OURS)
def test_a_daemon_finds_its_configuration_and_its_secrets(name: str, tmp_path: Path) -> None:
    service, variables = SERVICES[name], dict(SERVICES[name]["environment"])
    mounted = dict(each.split(":")[1::-1] for each in service["volumes"])
    file = FOLDER / mounted[variables["TALLYD_CONFIG"]]
    assert Path(instructions("VOLUME")[0]) == Path(next(at for at, of in mounted.items() if of in COMPOSE["volumes"]))
    for secret in service["secrets"]:
        assert secret in COMPOSE["secrets"]
        [variable] = [name for name, path in variables.items() if path == f"/run/secrets/{secret}"]
        told = re.findall(rf"^#   {re.escape(secret)} +(\S+)$", (FOLDER / "compose.yaml").read_text(), re.MULTILINE)
        (tmp_path / secret).write_text(told[0])
        variables[variable] = str(tmp_path / secret)
    config = load(file, environ={name: text for name, text in variables.items() if name.endswith("_FILE")})
    assert config.domains.keys() == {"shop"}
    hosts = {re.split("[:/]+", url)[1] for url in (config.redis.url, config.mongo.url)}
    assert hosts <= SERVICES.keys()
    assert hosts == service["depends_on"].keys()
    assert all("healthcheck" in SERVICES[host] for host in hosts)


def test_redis_is_configured_as_the_doctor_wants_it() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
