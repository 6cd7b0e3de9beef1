"""A bill of materials of each lock in CycloneDX JSON: `make sbom` writes runs/sbom/*.cdx.json, checked against the format's own schema.

Each package has its purl, its licence (of infra/licences.md), the hashes of its files and what it depends on; the root is foodray.
"""

import hashlib
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from infra.supply.licences import TABLE, rows
from infra.supply.lock import REQUIREMENTS, ROOT, RUNTIME, Pin, read_lock

FOLDER = ROOT / "runs" / "sbom"


def main() -> int:
    """Write and check the bills of both locks; returns the exit code."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    licences = {name: found for name, (_, found, _) in rows(TABLE.read_text()).items()}
    for path in (REQUIREMENTS, RUNTIME):
        text = bill(path, licences)
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
        if problem is not None:
            print(f"error: the bill of {path.name} is not CycloneDX 1.6: {problem}", file=sys.stderr)
            return 1
        out = FOLDER / f"{path.stem}.cdx.json"
        out.write_text(text)
        print(f"{out.relative_to(ROOT)}: {len(read_lock(path))} packages, valid CycloneDX 1.6")
    return 0


def bill(path: Path, licences: Mapping[str, str]) -> str:
    """The bill of a lock as JSON; the same lock gives the same serial number."""
    pins = read_lock(path)
    root = Component(name="foodray", type=ComponentType.APPLICATION, bom_ref="foodray", licenses=[DisjunctiveLicense(id="Apache-2.0")])
    components = {f"{pin.name}@{pin.version}": _component(pin, licences.get(pin.name)) for pin in pins}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    bom = Bom(components=components.values(), serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"foodray:{digest}"))
    bom.metadata.component = root
    asked: dict[str, list[Component]] = {}
    for pin in pins:
        for parent in pin.via:
            asked.setdefault(parent.split("[")[0], []).append(components[f"{pin.name}@{pin.version}"])
    bom.register_dependency(root, asked.get("foodray", []))
    for pin in pins:
        bom.register_dependency(components[f"{pin.name}@{pin.version}"], asked.get(pin.name, []))
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _component(pin: Pin, licence: str | None) -> Component:
    purl = PackageURL("pypi", name=pin.name, version=pin.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=found) for found in pin.hashes],
    )
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=[DisjunctiveLicense(name=licence)] if licence else [],
        external_references=[files],
    )


if __name__ == "__main__":
    sys.exit(main())
