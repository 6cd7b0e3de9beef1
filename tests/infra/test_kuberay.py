"""Claims about infra/kuberay: every document is strictly of its kind, every command and path in it exists, and each default is the safe one."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from infra_files import INFRA, PLACEHOLDER, ROOT, documents
from kuberay_schema import schema
from terraform_files import blocks, parsed

from foodray.cli import main

FOLDER = INFRA / "kuberay"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
DOCUMENTS = {f"{file}: {document['kind']} {document['metadata']['name']}": document for file in FILES for document in documents(FOLDER / file)}
CLUSTERS = {
    document["metadata"]["name"]: document["spec"].get("rayClusterSpec") or document["spec"]["rayClusterConfig"]
    for document in DOCUMENTS.values()
    if document["kind"] in ("RayJob", "RayService")
}
PODS = {
    f"{name} {group}": template["spec"]
    for name, cluster in CLUSTERS.items()
    for group, template in [
        ("head", cluster["headGroupSpec"]["template"]),
        *((workers["groupName"], workers["template"]) for workers in cluster["workerGroupSpecs"]),
    ]
}
CONTAINERS = {f"{pod} {container['name']}": container for pod, spec in PODS.items() for container in spec["containers"]}
SECURED = {
    **{name: container["securityContext"] for name, container in CONTAINERS.items()},
    **{f"{name} autoscaler": cluster["autoscalerOptions"]["securityContext"] for name, cluster in CLUSTERS.items()},
}
JOBS = {document["metadata"]["name"]: document["spec"] for document in DOCUMENTS.values() if document["kind"] == "RayJob"}
POLICIES = {document["metadata"]["name"]: document["spec"] for document in DOCUMENTS.values() if document["kind"] == "NetworkPolicy"}
API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


class StoppedError(Exception):
    """Instead of running."""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_is_strictly_of_its_kind(name: str) -> None:
    jsonschema.validate(DOCUMENTS[name], schema(DOCUMENTS[name]["kind"]))


@pytest.mark.parametrize("path", [("spec", "entrypont"), ("spec", "rayClusterSpec", "authOption"), ("spec", "rayClusterSpec", "headGroupSpec", "replicas")])
def test_a_key_that_kuberay_does_not_know_would_be_found(path: tuple[str, ...]) -> None:
    document = copy.deepcopy(DOCUMENTS["train.yaml: RayJob train"])
    inside = document
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = "x"
    with pytest.raises(jsonschema.ValidationError, match=path[-1]):
        jsonschema.validate(document, schema("RayJob"))


def test_there_is_a_job_to_train_to_tune_and_to_score_and_a_service() -> None:
    assert JOBS.keys() == {"train", "tune", "score"}
    assert CLUSTERS.keys() - JOBS.keys() == {"serve"}


@pytest.fixture
def parsed_by_the_command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The config that an entrypoint would run."""
    seen: list[Any] = []

    def stop(config: Any, *_: Any, **__: Any) -> None:
        seen.append(config)
        raise StoppedError

    for place in ("foodray.training.run.train", "foodray.training.search.search", "foodray.scoring.run.score"):
        monkeypatch.setattr(place, stop)

    def run(entrypoint: str) -> Any:
        program, *arguments = shlex.split(entrypoint)
        assert program == "foodray"
        with pytest.raises(StoppedError):
            main(arguments)
        return seen[-1]

    return run


@pytest.mark.parametrize("name", JOBS)
def test_the_command_line_accepts_the_entrypoint_of_every_job(name: str, parsed_by_the_command_line: Callable[[str], Any]) -> None:
    config = parsed_by_the_command_line(JOBS[name]["entrypoint"])
    assert config.name, "a job that is tried again goes on with the run of its name"
    assert config.results == ("s3://study/derived/scored" if name == "score" else "s3://study/derived/runs")
    if name == "score":
        assert (config.study, config.use_gpu, config.max_workers) == ("s3://study/raw/archive", True, 4)
    else:
        assert (config.corpus, config.workers.use_gpu) == ("s3://study/derived/corpus", True)


@pytest.mark.parametrize("name", JOBS)
def test_the_command_of_a_job_is_that_of_its_job_script(name: str) -> None:
    script = {"train": "train_mtl", "tune": "tune_mtl", "score": "score_archive"}[name]
    words = re.findall(r"main\(\[(.*?), \*sys", (ROOT / "jobs" / f"{script}.py").read_text())[0].replace('"', "").split(", ")
    assert shlex.split(JOBS[name]["entrypoint"])[1 : 1 + len(words)] == words


