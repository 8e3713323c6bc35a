"""Who may speak to whom, what pods may do, and what scales by which metric."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import (
    BUILDS,
    K8S,
    container,
    containers,
    environment,
    named,
    of_kind,
    pod_labels,
    pod_spec,
    ports,
    selects,
    workloads,
)
from tests.missing import missing

every_build = pytest.mark.parametrize("build", BUILDS)
HOME = {"kubernetes.io/metadata.name": "tidegate"}
DNS = ({"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "kube-dns"})
PROMETHEUS = ({"kubernetes.io/metadata.name": "monitoring"}, {"app.kubernetes.io/name": "prometheus"})
COLLECTOR = ({"kubernetes.io/metadata.name": "monitoring"}, {"app.kubernetes.io/name": "opentelemetry-collector"})
STRANGER = ({"kubernetes.io/metadata.name": "default"}, {"app": "other"})
Peer = tuple[dict[str, str], dict[str, str]]  # labels of its namespace and of its pod
METRIC = re.compile(r"tidegate_\w+")


def allowed(build: str, direction: str, pod: dict[str, str], peer: Peer, port: int) -> bool:
    """As Kubernetes decides it: what some policy selects may do only what some policy allows."""
    kind, side = direction.capitalize(), "from" if direction == "ingress" else "to"
    policies = [
        one["spec"]
        for one in of_kind(build, "NetworkPolicy")
        if selects(one["spec"]["podSelector"], pod) and kind in one["spec"]["policyTypes"]
    ]
    rules = [rule for policy in policies for rule in policy.get(direction, [])]
    return not policies or any(
        (side not in rule or any(_is(one, peer) for one in rule[side])) and port in {one["port"] for one in rule["ports"]}
        for rule in rules
    )


def _is(rule: dict[str, Any], peer: Peer) -> bool:
    if "ipBlock" in rule:
        return False  # the networks of pods are excepted
    namespace, pod = peer
    right_namespace = selects(rule["namespaceSelector"], namespace) if "namespaceSelector" in rule else namespace == HOME
    return right_namespace and selects(rule.get("podSelector", {}), pod)


def reaches(build: str, source: str, target: str, port: int) -> bool:
    pods = {one["metadata"]["name"]: pod_labels(one) for one in workloads(build)}
    out = allowed(build, "egress", pods[source], (HOME, pods[target]), port)
    return out and allowed(build, "ingress", pods[target], (HOME, pods[source]), port)


@every_build
def test_only_gateways_reach_triton_and_it_reaches_nobody(build: str) -> None:
    grpc = ports(named(build, "Deployment", "triton"))["grpc"]
    pods = {one["metadata"]["name"] for one in workloads(build)}
    assert {pod for pod in pods if reaches(build, pod, "triton", grpc)} == {"gateway"}
    triton = pod_labels(named(build, "Deployment", "triton"))
    assert not any(allowed(build, "ingress", triton, peer, port) for peer in (STRANGER, DNS) for port in (grpc, 8000, 8002))
    assert not any(reaches(build, "triton", pod, port) for pod in pods for port in (5002, 8001, 8002))


@every_build
def test_gateways_are_reached_from_outside_at_their_port_alone_and_reach_only_triton_and_dns(build: str) -> None:
    gateway = named(build, "Deployment", "gateway")
    labels, port = pod_labels(gateway), ports(gateway)["http"]
    assert allowed(build, "ingress", labels, STRANGER, port) and allowed(build, "ingress", labels, PROMETHEUS, port)
    assert not allowed(build, "ingress", labels, STRANGER, 8001)
    assert allowed(build, "egress", labels, DNS, 53)
    assert not allowed(build, "egress", labels, STRANGER, 443) and not allowed(build, "egress", labels, DNS, 443)


@every_build
def test_prometheus_may_read_tritons_metrics_where_it_is_told_of_them(build: str) -> None:
    triton = named(build, "Deployment", "triton")
    may = allowed(build, "ingress", pod_labels(triton), PROMETHEUS, ports(triton)["metrics"])
    assert may == bool(of_kind(build, "ServiceMonitor"))


@every_build
def test_only_what_fetches_models_from_elsewhere_may_leave_the_cluster(build: str) -> None:
    blocks = [
        peer["ipBlock"]
        for policy in of_kind(build, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert bool(blocks) == (build in ("cpu+repository-http", "cpu+repository-s3"))
    assert all("169.254.0.0/16" in block["except"] for block in blocks)  # where clouds keep their credentials


@every_build
def test_gateways_may_send_traces_exactly_where_they_are_told_to(build: str) -> None:
    gateway = named(build, "Deployment", "gateway")
    told = environment(build, container(build, "Deployment", "gateway")).get("OTEL_EXPORTER_OTLP_ENDPOINT")
    assert allowed(build, "egress", pod_labels(gateway), COLLECTOR, 4318) == (told is not None)
    assert told in (None, "http://otel-collector.monitoring.svc:4318")


@pytest.mark.parametrize("build", ["production", "cpu+monitoring"])
def test_monitors_select_services_with_the_ports_that_they_name(build: str) -> None:
    for monitor in of_kind(build, "ServiceMonitor"):
        (service,) = [
            one for one in of_kind(build, "Service") if selects(monitor["spec"]["selector"], one["metadata"]["labels"])
        ]
        names = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= names


@every_build
def test_every_pod_passes_the_restricted_standard_and_the_namespace_enforces_it(build: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, and beyond it: read-only roots, no token."""
    (namespace,) = of_kind(build, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    volumes = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    for workload in workloads(build):
        spec = pod_spec(workload)
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec) and spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(set(volume) - {"name"} <= volumes for volume in spec.get("volumes", []))
        for one in containers(workload):
            context = one["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert set(context) <= {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
            assert {"cpu", "memory"} <= set(one["resources"]["limits"]) & set(one["resources"]["requests"])


@every_build
def test_only_the_overlays_for_gpus_ask_for_one_and_its_memory_decides_how_many_slots(build: str) -> None:
    limits = container(build, "Deployment", "triton")["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == (1 if build in ("gpu", "production") else None)
    slots = environment(build, container(build, "Deployment", "triton"))["TIDEGATE_SLOTS"]
    assert slots == ("auto" if "nvidia.com/gpu" in limits else "32")  # a card's memory decides
    for job in of_kind(build, "Job"):
        assert environment(build, containers(job)[0])["PRECISION"] == ("fp16" if "nvidia.com/gpu" in limits else "auto")


@every_build
def test_at_most_one_pod_of_a_kind_is_taken_away_at_a_time(build: str) -> None:
    budgets = {one["metadata"]["name"]: one["spec"]["maxUnavailable"] for one in of_kind(build, "PodDisruptionBudget")}
    assert budgets == {"gateway": 1, "triton": 1}
    assert named(build, "HorizontalPodAutoscaler", "gateway")["spec"]["minReplicas"] >= 2


def adapter_rules() -> dict[str, list[dict[str, Any]]]:
    rules = yaml.safe_load((K8S / "components" / "queue-autoscaling" / "prometheus-adapter.yaml").read_text())["rules"]
    return {kind: rules[kind] for kind in ("custom", "external")}


@pytest.mark.parametrize("build", ["production", "cpu+queue-autoscaling"])
def test_autoscalers_use_metrics_that_the_adapters_rules_make(build: str) -> None:
    made = {kind: {METRIC.findall(rule["seriesQuery"])[0] for rule in rules} for kind, rules in adapter_rules().items()}
    made["external"] = {rule["name"]["as"] for rule in adapter_rules()["external"]}
    metrics = [metric for one in of_kind(build, "HorizontalPodAutoscaler") for metric in one["spec"]["metrics"]]
    asked = {metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"}
    from_outside = {metric["external"]["metric"]["name"] for metric in metrics if metric["type"] == "External"}
    assert asked == made["custom"] and from_outside == made["external"]


@pytest.mark.slow
def test_prometheus_understands_the_adapters_queries_and_counts_in_tritons(tmp_path: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        message = "no promtool here (apt-get install prometheus): the adapter's queries were NOT checked"
        missing(message)
    queries = []
    for kind, rules_of_kind in adapter_rules().items():
        group = {"custom": "namespace", "external": ""}[kind]  # as the adapter fills it in
        parts = {"<<.Series>>": "some_series", "<<.LabelMatchers>>": 'namespace="tidegate"', "<<.GroupBy>>": group}
        for rule in rules_of_kind:
            query = rule["metricsQuery"]
            for template, value in parts.items():
                query = query.replace(template, value)
            queries.append(query)
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "adapter", "rules": rules}]}))
    # Two Tritons of different cards have 224 slots on average; 336 requests fill one and a half.
    series = {
        'tidegate_num_requests_running{namespace="tidegate",pod="g1",model="m"}': 200,
        'tidegate_num_requests_waiting{namespace="tidegate",pod="g2",model="m"}': 136,
        'tidegate_num_requests_running{namespace="another",pod="g3",model="m"}': 1000,
        'tidegate_backend_kv_slots{namespace="tidegate",pod="t1",model="m"}': 256,
        'tidegate_backend_kv_slots{namespace="tidegate",pod="t2",model="m"}': 192,
    }
    expected = {
        "expr": "query:1",
        "eval_time": "2m",
        "exp_samples": [{"labels": "query:1", "value": 1.5}],
    }
    inputs = [{"series": name, "values": f"{value}x5"} for name, value in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [expected]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))
    command = [promtool, "test", "rules", tmp_path / "test.yml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and len(queries) == 2, done.stdout + done.stderr


@pytest.mark.parametrize("build", ["production", "cpu+queue-autoscaling"])
def test_tritons_are_added_before_their_slots_and_the_gateways_queues_are_full(build: str) -> None:
    (metric,) = named(build, "HorizontalPodAutoscaler", "triton")["spec"]["metrics"]
    assert 500 < int(metric["external"]["target"]["averageValue"].removesuffix("m")) < 1000  # thousandths of a Triton
    (waiting,) = [one["pods"] for one in named(build, "HorizontalPodAutoscaler", "gateway")["spec"]["metrics"] if "pods" in one]
    room = int(environment(build, container(build, "Deployment", "gateway"))["MAX_WAITING"])
    assert int(waiting["target"]["averageValue"]) < room
