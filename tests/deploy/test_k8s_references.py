"""What the manifests say of each other and of the code is true: names, ports, selectors, settings, images, times."""

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from gateway.http.body import MAXIMUM_BODY
from gateway.http.streaming import HEARTBEAT
from gateway.settings import Settings
from serve.settings import Settings as ServeSettings
from tests.conftest import ROOT
from tests.deploy.manifests import (
    BUILDS,
    K8S,
    container,
    containers,
    environment,
    kubectl,
    named,
    of_kind,
    pod_labels,
    pod_spec,
    ports,
    probes,
    selects,
    workloads,
)

GUIDE = ROOT / "docs" / "deploy-kubernetes.md"
BY_HAND = {"tidegate-keys", "gateway-tls", "models-bucket"}  # Secrets that people make, as the guide tells
GATEWAY_SETTINGS = {field.name.upper() for field in fields(Settings)} | {"MY_API_KEY_FILE"}
COMPOSE = ROOT / "docker-compose.yml"
BESIDE = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "triton"}}}
BESIDE_TRITON = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [BESIDE]}}
TARGET = "${EXPORT_TARGET:-export${MODEL_CHECKPOINT:+-torch}}"

every_build = pytest.mark.parametrize("build", BUILDS)


@every_build
def test_services_autoscalers_and_budgets_select_pods_that_there_are(build: str) -> None:
    deployments = of_kind(build, "Deployment")
    for service in of_kind(build, "Service"):
        (target,) = [one for one in deployments if selects({"matchLabels": service["spec"]["selector"]}, pod_labels(one))]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports(target), port
    for budget in of_kind(build, "PodDisruptionBudget"):
        assert any(selects(budget["spec"]["selector"], pod_labels(one)) for one in deployments)
    for scaler in of_kind(build, "HorizontalPodAutoscaler"):
        scaled = named(build, scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in scaled["spec"], "applying it again would undo what the autoscaler has done"


@every_build
def test_deployments_select_and_spread_their_own_pods(build: str) -> None:
    for deployment in of_kind(build, "Deployment"):
        selectors = [deployment["spec"]["selector"]]
        selectors += [spread["labelSelector"] for spread in pod_spec(deployment)["topologySpreadConstraints"]]
        for selector in selectors:
            matching = [one["metadata"]["name"] for one in workloads(build) if selects(selector, pod_labels(one))]
            assert matching == [deployment["metadata"]["name"]]


@every_build
def test_everything_is_in_the_one_namespace(build: str) -> None:
    (namespace,) = of_kind(build, "Namespace")
    others = [one for one in of_kind(build, *ALL_KINDS) if one["metadata"].get("namespace") != namespace["metadata"]["name"]]
    assert not others


ALL_KINDS = (
    *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "Job", "NetworkPolicy", "PersistentVolumeClaim"),
    *("PodDisruptionBudget", "Service", "ServiceMonitor"),
)


@every_build
def test_volumes_mounts_and_sources_of_settings_exist(build: str) -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in of_kind(build, *ALL_KINDS)}
    guide = GUIDE.read_text()
    for workload in workloads(build):
        volumes = {volume["name"]: volume for volume in pod_spec(workload).get("volumes", [])}
        used = {mount["name"] for one in containers(workload) for mount in one.get("volumeMounts", [])}
        assert used == set(volumes)
        wanted = [("PersistentVolumeClaim", claim["claimName"]) for claim in _each(volumes, "persistentVolumeClaim")]
        wanted += [("ConfigMap", source["name"]) for source in _each(volumes, "configMap")]
        secrets = [source["secretName"] for source in _each(volumes, "secret")]
        for source in [source for one in containers(workload) for source in one.get("envFrom", [])]:
            if "configMapRef" in source:
                wanted.append(("ConfigMap", source["configMapRef"]["name"]))
            else:
                secrets.append(source["secretRef"]["name"])
        assert not set(wanted) - there
        assert set(secrets) <= BY_HAND and all(f"`{secret}`" in guide for secret in secrets)


def _each(volumes: dict[str, dict[str, dict[str, str]]], kind: str) -> list[dict[str, str]]:
    return [volume[kind] for volume in volumes.values() if kind in volume]


@every_build
def test_every_variable_is_a_setting_and_its_value_is_taken(build: str) -> None:
    given = environment(build, container(build, "Deployment", "gateway"))
    assert set(given) <= GATEWAY_SETTINGS
    Settings.from_environment({name: value for name, value in given.items() if not name.endswith("_FILE")})
    ours = {name for name in environment(build, container(build, "Deployment", "triton")) if not name.startswith("NVIDIA_")}
    backend = "".join(path.read_text() for path in (ROOT / "backends").rglob("*.py"))
    assert ours and all(f'environ.get("{name}")' in backend for name in ours)
    for job in of_kind(build, "Job"):
        given = environment(build, containers(job)[0])
        known = {field.name for field in fields(ServeSettings)} | {"model_checkpoint", "model_name"}
        assert {name.lower() for name in given} <= known
        ServeSettings.from_environment({name: given[name] for name in ("PRECISION", "MODEL_NAME")})


