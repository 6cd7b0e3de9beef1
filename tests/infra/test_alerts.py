"""Claims about when the alerts of infra/monitoring ring, evaluated by Prometheus' own promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from infra_files import INFRA

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: it comes with Prometheus")
RULES = INFRA / "monitoring" / "rules.yaml"
REQUESTS = 'ray_foodray_http_requests_total{route="/v1/analyze", method="POST", status="%s"}'
PHOTOS = 'ray_foodray_photos_total{run_id="r", status="%s"}'
RINGS: dict[str, list[dict[str, str]]] = {
    "FoodrayRequestsFail": [{"series": REQUESTS % "200", "values": "0+100x120"}, {"series": REQUESTS % "500", "values": "0+5x120"}],
    "FoodrayOverloaded": [{"series": REQUESTS % "200", "values": "0+100x120"}, {"series": REQUESTS % "503", "values": "0+10x120"}],
    "FoodraySlow": [
        {"series": 'ray_foodray_http_seconds_bucket{route="/v1/analyze", method="POST", le="10.0"}', "values": "0+50x120"},
        {"series": 'ray_foodray_http_seconds_bucket{route="/v1/analyze", method="POST", le="30.0"}', "values": "0+100x120"},
        {"series": 'ray_foodray_http_seconds_bucket{route="/v1/analyze", method="POST", le="+Inf"}', "values": "0+100x120"},
    ],
    "FoodrayKeysTried": [{"series": REQUESTS % "401", "values": "0+120x120"}],
    "FoodrayPhotosRefused": [
        {"series": 'ray_foodray_http_photos_total{status="ok", reason=""}', "values": "0+10x120"},
        {"series": 'ray_foodray_http_photos_total{status="quarantined", reason="truncated"}', "values": "0+10x120"},
    ],
    "FoodrayReplicaUnhealthy": [{"series": 'ray_serve_deployment_replica_healthy{deployment="Decoder", replica="a"}', "values": "0x120"}],
    "FoodrayQuarantine": [{"series": PHOTOS % "ok", "values": "0+10x120"}, {"series": PHOTOS % "quarantined", "values": "0+10x120"}],
    "FoodrayScoringStands": [{"series": PHOTOS % "ok", "values": "500x120"}],
    "RayDiskFull": [{"series": 'ray_node_disk_utilization_percentage{ip="10.0.0.1"}', "values": "90x120"}],
    "RayMemoryFull": [
        {"series": 'ray_node_mem_used{ip="10.0.0.1"}', "values": "95x120"},
        {"series": 'ray_node_mem_total{ip="10.0.0.1"}', "values": "100x120"},
    ],
    "RayGpuIdle": [{"series": 'ray_node_gpus_utilization{ip="10.0.0.1", GpuIndex="0"}', "values": "0x120"}],
    "RayTaskFitsNowhere": [{"series": 'ray_internal_num_infeasible_scheduling_classes{ip="10.0.0.1"}', "values": "1x120"}],
}
QUIET: list[dict[str, str]] = [
    {"series": REQUESTS % "200", "values": "0+100x120"},
    {"series": PHOTOS % "ok", "values": "0+10x120"},
    {"series": 'ray_foodray_http_seconds_bucket{route="/v1/analyze", method="POST", le="1.0"}', "values": "0+100x120"},
    {"series": 'ray_foodray_http_seconds_bucket{route="/v1/analyze", method="POST", le="+Inf"}', "values": "0+100x120"},
    {"series": 'ray_foodray_http_photos_total{status="ok", reason=""}', "values": "0+10x120"},
    {"series": 'ray_serve_deployment_replica_healthy{deployment="Decoder", replica="a"}', "values": "1x120"},
    {"series": 'ray_node_disk_utilization_percentage{ip="10.0.0.1"}', "values": "50x120"},
    {"series": 'ray_node_gpus_utilization{ip="10.0.0.1", GpuIndex="0"}', "values": "80x120"},
    {"series": 'ray_internal_num_infeasible_scheduling_classes{ip="10.0.0.1"}', "values": "0x120"},
]


def check(series: list[dict[str, str]], alerts: list[str], folder: Path) -> None:
    """Hold promtool to it that these alerts, and no other, ring after two hours of the series, one value a minute."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts]
    question = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "110m", "exp_samples": expected}
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [question]}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(["promtool", "test", "rules", str(folder / "test.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_case() -> None:
    assert {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]} == RINGS.keys()


@pytest.mark.parametrize("name", RINGS)
def test_an_alert_rings_for_its_trouble_alone(name: str, tmp_path: Path) -> None:
    check(RINGS[name], [name], tmp_path)


def test_no_alert_rings_while_all_is_well(tmp_path: Path) -> None:
    check(QUIET, [], tmp_path)
