"""Claims about infra/terraform that Terraform itself shows: applied to moto, with AWS's provider, its policies judge as those of the source, and Ray's
launcher starts from its output.

It needs terraform and, where its registry cannot be reached, FOODRAY_TERRAFORM_PLUGINS: a folder for `terraform init -plugin-dir`.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from iam import is_allowed, is_denied
from infra_files import PLACEHOLDER, ROOT
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import utils

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")]

SERVICES = ("ec2", "iam", "kms", "s3", "ssm", "sts")
VARIABLES = """
bucket            = "study-of-the-test"
region            = "eu-west-1"
ssh_cidr          = "203.0.113.7/32"
oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.example/id/A1"
images            = { cpu = "/test/cpu", gpu = "/test/gpu" }
"""


@pytest.fixture(scope="module")
def applied(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The outputs of `terraform apply` on the S3 server of the tests, which is all of moto."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    if os.environ.get("FOODRAY_TEST_S3"):
        pytest.skip("an S3 server alone has no EC2, IAM and KMS")
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        folder = _checkout(home, endpoint)
        session = boto3.Session()
        images = [image["ImageId"] for image in session.client("ec2").describe_images()["Images"][:2]]
        for kind, image in zip(("cpu", "gpu"), images, strict=True):
            session.client("ssm").put_parameter(Name=f"/test/{kind}", Value=image, Type="String")
        plugins = os.environ.get("FOODRAY_TERRAFORM_PLUGINS")
        _terraform(folder, "init", "-input=false", *([f"-plugin-dir={plugins}"] if plugins else []))
        _terraform(folder, "validate")
        _terraform(folder, "apply", "-input=false", "-auto-approve", "-parallelism=4")
        outputs = json.loads(_terraform(folder, "output", "-json"))
        yield {name: found["value"] for name, found in outputs.items()} | {"home": home, "images": images}


def _checkout(home: Path, endpoint: str) -> Path:
    """A copy of what Terraform reads, sent to the test's own endpoint."""
    folder = home / "foodray" / "infra" / "terraform"
    shutil.copytree(ROOT / "infra" / "terraform", folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    shutil.copy(ROOT / "cluster.yaml", home / "foodray")
    (folder / "terraform.tfvars").write_text(VARIABLES)
    places = "\n".join(f'    {service} = "{endpoint}"' for service in SERVICES)
    (folder / "endpoint_override.tf").write_text(f'provider "aws" {{\n  s3_use_path_style = true\n  endpoints {{\n{places}\n  }}\n}}\n')
    return folder


def _terraform(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["terraform", arguments[0], "-no-color", *arguments[1:]], cwd=folder, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _policies(role: str) -> list[dict[str, Any]]:
    iam = boto3.Session().client("iam")
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    return [statement for name in names for statement in iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]]


def test_the_applied_roles_read_raw_and_write_derived(applied: dict[str, Any]) -> None:
    for role in ("foodray-head", "foodray-worker", "foodray-job-pods", "foodray-serve-pods"):
        policies, bucket = _policies(role), "arn:aws:s3:::study-of-the-test"
        assert is_allowed(policies, "s3:GetObject", f"{bucket}/raw/a.jpg")
        assert is_allowed(policies, "s3:PutObject", f"{bucket}/derived/a")
        assert not is_allowed(policies, "s3:PutObject", f"{bucket}/raw/a.jpg")
        assert is_allowed(policies, "s3:GetObject", f"{bucket}/private/keys/a.json") == (role == "foodray-serve-pods")
        assert is_allowed(
            policies, "ec2:TerminateInstances", "arn:aws:ec2:eu-west-1:123456789012:instance/i-1", aws__ResourceTag_ray_cluster_name="foodray"
        ) == (role == "foodray-head")


def test_the_applied_bucket_is_closed_encrypted_and_versioned(applied: dict[str, Any]) -> None:
    client, name = boto3.Session().client("s3"), "study-of-the-test"
    assert client.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    assert set(client.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values()) == {True}
    [rule] = client.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    statements = json.loads(client.get_bucket_policy(Bucket=name)["Policy"])["Statement"]
    assert is_denied(statements, "s3:GetObject", f"arn:aws:s3:::{name}/raw/a.jpg", aws__SecureTransport="false")


def test_the_applied_security_group_admits_itself_and_the_given_addresses(applied: dict[str, Any]) -> None:
    [group] = boto3.Session().client("ec2").describe_security_groups(Filters=[{"Name": "group-name", "Values": ["foodray-cluster"]}])["SecurityGroups"]
    admitted = {
        (rule["IpProtocol"], *(found["CidrIp"] for found in rule["IpRanges"]), *(pair["GroupId"] for pair in rule["UserIdGroupPairs"]))
        for rule in group["IpPermissions"]
    }
    assert admitted == {("-1", group["GroupId"]), ("tcp", "203.0.113.7/32")}


def test_the_roles_of_pods_are_those_that_the_manifests_take(applied: dict[str, Any]) -> None:
    assert applied["pod_roles"].keys() == {"foodray-job", "foodray-serve"}
    assert applied["places"] == {prefix: f"s3://study-of-the-test/{prefix}" for prefix in ("raw", "derived", "private")}


def test_rays_launcher_accepts_the_cluster_yaml_that_comes_out(applied: dict[str, Any]) -> None:
    text = applied["cluster_yaml"]
    assert not PLACEHOLDER.search(text)
    config = yaml.safe_load(text)
    (applied["home"] / ".ray").mkdir()
    (applied["home"] / ".ray" / "auth_token").write_text("of the test")
    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()
    ready = commands._bootstrap_config(config, no_config_cache=True)
    assert ready["provider"]["region"] == "eu-west-1"
    for kind, settings in ready["available_node_types"].items():
        assert settings["node_config"]["ImageId"] == applied["images"][kind == "gpu"]
        assert len(settings["node_config"]["SubnetIds"]) == 3
    assert "eu-west-1" in ready["auth"]["ssh_proxy_command"]


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "203.0.113.7"])
def test_addresses_that_are_too_many_or_none_are_refused(cidr: str, applied: dict[str, Any]) -> None:
    folder = applied["home"] / "foodray" / "infra" / "terraform"
    done = subprocess.run(
        ["terraform", "plan", "-no-color", "-input=false", "-refresh=false", f"-var=ssh_cidr={cidr}"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "ssh_cidr must be a CIDR of /16 or narrower" in done.stderr
