"""Claims about infra/terraform, read from its source: the bucket's defaults, the closed network, and who may do what, asked one request at a time."""

import re
import shutil
import subprocess
from typing import Any

import pytest
from iam import is_allowed, is_denied
from infra_files import PLACEHOLDER, ROOT, cluster_config
from terraform_files import ACCOUNT, FOLDER, blocks, statements

BUCKET = "arn:aws:s3:::study"
KEY = "arn:aws:kms:eu-central-1:123456789012:key/of-the-bucket"
S3 = {"kms__ViaService": "s3.eu-central-1.amazonaws.com"}
OURS = {"aws__RequestTag_ray_cluster_name": "foodray"}
IMDS_V2 = {"ec2__MetadataHttpTokens": "required"}
PROFILE = {"ec2__InstanceProfile": "arn:aws:iam::123456789012:instance-profile/foodray-worker"}


def resource(name: str) -> dict[str, Any]:
    return blocks("resource")[name]


def test_there_is_one_bucket_and_it_is_not_destroyed_by_a_slip() -> None:
    assert [name for name in blocks("resource") if name.startswith("aws_s3_bucket.")] == ["aws_s3_bucket.study"]
    assert resource("aws_s3_bucket.study")["lifecycle"][0]["prevent_destroy"] is True


def test_the_bucket_blocks_public_access_in_all_four_ways() -> None:
    block = resource("aws_s3_bucket_public_access_block.study")
    assert all(block[name] is True for name in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"))
    assert resource("aws_s3_bucket_ownership_controls.study")["rule"][0]["object_ownership"] == "BucketOwnerEnforced"


def test_the_bucket_is_encrypted_with_a_key_of_its_own_that_rotates() -> None:
    [rule] = resource("aws_s3_bucket_server_side_encryption_configuration.study")["rule"]
    [default] = rule["apply_server_side_encryption_by_default"]
    assert default["sse_algorithm"] == "aws:kms"
    assert default["kms_master_key_id"] == "${aws_kms_key.bucket.arn}"
    assert resource("aws_kms_key.bucket")["enable_key_rotation"] is True


def test_the_bucket_keeps_versions() -> None:
    assert resource("aws_s3_bucket_versioning.study")["versioning_configuration"][0]["status"] == "Enabled"


def test_the_bucket_forgets_old_versions_and_unfinished_uploads() -> None:
    [rule] = resource("aws_s3_bucket_lifecycle_configuration.study")["rule"]
    assert rule["status"] == "Enabled"
    assert rule["noncurrent_version_expiration"][0]["noncurrent_days"] == "${var.keep_old_versions_days}"
    assert rule["abort_incomplete_multipart_upload"][0]["days_after_initiation"] == 7
    assert "days" not in rule["expiration"][0], "current photographs and results are never expired"


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:ListBucket"])
def test_the_bucket_is_reached_over_tls_only(action: str) -> None:
    where = BUCKET if action == "s3:ListBucket" else f"{BUCKET}/raw/a.jpg"
    assert is_denied(statements("bucket"), action, where, aws__SecureTransport="false")
    assert is_denied(statements("bucket"), action, where, aws__SecureTransport="true", s3__TlsVersion="1.1")
    assert not is_denied(statements("bucket"), action, where, aws__SecureTransport="true", s3__TlsVersion="1.3")


def test_nobody_writes_with_another_encryption() -> None:
    sent = {"aws__SecureTransport": "true", "s3__TlsVersion": "1.3"}
    assert is_denied(statements("bucket"), "s3:PutObject", f"{BUCKET}/raw/a.jpg", **sent, s3__x_amz_server_side_encryption="AES256")
    assert not is_denied(statements("bucket"), "s3:PutObject", f"{BUCKET}/raw/a.jpg", **sent, s3__x_amz_server_side_encryption="aws:kms")
    assert not is_denied(statements("bucket"), "s3:PutObject", f"{BUCKET}/raw/a.jpg", **sent)


MAY = {
    "reads raw photographs": ("s3:GetObject", f"{BUCKET}/raw/photos/a.jpg", {}),
    "reads what was derived": ("s3:GetObject", f"{BUCKET}/derived/corpus/a.parquet", {}),
    "writes what is derived": ("s3:PutObject", f"{BUCKET}/derived/runs/a", {}),
    "removes its own old checkpoints": ("s3:DeleteObject", f"{BUCKET}/derived/runs/a", {}),
    "lists raw": ("s3:ListBucket", BUCKET, {"s3__prefix": "raw/photos/"}),
    "lists derived": ("s3:ListBucket", BUCKET, {"s3__prefix": "derived/"}),
    "asks whether the bucket is there": ("s3:ListBucket", BUCKET, {}),
    "decrypts through s3": ("kms:Decrypt", KEY, S3),
    "encrypts through s3": ("kms:GenerateDataKey", KEY, S3),
}
MAY_NOT = {
    "write raw": ("s3:PutObject", f"{BUCKET}/raw/photos/a.jpg", {}),
    "delete raw": ("s3:DeleteObject", f"{BUCKET}/raw/photos/a.jpg", {}),
    "delete old versions": ("s3:DeleteObjectVersion", f"{BUCKET}/derived/runs/a", {}),
    "read api keys": ("s3:GetObject", f"{BUCKET}/private/keys/a.json", {}),
    "write api keys": ("s3:PutObject", f"{BUCKET}/private/keys/a.json", {}),
    "list what is private": ("s3:ListBucket", BUCKET, {"s3__prefix": "private/keys/"}),
    "read another bucket": ("s3:GetObject", "arn:aws:s3:::other/raw/a.jpg", {}),
    "change the bucket's policy": ("s3:PutBucketPolicy", BUCKET, {}),
    "use the key past s3": ("kms:Decrypt", KEY, {}),
    "end the key": ("kms:ScheduleKeyDeletion", KEY, {}),
    "start instances": ("ec2:RunInstances", f"{ACCOUNT}:instance/*", OURS | IMDS_V2 | PROFILE),
    "pass a role on": ("iam:PassRole", "arn:aws:iam::123456789012:role/foodray-worker", {"iam__PassedToService": "ec2.amazonaws.com"}),
}


@pytest.mark.parametrize("deed", MAY)
def test_a_job_may_do_what_its_work_needs(deed: str) -> None:
    action, where, context = MAY[deed]
    assert is_allowed(statements("job"), action, where, **context)


@pytest.mark.parametrize("deed", MAY_NOT)
def test_a_job_may_do_nothing_else(deed: str) -> None:
    action, where, context = MAY_NOT[deed]
    assert not is_allowed(statements("job"), action, where, **context)


def test_the_endpoint_also_reads_the_hashes_of_keys_and_never_writes_them() -> None:
    serve = statements("serve")
    assert all(is_allowed(serve, action, where, **context) for action, where, context in MAY.values())
    assert is_allowed(serve, "s3:GetObject", f"{BUCKET}/private/keys/a.json")
    assert is_allowed(serve, "s3:ListBucket", BUCKET, s3__prefix="private/keys/")
    assert not is_allowed(serve, "s3:PutObject", f"{BUCKET}/private/keys/a.json")
    assert not is_allowed(serve, "s3:GetObject", f"{BUCKET}/private/other")
    assert not is_allowed(serve, "s3:PutObject", f"{BUCKET}/raw/a.jpg")


def test_the_heads_policy_has_the_calls_that_ray_makes_and_no_other() -> None:
    """The four that tests/infra/test_cluster_launch.py records, and the handing over of the worker's role that RunInstances asks for."""
    actions = {action for statement in statements("autoscaler") for action in statement["Action"]}
    assert actions == {"ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances", "iam:PassRole"}
    assert not [action for statement in statements("autoscaler") for action in statement["Action"] if "*" in action]


def test_the_head_starts_only_workers_of_this_cluster_with_imds_v2_and_the_workers_role() -> None:
    head, where = statements("autoscaler"), f"{ACCOUNT}:instance/*"
    assert is_allowed(head, "ec2:RunInstances", where, **OURS, **IMDS_V2, **PROFILE)
    assert not is_allowed(head, "ec2:RunInstances", where, **IMDS_V2, **PROFILE)
    assert not is_allowed(head, "ec2:RunInstances", where, **(OURS | {"aws__RequestTag_ray_cluster_name": "other"}), **IMDS_V2, **PROFILE)
    assert not is_allowed(head, "ec2:RunInstances", where, **OURS, **PROFILE, ec2__MetadataHttpTokens="optional")
    assert not is_allowed(head, "ec2:RunInstances", where, **OURS, **IMDS_V2, ec2__InstanceProfile="arn:aws:iam::123456789012:instance-profile/admin")
    assert not is_allowed(head, "ec2:RunInstances", f"{ACCOUNT}:subnet/subnet-other")
    assert not is_allowed(head, "ec2:RunInstances", f"{ACCOUNT}:security-group/sg-other")
    assert not is_allowed(head, "ec2:RunInstances", "arn:aws:ec2:eu-central-1::image/ami-other")


def test_the_head_ends_and_tags_only_its_own_nodes() -> None:
    head, node = statements("autoscaler"), f"{ACCOUNT}:instance/i-1"
    own = {"aws__ResourceTag_ray_cluster_name": "foodray"}
    for action in ("ec2:TerminateInstances", "ec2:CreateTags"):
        assert is_allowed(head, action, node, **own)
        assert not is_allowed(head, action, node)
        assert not is_allowed(head, action, node, aws__ResourceTag_ray_cluster_name="other")
    assert is_allowed(head, "ec2:CreateTags", node, ec2__CreateAction="RunInstances")


def test_the_head_hands_over_the_workers_role_and_no_other() -> None:
    head, to_ec2 = statements("autoscaler"), {"iam__PassedToService": "ec2.amazonaws.com"}
    assert is_allowed(head, "iam:PassRole", "arn:aws:iam::123456789012:role/foodray-worker", **to_ec2)
    assert not is_allowed(head, "iam:PassRole", "arn:aws:iam::123456789012:role/admin", **to_ec2)
    assert not is_allowed(head, "iam:PassRole", "arn:aws:iam::123456789012:role/foodray-worker", iam__PassedToService="lambda.amazonaws.com")


def test_the_profiles_of_cluster_yaml_are_made_here_with_their_policies() -> None:
    named = {settings["node_config"]["IamInstanceProfile"]["Name"] for settings in cluster_config()["available_node_types"].values()}
    made = {name: resource(f"aws_iam_instance_profile.{name}") for name in ("cluster", "worker")}
    assert {profile["name"] for profile in made.values()} == named
    assert made["cluster"]["role"] == "${aws_iam_role.head.name}"
    assert made["worker"]["role"] == "${aws_iam_role.worker.name}"
    assert resource("aws_iam_role_policy.head")["for_each"].keys() == {"job", "autoscaler", "session"}
    assert resource("aws_iam_role_policy.worker")["policy"] == "${data.aws_iam_policy_document.job.json}"


def test_roles_of_pods_are_taken_by_one_service_account_each() -> None:
    [statement] = statements("account")
    assert statement["Condition"]["StringEquals"] == {
        "oidc.eks.example/id/A1:sub": ["system:serviceaccount:foodray:each.key"],
        "oidc.eks.example/id/A1:aud": ["sts.amazonaws.com"],
    }


def test_no_policy_allows_whole_services_or_everything() -> None:
    allowed = [
        (name, action, statement.get("Resource"))
        for name in blocks("data")
        if name.startswith("aws_iam_policy_document.")
        for statement in statements(name.split(".")[1])
        if statement["Effect"] == "Allow"
        for action in statement["Action"]
    ]
    assert not [entry for entry in allowed if "*" in entry[1]]
    everywhere = {action for _, action, where in allowed if where == ["*"]}
    assert everywhere == {"ec2:DescribeInstances"} | {
        "ssm:UpdateInstanceInformation",
        *(f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")),
    }, "services without resources to name"
    attached = [name for name in blocks("resource") if "policy_attachment" in name]
    assert not attached, "no policy of AWS's own, which are all too wide"


def test_the_security_group_admits_itself_and_ssh_from_the_given_addresses_only() -> None:
    rules = {name: settings for name, settings in blocks("resource").items() if name.startswith("aws_vpc_security_group_ingress_rule.")}
    assert rules.keys() == {"aws_vpc_security_group_ingress_rule.itself", "aws_vpc_security_group_ingress_rule.ssh"}
    itself, ssh = (rules[f"aws_vpc_security_group_ingress_rule.{name}"] for name in ("itself", "ssh"))
    assert itself["referenced_security_group_id"] == itself["security_group_id"]
    assert (ssh["cidr_ipv4"], ssh["from_port"], ssh["to_port"], ssh["ip_protocol"]) == ("${var.ssh_cidr}", 22, 22, "tcp")
    assert ssh["count"] == "${var.ssh_cidr == null ? 0 : 1}"
    assert blocks("variable")["ssh_cidr"]["default"] in (None, "null")
    assert "ingress" not in resource("aws_security_group.cluster")
    assert not {"ingress", "egress"} & resource("aws_default_security_group.none").keys()


def test_no_subnet_gives_public_addresses() -> None:
    subnets = [settings for name, settings in blocks("resource").items() if name.startswith("aws_subnet.")]
    assert len(subnets) == 2
    assert not [subnet for subnet in subnets if subnet.get("map_public_ip_on_launch")]


def test_photographs_do_not_go_through_the_nat_gateway() -> None:
    endpoint = resource("aws_vpc_endpoint.s3")
    assert endpoint["service_name"] == "com.amazonaws.${var.region}.s3"
    assert endpoint["route_table_ids"] == ["${aws_route_table.private.id}"]


def test_every_placeholder_of_cluster_yaml_is_replaced_and_what_is_replaced_is_there() -> None:
    text = (ROOT / "cluster.yaml").read_text()
    replaced = re.findall(r'"([^"]+)",', blocks("output")["cluster_yaml"]["value"].replace('\\"', '"'))
    for place in PLACEHOLDER.findall(text):
        assert place in replaced
    for place in ("cluster_name: foodray", "eu-central-1"):
        assert place in replaced
        assert place in text


def test_no_variable_holds_a_secret_and_no_default_an_account() -> None:
    for name, variable in blocks("variable").items():
        assert variable.get("description"), name
        assert not re.search(r"secret|token|password", name)
    assert not re.search(r"\b\d{12}\b", "".join(path.read_text() for path in FOLDER.glob("*.tf")))


def test_the_provider_is_pinned() -> None:
    assert re.search(r'source  = "hashicorp/aws"\n\s+version = "\d+\.\d+\.\d+"', (FOLDER / "versions.tf").read_text())


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_the_files_are_formatted_as_terraform_writes_them() -> None:
    done = subprocess.run(["terraform", "fmt", "-check", "-diff", str(FOLDER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
