"""docker-compose.yml and the Dockerfile, as far as they can be checked without a container engine."""

from __future__ import annotations

import importlib.resources
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def specification() -> jsonschema.protocols.Validator:
    """Returns a validator of the Compose specification, as check-jsonschema ships it."""
    schema = importlib.resources.files("check_jsonschema.builtin_schemas") / "vendor" / "compose-spec.json"
    document = json.loads(schema.read_text())
    return jsonschema.validators.validator_for(document)(document)


def words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else command


FILES = sorted(ROOT.glob("docker-compose*.yml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_follows_the_compose_specification(path: Path, specification: Any) -> None:
    assert [error.message for error in specification.iter_errors(yaml.safe_load(path.read_text()))] == []


def test_every_image_of_others_is_pinned_by_its_digest(compose: Any) -> None:
    images = [service["image"] for service in compose["services"].values() if service["image"] != "yt8m-ray"]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)

    assert len(images) == 3
    assert [image for image in images if not re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image)] == []


def test_with_gpus_the_head_has_all_and_nobody_else_has_any(compose: Any) -> None:
    gpus = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())

    (device,) = gpus["services"].pop("head")["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert gpus == {"services": {}}  # two containers would each count the same ones
    assert "head" in compose["services"]


@pytest.mark.parametrize(("arguments", "files"), [([], 1), (["GPU=1"], 2)])
@pytest.mark.parametrize("target", ["up", "image", "down"])
def test_make_names_the_files_of_the_machine(arguments: list[str], files: int, target: str) -> None:
    printed = subprocess.run(
        ["make", "--dry-run", target, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (command,) = [line for line in printed.splitlines() if line.startswith("docker compose")]

    assert [ROOT / word for word in words(command) if word.endswith(".yml")] == [
        ROOT / "docker-compose.yml",
        ROOT / "docker-compose.gpu.yml",
    ][:files]


def test_an_index_of_wheels_reaches_the_build_and_stands_in_no_file(compose: Any) -> None:
    arguments = compose["services"]["head"]["build"]["args"]
    stage, install = DOCKERFILE.split("pip install", 1)

    assert arguments["PIP_EXTRA_INDEX_URL"] == "${PIP_EXTRA_INDEX_URL:-}"
    assert {f"ARG {name}" for name in arguments} <= {line.partition("=")[0] for line in stage.splitlines()}
    assert stage.endswith('PIP_EXTRA_INDEX_URL="$PIP_EXTRA_INDEX_URL" ') and install


def test_the_specification_refuses_an_unknown_key(compose: Any, specification: Any) -> None:
    services = {**compose["services"], "mlflow": {"prots": []}}

    assert not specification.is_valid({**compose, "services": services})


def test_every_published_port_is_bound_to_the_loopback_address(compose: Any) -> None:
    published = [str(port) for service in compose["services"].values() for port in service.get("ports", [])]

    assert published
    assert [port for port in published if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []
    assert not any(service.get("network_mode") for service in compose["services"].values())


def test_every_container_of_ray_uses_the_token(compose: Any) -> None:
    for name in ("head", "worker", "deploy"):
        service = compose["services"][name]
        assert service["environment"]["RAY_AUTH_MODE"] == "token", name
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token", name
        assert service["secrets"] == ["ray_token"], name


def test_the_model_that_is_served_lies_in_a_volume_of_every_node(compose: Any) -> None:
    for name in ("head", "worker"):
        service = compose["services"][name]
        assert service["environment"]["YT8M_MODEL"].startswith("${YT8M_MODEL:-runs/"), name
        assert "./runs:/app/runs" in service["volumes"], name


def test_the_token_is_made_by_make_and_reaches_neither_git_nor_the_image(compose: Any) -> None:
    token = compose["secrets"]["ray_token"]["file"].removeprefix("./")

    assert f"\n{token}:" in (ROOT / "Makefile").read_text()
    assert f"{Path(token).parent}/" in (ROOT / ".gitignore").read_text().splitlines()
    assert f"/{Path(token).parent}" not in entering_the_image()


def entering_the_image() -> list[str]:
    """Returns what .dockerignore lets in: it refuses everything first, then names what is wanted."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_the_image_gets_what_its_containers_run_and_nothing_that_does_not_exist() -> None:
    entering = entering_the_image()

    assert {"/yt8m_ray", "/jobs", "/serve", "/configs", "/pyproject.toml", "/constraints.txt"} <= set(entering)
    assert [path for path in entering if not (ROOT / path.removeprefix("/")).exists()] == []


def test_nobody_waits_for_a_health_check_that_does_not_exist(compose: Any) -> None:
    for service in compose["services"].values():
        for awaited, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in compose["services"][awaited]


def test_whatever_ends_is_started_again(compose: Any) -> None:
    assert {name: service["restart"] for name, service in compose["services"].items()} == dict.fromkeys(
        ("head", "worker", "mlflow", "prometheus", "grafana", "deploy"), "unless-stopped"
    )


def test_workers_can_be_scaled(compose: Any) -> None:
    worker = compose["services"]["worker"]

    assert "ports" not in worker  # a second worker could not publish the same port
    assert "container_name" not in worker


def test_every_variable_of_the_host_has_a_default() -> None:
    code = re.sub(r"#.*", "", (ROOT / "docker-compose.yml").read_text())

    variables = re.findall(r"\$\{[^}]*\}", code)

    assert variables
    assert [variable for variable in variables if ":-" not in variable] == []


def test_the_ports_of_commands_checks_and_addresses_agree(compose: Any) -> None:
    head, worker, mlflow, deploy = (compose["services"][name] for name in ("head", "worker", "mlflow", "deploy"))

    assert "--port=6379" in words(head["command"])
    assert "--address=head:6379" in words(worker["command"])
    assert "--dashboard-port=8265" in words(head["command"])
    assert "http://127.0.0.1:8265/" in head["healthcheck"]["test"][-1]
    assert "--address http://head:8265" in deploy["command"][-1]
    assert "http://head:8000/healthz" in deploy["healthcheck"]["test"][-1]
    assert "--port 5000" in mlflow["command"]
    assert "http://127.0.0.1:5000/" in mlflow["healthcheck"]["test"][-1]


def test_the_service_listens_beyond_loopback_inside_its_container_and_differs_in_nothing_else(
    compose: Any, tmp_path: Path
) -> None:
    prepare, deploy = compose["services"]["deploy"]["command"][-1].split(" && exec ")
    deployed = tmp_path / "config.yaml"
    subprocess.run(["sh", "-c", prepare.replace("/tmp/config.yaml", str(deployed))], cwd=ROOT, check=True)
    on_a_host = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())

    in_a_container = yaml.safe_load(deployed.read_text())

    assert deploy.endswith("/tmp/config.yaml")
    assert in_a_container["http_options"].pop("host") == "0.0.0.0"
    assert on_a_host["http_options"].pop("host") == "127.0.0.1"
    assert in_a_container == on_a_host


def test_the_image_is_built_from_files_that_exist() -> None:
    sources = [word for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    files = [source for source in sources if not source.startswith("--")]

    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_image_installs_under_the_constraints_and_does_not_run_as_root() -> None:
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.M)

    assert installs
    assert all("-c /tmp/install/constraints.txt" in line for line in installs)
    assert users
    assert users[-1] not in ("root", "0")


def test_the_requirements_of_the_image_are_those_of_the_package(tmp_path: Path) -> None:
    (command,) = re.findall(r'python -c "(import tomllib.*)"', DOCKERFILE)
    code = command.replace("/tmp/install", str(ROOT))

    printed = subprocess.run(["python3", "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()

    assert any(line.startswith("ray[") for line in printed)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?[<>=!~].*", line) for line in printed)


def test_prometheus_reads_the_service_and_every_node_of_ray_where_they_listen(compose: Any) -> None:
    document = yaml.safe_load((ROOT / "serve" / "monitoring" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in document["scrape_configs"]}

    # By its address: the service answers to no other name than args.allowed_hosts.
    assert jobs["yt8m"]["dns_sd_configs"] == [{"names": ["head"], "type": "A", "port": 8000}]
    assert jobs["yt8m"]["metrics_path"] == "/metrics"
    assert any(port.endswith(":8000") for port in compose["services"]["head"]["ports"])
    assert jobs["ray"]["static_configs"] == [{"targets": ["head:8080"]}]
    assert jobs["ray"]["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": 8080}]
    for name in ("head", "worker"):
        assert "--metrics-export-port=8080" in words(compose["services"][name]["command"])


def test_what_is_mounted_for_monitoring_exists_and_cannot_be_changed(compose: Any) -> None:
    for name in ("prometheus", "grafana"):
        mounts = [volume for volume in compose["services"][name]["volumes"] if volume.startswith("./")]
        assert mounts
        for mount in mounts:
            source, _, mode = mount.split(":")
            assert (ROOT / source).is_file() and mode == "ro", mount


def test_grafana_finds_its_source_and_its_dashboard_and_has_no_account(compose: Any) -> None:
    folder = ROOT / "serve" / "monitoring"
    grafana = compose["services"]["grafana"]
    (source,) = yaml.safe_load((folder / "grafana_datasource.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "grafana_dashboards.yml").read_text())["providers"]
    panels = json.loads((folder / "dashboard.json").read_text())["panels"]

    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent.as_posix() == provider["options"]["path"]
    assert any(volume.split(":")[1] == home for volume in grafana["volumes"])
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["environment"]["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
