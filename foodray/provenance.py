"""What code made a thing: the version of the package and a digest of its source, for lineage in bundles and runs."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from foodray import __version__


@cache
def code_digest() -> str:
    """SHA-256 over every Python file of the package, names included: changes with any change of the code."""
    root = Path(__file__).parent
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


def lineage() -> dict[str, str]:
    """Versions that a reader needs to repeat a run."""
    packages = {name: metadata.version(name) for name in ("ray", "torch", "torchvision", "timm", "pyarrow", "numpy")}
    return {"foodray": __version__, "code_sha256": code_digest(), "python": platform.python_version(), **packages}