@pytest.mark.parametrize("name", JOBS)
def test_the_workers_that_a_job_asks_for_fit_into_its_groups(name: str) -> None:
    [gpu] = [group for group in CLUSTERS[name]["workerGroupSpecs"] if group["groupName"] == "gpu"]
    asked = re.findall(r"--(?:workers\.num-workers|concurrent|max-workers) (\d+)", JOBS[name]["entrypoint"])
    assert max(int(number) for number in asked) <= gpu["maxReplicas"]
    at_once = re.findall(r"--workers\.num-workers (\d+)", JOBS[name]["entrypoint"]) or ["1"]
    assert int(at_once[0]) <= gpu["minReplicas"], "the pods that the job cannot begin without are there when it begins"


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_lost_its_head_goes_on_and_its_cluster_ends_with_it(name: str) -> None:
    assert JOBS[name]["backoffLimit"] > 0
    assert JOBS[name]["shutdownAfterJobFinishes"] is True
    assert JOBS[name]["submissionMode"] == "HTTPMode", "a submitter would be one more pod to close"


def test_the_service_runs_the_graph_of_serve_yaml() -> None:
    [spec] = [document["spec"] for document in DOCUMENTS.values() if document["kind"] == "RayService"]
    found, file = yaml.safe_load(spec["serveConfigV2"]), yaml.safe_load((INFRA / "serve.yaml").read_text())
    assert found["http_options"].pop("host") == "0.0.0.0", "of the pod, behind the NetworkPolicy serve-proxy"
    assert file["http_options"].pop("host") == "127.0.0.1"
    assert found == file
    assert found["applications"][0]["args"]["keys"].startswith("s3://study/private/keys")
    assert spec["excludeHeadPodFromServeSvc"] is True


