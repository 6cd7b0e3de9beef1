"""The files of infra/ as the tests read them, and the placeholders in them that a user's own values replace."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
PLACEHOLDER = re.compile(r"\b(?:sg|subnet|ami)-[a-z]*0{15,17}|sha256:0{64}|\b0{12}\b")
"""An id that exists in no account: what is not replaced starts nothing."""


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def cluster_config(**ids: str) -> dict[str, Any]:
    """cluster.yaml, as it stands or with ids in place of the placeholders: sg, subnet, cpu, gpu."""
    text = (ROOT / "cluster.yaml").read_text()
    places = {"sg": "sg-00000000000000000", "subnet": "subnet-00000000000000000", "cpu": "ami-cpu000000000000000", "gpu": "ami-gpu000000000000000"}
    for name, value in ids.items():
        assert places[name] in text
        text = text.replace(places[name], value)
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def without_comments(text: str) -> str:
    """A file of settings without its comments, for claims about what it says and not about what it explains."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", "//")))