@every_build
def test_the_exported_model_is_the_gateways_default_and_any_other_where_nothing_is_exported(build: str) -> None:
    default = _gateway_settings(build).model_name
    exported = [environment(build, containers(job)[0])["MODEL_NAME"] for job in of_kind(build, "Job")]
    assert exported == ([default] if default else [])


@every_build
def test_pods_that_share_a_volume_of_one_node_are_on_that_node(build: str) -> None:
    """Nothing else keeps them there: such a pod on another node waits for ever, and so does a roll-out that waits for it."""
    pods = {one["metadata"]["name"]: pod_spec(one) for one in workloads(build) if one["metadata"]["name"] != "gateway"}
    claims = [one for one in of_kind(build, "PersistentVolumeClaim") if one["metadata"]["name"] == "models"]
    of_one_node = [claim["spec"]["accessModes"] for claim in claims] == [["ReadWriteOnce"]]
    for name, spec in pods.items():
        assert (spec.get("affinity") == BESIDE_TRITON) == of_one_node, name
        assert spec.get("tolerations") == pods["triton"].get("tolerations"), name
    assert named(build, "Deployment", "triton")["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_the_pod_that_takes_a_checkpoint_in_is_beside_triton_wherever_that_is() -> None:
    """Its volume comes into being there, and not in a zone that the export cannot reach with the other volume."""
    loader = yaml.safe_load((K8S / "components" / "own-checkpoint" / "loader.yaml").read_text())
    assert loader["spec"]["affinity"] == BESIDE_TRITON
    assert loader["spec"]["tolerations"] == pod_spec(named("gpu", "Deployment", "triton"))["tolerations"]


@pytest.mark.parametrize("registry", ["", "registry.example/"])
def test_a_checkpoint_of_ones_own_is_exported_by_the_image_with_torch(tmp_path: Path, registry: str) -> None:
    """Whatever registry the overlay below names, and in the one that the overlay itself names."""
    shutil.copytree(K8S, tmp_path / "k8s")
    below = tmp_path / "k8s" / "overlays" / "cpu" / "kustomization.yaml"
    below.write_text(below.read_text().replace("newTag: 0.1.0\n", "newTag: 0.1.0\n    newName: elsewhere.example/export\n"))
    mine = {"resources": ["../k8s/overlays/cpu"], "components": ["../k8s/components/own-checkpoint"], "images": []}
    if registry:
        mine["images"] = [{"name": "tidegate-export-torch", "newName": f"{registry}tidegate-export-torch"}]  # type: ignore[list-item]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    done = subprocess.run([kubectl(), "kustomize", tmp_path / "mine"], capture_output=True, text=True, timeout=60, check=True)
    (job,) = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "Job"]
    assert [one["image"] for one in containers(job)] == [f"{registry}tidegate-export-torch:0.1.0"]


@every_build
def test_gateways_ask_the_headless_service_of_triton(build: str) -> None:
    service = named(build, "Service", "triton")
    host, port = environment(build, container(build, "Deployment", "gateway"))["TRITON_URL"].split(":")
    assert host == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert int(port) == {one["name"]: one["port"] for one in service["spec"]["ports"]}["grpc"]
    # A headless name leads to the pods themselves: the port must be theirs.
    assert int(port) == ports(named(build, "Deployment", "triton"))["grpc"]


@every_build
def test_ports_are_those_that_the_programs_listen_on(build: str) -> None:
    deployment = named(build, "Deployment", "gateway")
    assert ports(deployment)["http"] == int(environment(build, container(build, "Deployment", "gateway"))["PORT"])
    triton = (ROOT / "docker" / "run.py").read_text()
    told = {name: int(port) for name, port in re.findall(r'"--(grpc|metrics)-port=(\d+)"', triton)}
    assert told == ports(named(build, "Deployment", "triton"))


@every_build
def test_images_are_those_of_the_compose_files(build: str) -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    cpu = re.findall(r"image: (\S+)", (ROOT / "docker-compose.cpu.yml").read_text())
    targets = re.findall(r" AS (export\S*)", (ROOT / "docker" / "export.Dockerfile").read_text())
    export = {services["export"]["image"].replace(TARGET, target) for target in targets if not target.endswith("er")}
    gateway, triton = services["gateway"]["image"], services["triton"]["image"]
    of_triton = {triton} if build in ("gpu", "production") else set(cpu)
    assert {one["image"] for one in containers(named(build, "Deployment", "gateway"))} == {gateway}
    of_others = {"rclone/rclone:1.75.2"} if build == "cpu+repository-s3" else set()
    assert {one["image"] for one in containers(named(build, "Deployment", "triton"))} - of_others == of_triton
    for job in of_kind(build, "Job"):
        assert {one["image"] for one in containers(job)} <= export


