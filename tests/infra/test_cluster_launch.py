"""Claims about what Ray's launcher does with cluster.yaml, run against moto instead of AWS: its own code, from the bootstrap to the last instance's end."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from infra_files import cluster_config
from moto import mock_aws
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import utils
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
from ray.core.generated.instance_manager_pb2 import Instance

REGION = cluster_config()["provider"]["region"]


@dataclass
class Runner:
    """Takes what the launcher would run on this machine: ssh and rsync."""

    ran: list[list[str]] = field(default_factory=list)
    bootstrap: dict[str, Any] = field(default_factory=dict)
    DEVNULL = subprocess.DEVNULL

    def check_call(self, command: list[str], *_: Any, **__: Any) -> None:
        self.ran.append(command)
        for word in command:
            if Path(word).name.startswith("ray-bootstrap-") and Path(word).exists():
                self.bootstrap = json.loads(Path(word).read_text())

    def check_output(self, command: list[str], *_: Any, **__: Any) -> bytes:
        self.ran.append(command)
        return b""

    def said(self) -> str:
        return "\n".join(" ".join(command) for command in self.ran)


@dataclass
class Launch:
    """A launched cluster."""

    ec2: Any
    calls: list[str]
    """Every call to AWS, as service:Operation."""
    group: str
    subnet: str
    runner: Runner
    config: dict[str, Any]
    folder: Path

    def instances(self) -> list[dict[str, Any]]:
        found = self.ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}])
        return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """The head, started by the code of `ray up`."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        for name, value in {"HOME": str(home), "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}.items():
            patch.setenv(name, value)
        calls: list[str] = []
        session = boto3.Session()
        session.events.register("provide-client-params.*.*", lambda model, **_: calls.append(f"{model.service_model.service_id.lower()}:{model.name}"))
        patch.setattr(boto3, "DEFAULT_SESSION", session)
        utils.resource_cache.cache_clear()
        utils.client_cache.cache_clear()
        yield _launched(home, calls)
        utils.resource_cache.cache_clear()
        utils.client_cache.cache_clear()


def _launched(home: Path, calls: list[str]) -> Launch:
    ec2 = boto3.Session().client("ec2", REGION)
    vpc = ec2.create_vpc(CidrBlock="10.42.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.42.0.0/20")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="foodray-cluster", Description="nodes", VpcId=vpc)["GroupId"]
    iam = boto3.Session().client("iam", REGION)
    for name in ("foodray-cluster", "foodray-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("of the test")
    raw = cluster_config(sg=group, subnet=subnet, cpu=image, gpu=image)
    raw["file_mounts"]["~/foodray"] = str(home / "foodray")  # its content is hashed: a small folder in place of the repository
    (home / "foodray").mkdir()
    runner = Runner()
    config = commands._bootstrap_config(raw, no_config_cache=True)
    commands.get_or_create_head_node(config, "cluster.yaml", False, False, True, None, _runner=runner)
    return Launch(ec2, calls, group, subnet, runner, config, home)


def test_the_launcher_starts_one_on_demand_head_as_the_file_says(launch: Launch) -> None:
    heads = [instance for instance in launch.instances() if {"Key": "ray-node-type", "Value": "head"} in instance["Tags"]]
    [head] = heads
    assert head["InstanceType"] == "m7i.xlarge"
    assert "InstanceLifecycle" not in head
    assert [found["GroupId"] for found in head["SecurityGroups"]] == [launch.group]
    assert head["SubnetId"] == launch.subnet
    assert head.get("PublicIpAddress", "") == ""
    assert head["MetadataOptions"]["HttpTokens"] == "required"


def test_the_launcher_makes_no_security_group_and_no_role(launch: Launch) -> None:
    assert not {"ec2:CreateSecurityGroup", "ec2:AuthorizeSecurityGroupIngress", "iam:CreateRole", "iam:CreateInstanceProfile"} & set(launch.calls)


def test_the_launcher_knows_what_each_instance_type_has(launch: Launch) -> None:
    types = launch.config["available_node_types"]
    assert types["gpu"]["resources"].items() >= {"CPU": 8, "GPU": 1}.items()
    assert types["cpu"]["resources"]["CPU"] == 16
    assert types["head"]["resources"]["CPU"] == 0


def test_the_launcher_reaches_the_head_through_the_session_manager_by_its_id(launch: Launch) -> None:
    connections = [command for command in launch.runner.ran if command[0] == "ssh"]
    assert connections
    for command in connections:
        assert any(word.startswith("ProxyCommand=aws ssm start-session ") for word in command)
        assert any(word.startswith("ubuntu@i-") for word in command)


def test_the_head_gets_the_token_before_it_installs_and_starts(launch: Launch) -> None:
    said = launch.runner.said()
    assert said.index("auth_token ubuntu@") < said.index("make install") < said.index("ray start --head")
    assert "RAY_AUTH_MODE=token" in said[said.index("RAY_enable_autoscaler_v2") :]
    assert "of the test" not in said


def test_the_heads_autoscaler_starts_spot_workers_and_ends_them_with_four_calls(launch: Launch) -> None:
    """Those four, and the right to hand over the worker's role, are all that the head's policy allows (tests/infra/test_terraform.py)."""
    file = launch.folder / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(_on_the_head(launch)))
    launch.calls.clear()
    reader = FileConfigReader(str(file))
    config = reader.get_cached_autoscaling_config()
    provider = _get_node_provider(config.get_config("provider"), config.get_config("cluster_name"))
    adapter = NodeProviderAdapter(v1_provider=provider, config_reader=reader)
    for kind in ("gpu", "cpu"):
        adapter._launch_nodes_by_type(kind, 1, f"request-{kind}")  # moto starts MinCount, which Ray sets to 1
    assert not adapter.poll_errors()
    workers = {name: node for name, node in adapter.get_non_terminated().items() if node.node_type != "head"}
    assert sorted(node.node_type for node in workers.values()) == ["cpu", "gpu"]
    spot = [instance for instance in launch.instances() if instance["InstanceId"] in workers]
    assert {instance["InstanceLifecycle"] for instance in spot} == {"spot"}
    assert {instance["MetadataOptions"]["HttpTokens"] for instance in spot} == {"required"}
    _install(provider, config, next(iter(workers)))
    adapter._do_terminate(list(workers), "request-end")
    assert not adapter.poll_errors()
    assert len(launch.instances()) == 1
    assert set(launch.calls) == {"ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"}


def _on_the_head(launch: Launch) -> dict[str, Any]:
    """The config that the head got, with the paths of its home."""
    config = launch.runner.bootstrap
    shutil.copy(launch.config["auth"]["ssh_private_key"], launch.folder / "ray_bootstrap_key.pem")
    assert "ssh_proxy_command" not in config["auth"], "the head reaches its workers directly"
    return config


def _install(provider: Any, config: Any, node: str) -> None:
    runner = Runner()
    RayInstaller(provider, config, process_runner=runner).install_ray(Instance(instance_id="1", cloud_instance_id=node, instance_type="gpu"), "10.42.0.9")
    said = runner.said()
    assert said.index("auth_token ubuntu@10.42.") < said.index("make install") < said.index("~/foodray/.venv/bin/ray start")
    assert "--address=$RAY_HEAD_IP:6379" in said
