"""infra/terraform, parsed: its blocks as plain values and its policies as statements, with stand-ins for what only AWS knows."""

import re
from functools import cache
from typing import Any

import hcl2
from iam import Statement
from infra_files import INFRA

FOLDER = INFRA / "terraform"
ACCOUNT = "arn:aws:ec2:eu-central-1:123456789012"
STAND_INS = {
    "aws_s3_bucket.study.arn": "arn:aws:s3:::study",
    "aws_kms_key.bucket.arn": "arn:aws:kms:eu-central-1:123456789012:key/of-the-bucket",
    "aws_iam_role.worker.arn": "arn:aws:iam::123456789012:role/foodray-worker",
    "aws_iam_instance_profile.worker.arn": "arn:aws:iam::123456789012:instance-profile/foodray-worker",
    "var.region": "eu-central-1",
    "var.cluster_name": "foodray",
    "var.namespace": "foodray",
    "data.aws_caller_identity.current.account_id": "123456789012",
    "var.oidc_provider_arn": "arn:aws:iam::123456789012:oidc-provider/oidc.eks.example/id/A1",
    "local.oidc_host": "oidc.eks.example/id/A1",
}
STARTED = [f"{ACCOUNT}:security-group/sg-1", f"{ACCOUNT}:subnet/subnet-1", "arn:aws:ec2:eu-central-1::image/ami-1"] + [
    f"{ACCOUNT}:{kind}/*" for kind in ("network-interface", "volume", "key-pair", "spot-instances-request")
]
"""What the one computed list of resources, that of the autoscaler's StartThemHere, comes to."""


def plain(value: Any) -> Any:
    """A parsed value without quotes, comments and marks."""
    if isinstance(value, dict):
        return {_bare(key): plain(found) for key, found in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [plain(found) for found in value]
    return _bare(value) if isinstance(value, str) else value


def _bare(text: str) -> str:
    return text[1:-1] if text[:1] == text[-1:] == '"' else text


@cache
def parsed(file: str) -> dict[str, Any]:
    """A file of infra/terraform."""
    found: dict[str, Any] = plain(hcl2.loads((FOLDER / file).read_text()))
    return found


@cache
def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """All blocks of a kind (resource, data, variable, output …), by type and name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        for block in parsed(path.name).get(kind, []):
            [(first, inside)] = block.items()
            labels = {f"{first}.{name}": settings for name, settings in inside.items()} if kind in ("resource", "data") else {first: inside}
            assert not labels.keys() & found.keys()
            found |= labels
    return found


def statements(document: str) -> list[Statement]:
    """The statements of an aws_iam_policy_document, those of its sources first."""
    block = blocks("data")[f"aws_iam_policy_document.{document}"]
    sources = [re.findall(r"aws_iam_policy_document\.(\w+)\.json", source)[0] for source in block.get("source_policy_documents", [])]
    own = [_statement(found) for found in block["statement"]]
    return [found for source in sources for found in statements(source)] + own


def _statement(block: dict[str, Any]) -> Statement:
    made: dict[str, Any] = {"Sid": block.get("sid", ""), "Effect": block.get("effect", "Allow"), "Action": block["actions"]}
    if "resources" in block:
        listed = block["resources"]
        made["Resource"] = [_filled(found) for found in listed] if isinstance(listed, list) else STARTED
    conditions: dict[str, dict[str, list[str]]] = {}
    for condition in block.get("condition", []):
        conditions.setdefault(condition["test"], {})[_filled(condition["variable"])] = [_filled(value) for value in condition["values"]]
    if conditions:
        made["Condition"] = conditions
    if "principals" in block:
        made["Principal"] = [(found["type"], [_filled(name) for name in found["identifiers"]]) for found in block["principals"]]
    return made


def _filled(text: str) -> str:
    """A text with stand-ins in place of references; one without a stand-in fails."""
    return re.sub(r"\$\{([^}]+)\}", lambda found: found[1] if found[1] == "each.key" else STAND_INS[found[1]], text)
