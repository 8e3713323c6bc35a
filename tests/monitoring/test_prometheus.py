"""A real Prometheus with our configuration scrapes a real stack: the dashboard and the alerts ask for what there is."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.gateway.http_client import until
from tests.monitoring.dashboard import DASHBOARD, panels
from tests.monitoring.stack import MONITORING, RATE_INTERVAL, Load, Stack, watched_stack

pytestmark = pytest.mark.slow

ALERTS = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
NAME = re.compile(r"\b(?:tidegate|nv)_\w+")
ONLY_WITH_GPU = ("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes")  # Triton's own names
ABSENT = ("TidegateGatewayDown", "TidegateNoModel", "TidegateTritonNotScraped")  # ask for what is missing


@pytest.fixture(scope="module", autouse=True)
def _needs_prometheus() -> None:
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        assert os.environ.get("CI") != "true", "Prometheus is not installed: apt-get install prometheus"
        pytest.skip("Prometheus is not installed: apt-get install prometheus")


@pytest.fixture(scope="module")
def stack(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Under load while the tests ask, after a burst that was too much and after a Triton that was killed and came back."""
    with watched_stack(model_repository, tmp_path_factory.mktemp("watched_stack")) as stack:
        load = Load(stack)
        time.sleep(3)
        os.kill(stack.triton.pid, signal.SIGKILL)
        time.sleep(1)
        stack.triton.stop()
        stack.triton.start()
        load.burst()
        for _ in until(20):  # until all that happened is scraped
            if stack.query("sum(tidegate_recoveries_total) > 0 and sum(tidegate_backend_steps_total) > 0"):
                break
        time.sleep(3)
        yield stack
        load.stop()


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_good() -> None:
    promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_has_a_test_and_a_page_in_the_runbook() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test.get("alert_rule_test", []) if one["exp_alerts"]}
    told = set(re.findall(r"^\| `(Tidegate\w+)` \|", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE))
    assert fired == told == {rule["alert"] for rule in ALERTS}
    assert all(rule["labels"]["severity"] in ("critical", "warning") for rule in ALERTS)


def test_every_target_of_the_configuration_is_scraped(stack: Stack) -> None:
    assert {series["metric"]["job"] for series in stack.query("up == 1")} == {"gateway", "triton", "prometheus"}


def test_every_expression_of_the_dashboard_has_data(stack: Stack) -> None:
    for panel in panels(RATE_INTERVAL):
        for expression in panel.expressions:
            if any(name in expression for name in ONLY_WITH_GPU):
                assert stack.query(expression) == [], panel.title  # it can be read
                continue
            assert set(NAME.findall(expression)) <= stack.metric_names(), panel.title
            for _ in until(30 if "evictions" in expression else 10):
                if found := stack.query(expression.replace(f"[{RATE_INTERVAL}]", "[60s]").removesuffix(" > 0")):
                    break
            assert found, (panel.title, expression)


def test_every_alert_asks_for_what_there_is(stack: Stack) -> None:
    for rule in ALERTS:
        assert set(NAME.findall(rule["expr"])) <= stack.metric_names(), rule["alert"]
        for condition in re.split(r"\s+and (?:on \(\) )?", rule["expr"]):
            measured, bound = re.fullmatch(r"(.+) (?:>|==) ([\d.e]+)", condition, re.DOTALL).groups()  # type: ignore[union-attr]
            absent = rule["alert"] in ABSENT and measured.startswith("absent")
            assert bound and bool(stack.query(measured)) != absent, rule["alert"]


def test_the_burst_and_the_kill_are_seen(stack: Stack) -> None:
    def total(expression: str) -> float:
        return float(stack.query(f"sum({expression})")[0]["value"][1])

    assert total('tidegate_requests_rejected_total{reason="overloaded"}') > 0
    assert total('tidegate_http_requests_total{status="429"}') > 0
    assert total('tidegate_requests_rejected_total{reason="model_not_found"}') > 0
    assert total("tidegate_step_failures_total") > 0 and total("tidegate_recoveries_total") > 0
    assert total("tidegate_requests_failed_total") == 0  # nothing was lost
    assert total("tidegate_num_slots") == 4 and total("tidegate_backend_kv_slots") == 4
    assert total("tidegate_batch_size_sum") / total("tidegate_batch_size_count") > 1
    assert total("tidegate_backend_prefix_cache_hits_total") > 0


def test_panels_do_not_overlap_and_have_what_grafana_wants() -> None:
    positions = [(panel.position, panel.title) for panel in panels(RATE_INTERVAL)]
    for number, (one, title) in enumerate(positions):
        assert one["x"] + one["w"] <= 24, title
        for other, of in positions[number + 1 :]:
            apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (title, of)
    document = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids) and document["uid"] == "tidegate"


def test_grafana_is_given_the_data_source_and_the_dashboard() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["isDefault"]
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tidegate.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    used = {
        target["datasource"]["uid"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", [])
    }
    assert used == {"${datasource}"}
