"""Claims about cluster.yaml: Ray's launcher accepts it, and each of its defaults is the safe one."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
from infra_files import PLACEHOLDER, ROOT, cluster_config, without_comments
from ray.autoscaler._private.util import prepare_config, validate_config

SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
TYPES = cluster_config()["available_node_types"]
COMMANDS = ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


def test_the_file_satisfies_rays_own_schema() -> None:
    jsonschema.validate(cluster_config(), SCHEMA)


def test_rays_launcher_prepares_and_accepts_the_file() -> None:
    prepared = prepare_config(cluster_config())
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == TYPES.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("provider"), "provider"),
        (lambda config: config.update(idle_timeout_minutes="ten"), "ten"),
        (lambda config: config.update(head_node_typo="head"), "head_node_typo"),
        (lambda config: config["auth"].pop("ssh_proxy_command"), "ssh_proxy_command"),
        (lambda config: config.update(head_node_type="haed"), "head_node_type"),
    ],
)
def test_a_mistake_in_the_file_would_be_found(change: Any, message: str) -> None:
    config = copy.deepcopy(cluster_config())
    change(config)
    with pytest.raises((jsonschema.ValidationError, ValueError), match=message):
        validate_config(prepare_config(config) if "provider" in config else config)


def test_the_head_is_on_demand_and_does_no_work() -> None:
    head = TYPES[cluster_config()["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    assert (head["min_workers"], head["max_workers"]) == (0, 0)


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_workers_are_spot_and_come_and_go_with_the_work(kind: str) -> None:
    assert TYPES[kind]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert TYPES[kind]["min_workers"] == 0
    assert 0 < TYPES[kind]["max_workers"] <= cluster_config()["max_workers"]
    assert cluster_config()["idle_timeout_minutes"] <= 15
    assert cluster_config()["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("kind", TYPES)
def test_every_node_demands_imds_v2_with_one_hop(kind: str) -> None:
    assert TYPES[kind]["node_config"]["MetadataOptions"] == {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1}


@pytest.mark.parametrize("kind", TYPES)
def test_every_disk_is_encrypted_and_ends_with_its_node(kind: str) -> None:
    for disk in TYPES[kind]["node_config"]["BlockDeviceMappings"]:
        assert disk["Ebs"]["Encrypted"] is True
        assert disk["Ebs"]["DeleteOnTermination"] is True
    assert TYPES[kind]["node_config"]["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_workers_have_the_role_that_cannot_start_instances() -> None:
    profiles = {kind: settings["node_config"]["IamInstanceProfile"]["Name"] for kind, settings in TYPES.items()}
    assert profiles == {"head": "foodray-cluster", "gpu": "foodray-worker", "cpu": "foodray-worker"}


@pytest.mark.parametrize("kind", TYPES)
def test_no_node_is_in_a_security_group_that_ray_makes_for_itself(kind: str) -> None:
    """Ray's own lets ssh in from 0.0.0.0/0."""
    assert TYPES[kind]["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]
    assert "security_group" not in cluster_config()["provider"]


def test_no_node_has_a_public_address_and_ssh_needs_no_open_port() -> None:
    config = cluster_config()
    assert config["provider"]["use_internal_ips"] is True
    assert config["auth"]["ssh_proxy_use_node_id"] is True
    assert config["auth"]["ssh_proxy_command"].startswith("aws ssm start-session ")
    assert not [kind for kind in TYPES if "NetworkInterfaces" in TYPES[kind]["node_config"]]


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_token_authentication_is_set_explicitly_where_ray_starts(commands: str) -> None:
    [start] = [line for line in cluster_config()[commands] if "ray start" in line]
    assert start.startswith("RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token ")
    assert "--disable-usage-stats" in start


def test_the_token_is_a_file_of_the_user_and_stands_nowhere_in_the_file() -> None:
    config = cluster_config()
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    assert not re.search(r"[0-9a-f]{32}|RAY_AUTH_TOKEN=", (ROOT / "cluster.yaml").read_text())


def test_the_shells_of_every_node_use_the_token_too() -> None:
    [line] = [line for line in cluster_config()["setup_commands"] if ".profile" in line]
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in line


def test_the_dashboard_listens_on_localhost_only() -> None:
    [start] = [line for line in cluster_config()["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start


def test_nothing_in_the_file_listens_on_or_admits_everybody() -> None:
    assert not re.search(r"0\.0\.0\.0|::/0", without_comments((ROOT / "cluster.yaml").read_text()))


def test_every_node_installs_the_locked_environment() -> None:
    config = cluster_config()
    assert "cd ~/foodray && make install" in config["setup_commands"]
    assert config["file_mounts"]["~/foodray"] == "."
    installs = [line for name in COMMANDS for line in config[name] if re.search(r"\b(pip|uv|conda)3? install", line)]
    assert not installs, "only the lock installs"
    rule = (ROOT / "Makefile").read_text()
    assert "pip sync --require-hashes --compile-bytecode infra/requirements.txt" in rule


def test_ray_is_the_one_of_the_lock() -> None:
    starts = [line for name in COMMANDS for line in cluster_config()[name] if re.search(r"\bray (start|stop)", line)]
    assert all("~/foodray/.venv/bin/ray " in line for line in starts)


def test_what_only_this_machine_needs_is_not_sent() -> None:
    assert {".venv", "runs", ".git", ".terraform", "*.tfstate*"} <= set(cluster_config()["rsync_exclude"])


def test_the_file_as_committed_starts_nothing() -> None:
    found = set(PLACEHOLDER.findall((ROOT / "cluster.yaml").read_text()))
    assert found == {"sg-00000000000000000", "subnet-00000000000000000", "ami-cpu000000000000000", "ami-gpu000000000000000"}
