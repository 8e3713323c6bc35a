"""What the compose files say, without an engine: Docker Compose itself reads them."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import DEFAULT_API_KEY, Settings, SettingsError
from serve.settings import Settings as ServeSettings
from tests.deploy.engine import CPU_FILES, GPU_FILES, ROOT, configuration, plain_environment, program

OURS = ("export", "triton", "gateway")
MONITORING = ("prometheus", "grafana")


def services(*files: str, **environment: str) -> dict[str, Any]:
    found = configuration(*files, **environment)["services"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("key", [None, ""], ids=["not set", "empty"])
def test_without_a_key_nothing_starts_and_a_sentence_says_why(key: str | None) -> None:
    env = plain_environment() | ({} if key is None else {"MY_API_KEY": key})
    command = [program("docker-compose"), "--env-file=/dev/null", "config", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert "MY_API_KEY is missing a value: it is the key that clients send" in done.stderr


def test_triton_gets_a_gpu_whose_memory_decides_how_many_slots_and_without_one_needs_none() -> None:
    reserved = services(*GPU_FILES)["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"capabilities": ["gpu"], "driver": "nvidia", "count": 1}]
    assert services(*GPU_FILES)["triton"]["environment"]["TIDEGATE_SLOTS"] == ""  # as the export says: auto
    assert "devices" not in services(*CPU_FILES)["triton"]["deploy"]["resources"].get("reservations", {})


def test_precision_fits_the_device() -> None:
    assert [services(*files)["export"]["environment"]["PRECISION"] for files in (GPU_FILES, CPU_FILES)] == ["fp16", "auto"]
    assert services(*CPU_FILES, PRECISION="int4")["export"]["environment"]["PRECISION"] == "int4"


def test_images_of_the_gpu_and_the_cpu_have_their_own_names_and_onnx_runtimes() -> None:
    gpu, cpu = (services(*files)["triton"] for files in (GPU_FILES, CPU_FILES))
    assert (gpu["build"]["args"]["ONNXRUNTIME"], cpu["build"]["args"]["ONNXRUNTIME"]) == ("triton-gpu", "triton")
    assert gpu["image"] != cpu["image"]


@pytest.mark.parametrize(
    ("environment", "target"),
    [
        ({}, "export"),
        ({"MODEL_CHECKPOINT": "log/model_40000.pt"}, "export-torch"),
        ({"MODEL_CHECKPOINT": "model.gguf", "EXPORT_TARGET": "export"}, "export"),
    ],
)
def test_torch_is_built_in_for_a_checkpoint_of_ones_own(environment: dict[str, str], target: str) -> None:
    export = services(*GPU_FILES, **environment)["export"]
    assert export["build"]["target"] == target
    assert export["image"].split(":")[0] == f"tidegate-{target}"


@pytest.mark.parametrize(("delay", "grace"), [(0, 25), (7, 90)])
def test_the_stop_grace_covers_the_gateways_own(delay: int, grace: int) -> None:
    told = services(*GPU_FILES, DRAIN_DELAY=str(delay), GRACE_PERIOD=str(grace))["gateway"]["stop_grace_period"]
    duration = re.fullmatch(r"(?:(\d+)m)?(\d+)s", told)
    assert duration
    minutes, seconds = duration.groups(default="0")
    assert int(minutes) * 60 + int(seconds) >= Settings(drain_delay=delay, grace_period=grace).longest_stop


def test_the_gateway_and_the_export_know_every_variable_that_they_are_given() -> None:
    given = services(*GPU_FILES)
    known = {field.name.upper() for field in fields(Settings)}
    assert given["gateway"]["environment"].keys() <= known
    assert given["export"]["environment"].keys() <= known | {"MODEL_CHECKPOINT"} | {
        field.name.upper() for field in fields(ServeSettings)
    }


def test_the_settings_that_are_given_are_good_ones() -> None:
    Settings.from_environment(services(*GPU_FILES)["gateway"]["environment"])


def test_only_the_gateway_is_published_to_other_machines() -> None:
    """Prometheus and Grafana ask nobody for a password, so they listen on the loopback address."""
    published = {
        name: {port.get("host_ip") for port in service.get("ports", [])} for name, service in services(*GPU_FILES).items()
    }
    expected = {"gateway": {"0.0.0.0"}} | {name: {"127.0.0.1"} for name in MONITORING}
    assert {name: addresses for name, addresses in published.items() if addresses} == expected


def test_every_service_is_confined_and_bounded() -> None:
    for name, service in services(*GPU_FILES).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name
        assert service["logging"]["options"]["max-size"], name
        assert "privileged" not in service and "cap_add" not in service, name


def test_services_start_in_order_and_again_when_they_end() -> None:
    found = services(*GPU_FILES)
    conditions = {
        name: {needed: told["condition"] for needed, told in found[name].get("depends_on", {}).items()} for name in OURS
    }
    assert conditions == {
        "export": {},
        "triton": {"export": "service_completed_successfully"},
        "gateway": {"triton": "service_healthy"},
    }
    policies = {name: service["restart"] for name, service in found.items()}
    assert policies == dict.fromkeys(found, "unless-stopped") | {"export": "no"}


def test_monitoring_is_a_profile_and_every_file_that_it_mounts_is_there() -> None:
    found = services(*GPU_FILES)
    assert {name for name, service in found.items() if service.get("profiles") == ["monitoring"]} == set(MONITORING)
    mounts = [mount for name in MONITORING for mount in found[name]["volumes"] if mount["type"] == "bind"]
    assert mounts and all(mount["read_only"] for mount in mounts)
    assert [mount["source"] for mount in mounts if not Path(mount["source"]).exists()] == []


def test_every_image_has_a_version() -> None:
    for name, service in services(*GPU_FILES).items():
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"]), name


def test_a_container_of_the_gateway_refuses_the_public_key_unless_that_is_allowed() -> None:
    image = re.search(r"^ENV (.+?[^\\])$", (ROOT / "docker" / "gateway.Dockerfile").read_text().split("FROM")[-1], re.M | re.S)
    assert image is not None
    environment = dict(re.findall(r"(\w+)=(\S+)", image[1]))
    for given in ({}, {"MY_API_KEY": DEFAULT_API_KEY}):
        with pytest.raises(SettingsError, match="which everyone knows, and ALLOW_DEFAULT_KEY is 'off'"):
            Settings.from_environment(environment | given)
    for composed in (services(*GPU_FILES, MY_API_KEY=DEFAULT_API_KEY), services(*CPU_FILES, MY_API_KEY=DEFAULT_API_KEY)):
        with pytest.raises(SettingsError, match="everyone knows"):
            Settings.from_environment(environment | composed["gateway"]["environment"])
    allowed = services(*GPU_FILES, MY_API_KEY=DEFAULT_API_KEY, ALLOW_DEFAULT_KEY="on")["gateway"]["environment"]
    assert Settings.from_environment(environment | allowed).my_api_key == DEFAULT_API_KEY