@pytest.mark.parametrize("name", CLUSTERS)
def test_rays_token_is_on_and_made_by_the_operator(name: str) -> None:
    assert CLUSTERS[name]["authOptions"] == {"mode": "token"}
    environment = {entry["name"] for container in CONTAINERS.values() for entry in container["env"]}
    assert not {variable for variable in environment if "TOKEN" in variable or "AUTH" in variable or "SECRET" in variable}


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_is_the_version_of_the_lock(name: str) -> None:
    assert CLUSTERS[name]["rayVersion"] == ray.__version__
    assert f"ray=={ray.__version__} " in (INFRA / "runtime.txt").read_text().replace("ray[client,cgraph,data,default,serve,train,tune]", "ray")


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_cluster_grows_and_shrinks_in_a_gpu_and_a_cpu_group(name: str) -> None:
    assert CLUSTERS[name]["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in CLUSTERS[name]["workerGroupSpecs"]}
    assert groups.keys() == {"gpu", "cpu"}
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["minReplicas"] < group["maxReplicas"]
    for kind, group in groups.items():
        [container] = group["template"]["spec"]["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (kind == "gpu")
        assert container["image"].startswith(f"foodray-{'cuda' if kind == 'gpu' else 'cpu'}@sha256:")


@pytest.mark.parametrize("name", CLUSTERS)
def test_heads_are_on_demand_and_do_no_work_and_workers_are_spot(name: str) -> None:
    assert CLUSTERS[name]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    kinds = {pod.split()[1]: spec["nodeSelector"]["eks.amazonaws.com/capacityType"] for pod, spec in PODS.items() if pod.startswith(f"{name} ")}
    assert kinds == {"head": "ON_DEMAND", "gpu": "SPOT", "cpu": "SPOT"}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_image_is_named_by_digest(name: str) -> None:
    assert re.fullmatch(r"foodray-(cpu|cuda)@sha256:[0-9a-f]{64}", CONTAINERS[name]["image"])


@pytest.mark.parametrize("name", PODS)
def test_no_pod_runs_as_root(name: str) -> None:
    assert PODS[name]["securityContext"]["runAsNonRoot"] is True
    user = re.findall(r"^USER (\d+):(\d+)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)[0]
    assert (PODS[name]["securityContext"]["runAsUser"], PODS[name]["securityContext"]["runAsGroup"]) == tuple(map(int, user))


@pytest.mark.parametrize("name", SECURED)
def test_no_container_runs_as_root_or_becomes_it(name: str) -> None:
    assert SECURED[name]["runAsNonRoot"] is True
    assert SECURED[name]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", SECURED)
def test_every_root_file_system_is_read_only(name: str) -> None:
    assert SECURED[name]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", SECURED)
def test_every_container_drops_all_capabilities(name: str) -> None:
    assert SECURED[name]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", SECURED)
def test_every_container_has_the_runtimes_seccomp_profile(name: str) -> None:
    assert SECURED[name]["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("name", PODS)
def test_tmp_and_shared_memory_are_tmpfs_with_a_limit_below_the_pods_memory(name: str) -> None:
    volumes = {volume["name"]: volume for volume in PODS[name]["volumes"]}
    [container] = PODS[name]["containers"]
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/tmp", "/dev/shm", "/spill"}
    for path in ("/tmp", "/dev/shm"):
        assert mounts[path]["emptyDir"]["medium"] == "Memory"
    held = sum(int(mounts[path]["emptyDir"]["sizeLimit"].removesuffix("Gi")) for path in ("/tmp", "/dev/shm"))
    assert held < int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert "medium" not in mounts["/spill"]["emptyDir"], "what Ray spills from memory must not go back there"


@pytest.mark.parametrize("name", CLUSTERS)
def test_rays_object_store_fits_into_its_shared_memory(name: str) -> None:
    groups = [("head", CLUSTERS[name]["headGroupSpec"]), *((group["groupName"], group) for group in CLUSTERS[name]["workerGroupSpecs"])]
    for kind, group in groups:
        [shm] = [volume for volume in PODS[f"{name} {kind}"]["volumes"] if volume["name"] == "shm"]
        assert int(group["rayStartParams"]["object-store-memory"]) < int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
        assert group["rayStartParams"]["object-spilling-directory"] == "/spill"


@pytest.mark.parametrize("name", PODS)
def test_no_pod_gets_a_token_for_kubernetes_by_itself(name: str) -> None:
    assert PODS[name]["automountServiceAccountToken"] is False
    [container] = PODS[name]["containers"]
    assert not [mount for mount in container["volumeMounts"] if mount["mountPath"].startswith("/var/run/secrets")]


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_autoscaler_alone_has_a_token_for_kubernetes_where_ray_looks_for_it(name: str) -> None:
    from ray.autoscaler._private.kuberay import node_provider

    assert {str(Path(path).parent) for path in (node_provider.IN_CLUSTER_TOKEN_PATH, node_provider.IN_CLUSTER_CA_CERT_PATH)} == {API_TOKEN}
    mounts = {mount["mountPath"]: mount["name"] for mount in CLUSTERS[name]["autoscalerOptions"]["volumeMounts"]}
    assert mounts == {"/tmp": "tmp", API_TOKEN: "api-token"}
    [volume] = [volume for volume in PODS[f"{name} head"]["volumes"] if volume["name"] == "api-token"]
    files = {path for source in volume["projected"]["sources"] for path in re.findall(r"'path': '([^']+)'", str(source))}
    assert files == {"token", "ca.crt", "namespace"}
    assert not [pod for pod, spec in PODS.items() if not pod.endswith(" head") and "api-token" in str(spec)]


def test_service_accounts_take_the_roles_that_terraform_makes_and_no_token() -> None:
    accounts = {document["metadata"]["name"]: document for document in DOCUMENTS.values() if document["kind"] == "ServiceAccount"}
    assert all(f"{account} " in parsed("roles.tf")["locals"][0]["accounts"] for account in accounts)
    name = blocks("resource")["aws_iam_role.account"]["name"].replace("${each.key}", "{}")
    for account, document in accounts.items():
        assert document["automountServiceAccountToken"] is False
        assert document["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] == f"arn:aws:iam::000000000000:role/{name.format(account)}"
    used = {spec["serviceAccountName"] for pod, spec in PODS.items() if not pod.startswith("serve ")}
    assert used == {"foodray-job"}
    assert {spec["serviceAccountName"] for pod, spec in PODS.items() if pod.startswith("serve ")} == {"foodray-serve"}


def test_kubernetes_itself_refuses_pods_that_are_less_closed() -> None:
    [namespace] = [document for document in DOCUMENTS.values() if document["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {document["metadata"].get("namespace", "foodray") for document in DOCUMENTS.values()} == {"foodray"}


def test_the_network_is_closed_both_ways_by_default() -> None:
    assert POLICIES["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_openings_are_these_and_no_other() -> None:
    assert POLICIES.keys() == {"default-deny", "dns", "object-store", "operator", "api-server", "metrics", "serve-proxy"} | {
        f"{name}-nodes" for name in CLUSTERS
    }


def test_out_go_only_dns_tls_to_public_addresses_and_the_autoscalers_calls() -> None:
    out = {name: spec["egress"] for name, spec in POLICIES.items() if "egress" in spec and not name.endswith("-nodes")}
    assert {name: [port["port"] for rule in rules for port in rule["ports"]] for name, rules in out.items()} == {
        "dns": [53, 53],
        "object-store": [443],
        "api-server": [443, 6443],
    }
    [block] = [peer["ipBlock"] for rule in out["object-store"] for peer in rule["to"]]
    assert {"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(block["except"])
    assert POLICIES["api-server"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
    assert [peer["ipBlock"]["cidr"] for rule in out["api-server"] for peer in rule["to"]] == ["192.0.2.0/24"], "TEST-NET: nobody, until it is replaced"


def test_in_come_only_the_operator_prometheus_and_the_proxy() -> None:
    into = {name: spec["ingress"] for name, spec in POLICIES.items() if "ingress" in spec and not name.endswith("-nodes")}
    assert {name: [port["port"] for rule in rules for port in rule["ports"]] for name, rules in into.items()} == {
        "operator": [8265, 8000],
        "metrics": [8080],
        "serve-proxy": [8000],
    }
    for rules in into.values():
        for peer in (peer for rule in rules for peer in rule["from"]):
            assert peer["namespaceSelector"]["matchLabels"], "no opening to every namespace"
            assert "ipBlock" not in peer
    assert not [document for document in DOCUMENTS.values() if document["kind"] in ("Ingress", "Service")]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_talks_within_itself_only(name: str) -> None:
    labels = CLUSTERS[name]["headGroupSpec"]["template"]["metadata"]["labels"]
    own = {"podSelector": {"matchLabels": labels}}
    assert labels["app.kubernetes.io/component"] == name
    assert all(group["template"]["metadata"]["labels"] == labels for group in CLUSTERS[name]["workerGroupSpecs"])
    policy = POLICIES[f"{name}-nodes"]
    assert policy["podSelector"] == own["podSelector"]
    assert policy["ingress"] == [{"from": [own]}]
    assert policy["egress"] == [{"to": [own]}]


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_dashboard_is_a_service_inside_the_cluster_only(name: str) -> None:
    head = CLUSTERS[name]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"]["dashboard-host"] == "0.0.0.0", "the operator is another pod; the policies and the token close it"


@pytest.mark.parametrize("name", CONTAINERS)
def test_probes_ask_what_ray_answers_without_a_token(name: str) -> None:
    from ray.dashboard import http_server_agent

    for probe in ("livenessProbe", "readinessProbe"):
        [python, flag, code] = CONTAINERS[name][probe]["exec"]["command"]
        assert (python, flag) == ("python", "-c")
        compile(code, name, "exec")
        [port, path] = re.findall(r"http://localhost:(\d+)(/[\w/]+)", code)[0]
        assert int(port) == ray._private.ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
        assert path in Path(http_server_agent.__file__).read_text()


def test_the_clusters_differ_only_where_they_mean_to() -> None:
    """Four files repeat the same pods, for `kubectl apply -f` of one file: what is closed in one is closed in all."""

    def same(name: str) -> Any:
        text = json.dumps(CLUSTERS[name], sort_keys=True)
        text = re.sub(r'"(minReplicas|replicas|maxReplicas|idleTimeoutSeconds)": \d+', r'"\1": 0', text)
        return text.replace("foodray-serve", "foodray-job").replace(f'"app.kubernetes.io/component": "{name}"', '"app.kubernetes.io/component": "x"')

    assert len({same(name) for name in CLUSTERS}) == 1


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make manifests` writes, in a copy of what it reads."""
    folder = tmp_path_factory.mktemp("manifests")
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(FOLDER, folder / "infra" / "kuberay")
    return folder


def make(folder: Path, **values: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "manifests", *(f"{name}={value}" for name, value in values.items())]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


VALUES = {
    "CPU": f"registry.example/foodray-cpu@sha256:{'a' * 64}",
    "CUDA": f"registry.example/foodray-cuda@sha256:{'b' * 64}",
    "ACCOUNT": "123456789012",
    "BUCKET": "our-study",
    "APISERVER": "10.1.2.0/24",
}


def test_make_manifests_replaces_every_placeholder_and_nothing_else(manifests: Path) -> None:
    done = make(manifests, **VALUES)
    assert done.returncode == 0, done.stderr
    made = sorted((manifests / "runs" / "kuberay").glob("*.yaml"))
    assert [path.name for path in made] == FILES
    for path in made:
        text = path.read_text()
        assert not PLACEHOLDER.search(text)
        assert not re.search(r"192\.0\.2\.0|s3://study/", text)
        assert [document["kind"] for document in documents(path)] == [document["kind"] for document in documents(FOLDER / path.name)]
        for document in documents(path):
            jsonschema.validate(document, schema(document["kind"]))


@pytest.mark.parametrize("name", VALUES)
def test_make_manifests_refuses_to_leave_a_placeholder(name: str, manifests: Path) -> None:
    done = make(manifests, **{key: value for key, value in VALUES.items() if key != name})
    assert done.returncode != 0
    assert name in done.stderr


def test_make_manifests_refuses_an_image_by_tag(manifests: Path) -> None:
    done = make(manifests, **(VALUES | {"CUDA": "registry.example/foodray-cuda:latest"}))
    assert done.returncode != 0
    assert "by digest" in done.stderr
