"""The locks, read: every package with its version, marker, hashes and the packages that asked for it. They are what `make lock` wrote with uv."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "infra" / "requirements.txt"
"""What `make install` installs: foodray and what its development needs."""
RUNTIME = ROOT / "infra" / "runtime.txt"
"""What the images hold."""
_ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A package of a lock."""

    name: str
    version: str
    marker: str
    """Where it is installed; empty for everywhere."""
    hashes: tuple[str, ...]
    """SHA-256 of each file that may be installed."""
    via: tuple[str, ...]
    """Packages that asked for it; "foodray" for a direct dependency."""


def read_lock(path: Path) -> list[Pin]:
    """The packages of a lock, in its order. Raises `ValueError` for a line that is not one of uv's."""
    pins: list[Pin] = []
    block: list[str] = []
    for number, line in enumerate([*path.read_text().splitlines(), "end==0"], 1):
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" "):
            if block:
                pins.append(_pin(block, f"{path.name}:{number}"))
            block = []
        block.append(line)
    return pins


def _pin(block: list[str], where: str) -> Pin:
    found = _ENTRY.match(block[0])
    if found is None:
        raise ValueError(f"{where}: {block[0]!r} is not a pinned package; run `make lock`")
    comments = [line.strip().removeprefix("#").strip().removeprefix("via").strip() for line in block if line.strip().startswith("#")]
    return Pin(
        name=found["name"],
        version=found["version"],
        marker=found["marker"] or "",
        hashes=tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", "\n".join(block))),
        via=tuple("foodray" if name.startswith("foodray ") else name for name in comments if name and not name.startswith("-")),
    )
