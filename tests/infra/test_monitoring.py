"""Claims about infra/monitoring: every metric and label that an alert or a panel asks for is one that foodray's code or the installed Ray exports."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from infra_files import INFRA, ROOT

RULES = {rule["alert"]: rule for group in yaml.safe_load((INFRA / "monitoring" / "rules.yaml").read_text())["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((INFRA / "monitoring" / "dashboard.json").read_text())
PANELS = {f"{panel['id']} {panel['title']}": panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
QUERIES = {
    **{f"alert {name}": rule["expr"] for name, rule in RULES.items()},
    **{f"panel {name} {target['refId']}": target["expr"] for name, panel in PANELS.items() for target in panel["targets"]},
    **{f"variable {variable['name']}": variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"},
}
NAME = re.compile(r"\bray_[a-z0-9_]+")
OF_RAY = {"le", "ip", "SessionName", "deployment", "application", "replica", "node_type", "Location"}
"""Labels that Ray's own metrics bring, each looked up in `test_labels_of_rays_metrics_are_rays`."""


@cache
def metrics() -> dict[str, tuple[str, frozenset[str]]]:
    """Foodray's own metrics as Prometheus sees them: kind and labels by name, read from the code."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for path in (ROOT / "foodray").rglob("*.py"):
        text = path.read_text()
        if "ray.util.metrics" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Counter", "Gauge", "Histogram"):
                name = ast.literal_eval(node.args[0])
                [tags] = [ast.literal_eval(word.value) for word in node.keywords if word.arg == "tag_keys"] or [()]
                for suffix in {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}[node.func.id]:
                    found[f"ray_{name}{suffix}"] = (node.func.id, frozenset(tags))
    return found


@cache
def of_ray() -> frozenset[str]:
    """The words of the installed Ray: its Python sources, without the Grafana panels that only ask, and the strings of its programs."""
    place = Path(ray.__file__).parent
    sources = [path.read_text(errors="ignore") for path in place.rglob("*.py") if "dashboards" not in path.parts and "rllib" not in path.parts]
    programs = [place / "core" / "src" / "ray" / "raylet" / "raylet", place / "core" / "src" / "ray" / "gcs" / "gcs_server"]
    return frozenset(
        word
        for text in [*sources, *(program.read_bytes().decode("latin-1") for program in programs)]
        for word in re.findall(r"(?a:\b[A-Za-z]\w{1,60}\b)", text)
    )


def test_there_are_metrics_of_scoring_and_of_serving() -> None:
    assert {
        "ray_foodray_photos_total",
        "ray_foodray_scoring_seconds_total",
        "ray_foodray_http_requests_total",
        "ray_foodray_http_seconds_bucket",
    } <= metrics().keys()


@pytest.mark.parametrize("name", QUERIES)
def test_every_metric_that_is_asked_for_exists(name: str) -> None:
    asked = set(NAME.findall(QUERIES[name]))
    assert asked
    for metric in asked:
        if metric.startswith("ray_foodray_"):
            assert metric in metrics(), f"{metric} is not one of {sorted(metrics())}"
        else:
            name_in_ray = metric.removeprefix("ray_")
            bases = {name_in_ray, name_in_ray.removesuffix("_total"), name_in_ray.removesuffix("_bucket")}
            assert bases & of_ray(), f"{metric} is in no source of Ray {ray.__version__}"


@pytest.mark.parametrize("name", QUERIES)
def test_every_label_that_is_asked_for_is_one_of_its_metrics(name: str) -> None:
    query = QUERIES[name]
    known = set().union(*(metrics()[metric][1] for metric in NAME.findall(query) if metric in metrics())) | OF_RAY
    grouped = {label for labels in re.findall(r"\bby \(([^)]+)\)", query) for label in labels.split(", ")}
    matched = {label for found in re.findall(r"\{([^}]+)\}", query) for label in re.findall(r"(\w+)(?:=~|!=|!~|=)", found)}
    assert grouped | matched <= known


@pytest.mark.parametrize("label", sorted(OF_RAY - {"le"}))
def test_labels_of_rays_metrics_are_rays(label: str) -> None:
    assert label in of_ray()


@pytest.mark.parametrize("name", QUERIES)
def test_the_statuses_that_are_asked_for_are_given(name: str) -> None:
    source = (ROOT / "foodray" / "scoring" / "blocks.py").read_text()
    ends = ast.literal_eval(re.findall(r"^ENDS = (\(.+\))$", source, re.MULTILINE)[0])
    for metric, inside in re.findall(r"(ray_foodray_(?:http_)?photos_total)\{([^}]+)\}", QUERIES[name]):
        for status in re.findall(r'status="(\w+)"', inside):
            assert status in ends, metric


def test_the_route_that_is_timed_is_one_of_the_endpoint() -> None:
    routes = {route for query in QUERIES.values() for route in re.findall(r'route="([^"]+)"', query)}
    sources = "\n".join(path.read_text() for path in (ROOT / "foodray" / "serving").glob("*.py"))
    assert routes == {"/v1/analyze"}
    assert '"/v1/analyze"' in sources or ('"/analyze"' in sources and '"/v1"' in sources)


@pytest.mark.parametrize("name", RULES)
def test_every_alert_waits_says_what_it_sees_and_what_to_do(name: str) -> None:
    rule = RULES[name]
    assert rule["for"]
    assert rule["labels"]["severity"] in ("page", "warn")
    assert rule["annotations"].keys() == {"summary", "remedy"}


def test_every_panel_has_a_place_a_unit_and_a_sentence() -> None:
    taken: set[tuple[int, int]] = set()
    for name, panel in PANELS.items():
        where = panel["gridPos"]
        cells = {(x, y) for x in range(where["x"], where["x"] + where["w"]) for y in range(where["y"], where["y"] + where["h"])}
        assert not cells & taken, name
        taken |= cells
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_looks_for_the_pods_of_the_manifests() -> None:
    [pods, machines] = yaml.safe_load((INFRA / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"]
    text = str(pods)
    manifest = (INFRA / "kuberay" / "train.yaml").read_text()
    assert "app_kubernetes_io_part_of" in text
    assert "app.kubernetes.io/part-of: foodray" in manifest
    assert "app.kubernetes.io/component: train" in manifest
    assert ":8080" in text
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert machines["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]


EXPORT = """
    import sys, time, urllib.request
    import ray
    from ray.util import metrics
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False, _metrics_export_port=int(sys.argv[1]))
    made = [(getattr(metrics, kind), name, tags) for kind, name, tags in eval(sys.argv[2])]
    @ray.remote(num_cpus=0)
    class Exporter:
        def __init__(self):
            extra = {metrics.Histogram: {"boundaries": [1.0]}}
            self.made = [(kind(name, description=name, tag_keys=tags, **extra.get(kind, {})), tags) for kind, name, tags in made]
        def count(self):
            for metric, tags in self.made:
                (metric.observe if isinstance(metric, metrics.Histogram) else metric.inc)(1.0, tags={tag: "x" for tag in tags})
    exporter = Exporter.remote()
    for _ in range(30):
        ray.get(exporter.count.remote())
        time.sleep(2)
        text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=10).read().decode()
        if "foodray" in text and "ray_node_mem_used" in text:
            break
    print(text)
    ray.shutdown()
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Prometheus would read of a Ray that counts with foodray's metrics."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    wanted = {(kind, name.removeprefix("ray_").removesuffix("_total").removesuffix("_bucket"), tuple(sorted(tags))) for name, (kind, tags) in metrics().items()}
    wanted = {entry for entry in wanted if not entry[1].endswith(("_sum", "_count"))}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", textwrap.dedent(EXPORT), str(port), repr(sorted(wanted))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment, cwd=tmp_path_factory.mktemp("ray"))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_ray_exports_the_names_and_labels_that_the_alerts_ask_for(exported: str) -> None:
    lines: dict[str, Any] = {}
    for line in exported.splitlines():
        if found := re.match(r"(ray_\w+)(?:\{(.*)\})? ", line):
            lines.setdefault(found[1], set()).update(re.findall(r'(\w+)="', found[2] or ""))
    for name, (_, tags) in metrics().items():
        assert tags <= lines[name]
    without_gpu_and_serve = {name for query in QUERIES.values() for name in NAME.findall(query) if not re.match(r"ray_(serve|node_gpus|foodray)_", name)}
    assert without_gpu_and_serve <= lines.keys()
    for name in ("ray_node_mem_used", "ray_node_disk_utilization_percentage", "ray_node_cpu_utilization"):
        assert "ip" in lines[name]
    assert "Location" in lines["ray_object_store_memory"]
    assert "node_type" in lines["ray_cluster_active_nodes"]