def test_the_shared_memory_is_that_of_the_compose_file() -> None:
    (memory,) = [
        volume for volume in pod_spec(named("gpu", "Deployment", "triton"))["volumes"] if volume["name"] == "shared-memory"
    ]
    size = yaml.safe_load(COMPOSE.read_text())["services"]["triton"]["shm_size"]
    assert memory["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{size[:-1]}Gi"}
    (mount,) = [one for one in container("gpu", "Deployment", "triton")["volumeMounts"] if one["name"] == "shared-memory"]
    assert mount["mountPath"] == "/dev/shm"


@every_build
def test_files_that_containers_run_or_mount_over_are_where_the_images_have_them(build: str) -> None:
    triton = (ROOT / "docker" / "triton.Dockerfile").read_text()
    for _, probe in probes(container(build, "Deployment", "triton")):
        assert probe["exec"]["command"] == ["python", "/opt/tidegate/step.py"]
    assert "docker/step.py /opt/tidegate/" in triton
    for job in of_kind(build, "Job"):
        assert "/opt/tidegate/model_repository" in {mount["mountPath"] for mount in containers(job)[0]["volumeMounts"]}
    (mount,) = [one for one in container(build, "Deployment", "triton")["volumeMounts"] if one["name"] == "models"]
    assert mount["readOnly"] and f'Path("{mount["mountPath"]}")' in (ROOT / "docker" / "run.py").read_text()


@every_build
def test_a_gateway_is_given_the_time_that_its_drain_takes(build: str) -> None:
    settings = _gateway_settings(build)
    assert pod_spec(named(build, "Deployment", "gateway"))["terminationGracePeriodSeconds"] > settings.longest_stop
    # Endpoints are forgotten by kube-proxies and ingress controllers within seconds; until then it must accept.
    assert settings.drain_delay >= 10


@every_build
def test_a_triton_serves_until_the_gateways_have_seen_that_its_name_has_lost_it(build: str) -> None:
    pause = container(build, "Deployment", "triton")["lifecycle"]["preStop"]["sleep"]["seconds"]
    (end,) = re.findall(r"grace=(\d+)\.0, shm_prefix", (ROOT / "docker" / "run.py").read_text())
    assert pause > 30 + 2  # CoreDNS lets an answer be kept for 30 s; gateways look every 2
    assert pod_spec(named(build, "Deployment", "triton"))["terminationGracePeriodSeconds"] > pause + int(end)


@every_build
def test_a_gateway_is_taken_out_only_after_it_has_given_up_on_triton(build: str) -> None:
    probe = container(build, "Deployment", "gateway")["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= _gateway_settings(build).recovery_timeout


@every_build
def test_tritons_own_supervisor_comes_before_the_liveness_probe(build: str) -> None:
    """It says why it ends the container, which a failed probe does not; and it has the patience that a long step takes."""
    triton = container(build, "Deployment", "triton")
    run, step = (ROOT / "docker" / "run.py").read_text(), (ROOT / "docker" / "step.py").read_text()
    number = {name: float(value) for name, value in re.findall(r"^([A-Z_]+) = ([\d.]+)", run + step, re.MULTILINE)}
    supervisor = number["MOST_FAILURES"] * (number["STEP_TIMEOUT"] + number["WATCH_INTERVAL"])
    liveness = triton["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > 2 * supervisor
    startup = triton["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= number["START_TIMEOUT"]
    for _, probe in probes(triton):
        assert probe["timeoutSeconds"] > 2 * number["STEP_TIMEOUT"]  # two questions, each with that time


@pytest.mark.parametrize("build", ["production", "cpu+ingress"])
def test_the_ingress_lets_streams_through_as_they_come_and_waits_longer_than_they_pause(build: str) -> None:
    annotations = named(build, "Ingress", "gateway")["metadata"]["annotations"]
    settings = _gateway_settings(build)
    silent = max(HEARTBEAT, settings.queue_timeout + settings.recovery_timeout)
    for prefix, off in (("nginx.ingress.kubernetes.io", "off"), ("nginx.org", "False")):
        assert annotations[f"{prefix}/proxy-buffering"] == off
        assert int(annotations[f"{prefix}/proxy-read-timeout"].rstrip("s")) > silent
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == f"{MAXIMUM_BODY >> 20}m"
    assert annotations["nginx.org/client-max-body-size"] == f"{MAXIMUM_BODY >> 20}m"


def _gateway_settings(build: str) -> Settings:
    given = environment(build, container(build, "Deployment", "gateway"))
    return Settings.from_environment({name: value for name, value in given.items() if not name.endswith("_FILE")})
