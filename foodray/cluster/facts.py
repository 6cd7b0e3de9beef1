"""What one node knows of itself: versions, GPUs, disks, memory, limits. It imports the standard library alone, so that it runs on a node of any version.

Every function runs inside a Ray worker of the node. The node's own settings are those of its raylet, the worker's parent: its arguments, its environment.
"""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ASK_TORCH = """
import json, torch
found = []
for index in range(torch.cuda.device_count()):
    about = torch.cuda.get_device_properties(index)
    torch.zeros(1, device=f"cuda:{index}").cpu()
    found.append({"name": about.name, "bytes": about.total_memory})
print(json.dumps(found))
"""
TORCH_S = 120  # importing torch takes half a minute on a loaded core
VERSIONS_OF = ("ray", "torch", "torchvision", "pyarrow", "numpy")
MUST_AGREE = ("python", *VERSIONS_OF, "foodray", "code_sha256")


def versions() -> dict[str, str]:
    """Version by name, of Python, of the packages a run depends on most, and of foodray with the hash of its code; what is not there is 'none'."""
    import platform

    found = {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS_OF}}
    try:
        from foodray import __version__
        from foodray.provenance import code_digest

        return {**found, "foodray": __version__, "code_sha256": code_digest()}
    except ImportError:
        return {**found, "foodray": "none", "code_sha256": "none"}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def differing(mine: dict[str, str], found: dict[str, str]) -> list[str]:
    """What of a node's versions is not what this process has, in words."""
    names = {"code_sha256": "foodray's code", "foodray": "foodray"}
    return [
        f"{names.get(name, name)} {_short(found.get(name, 'none'))} instead of {_short(mine[name])}"
        for name in MUST_AGREE
        if name in mine and found.get(name) != mine[name]
    ]


def _short(value: str) -> str:
    return value[:8] if len(value) == 64 else value


def environment() -> dict[str, Any]:
    """Every installed package with its version, a hash over them, and the hash of the lock file that lies beside foodray, if one does."""
    packages: dict[str, str] = {}
    for about in metadata.distributions():
        if about.metadata["Name"]:  # the first is what is imported: setuptools puts copies of its own behind it
            packages.setdefault(about.metadata["Name"].lower().replace("_", "-"), about.version)
    listed = "\n".join(f"{name}=={version}" for name, version in sorted(packages.items()))
    return {"packages": packages, "sha256": hashlib.sha256(listed.encode()).hexdigest(), "lock_sha256": _lock_sha256()}


def _lock_sha256() -> str | None:
    try:
        import foodray

        lock = Path(str(foodray.__file__)).parents[1] / "infra" / "requirements.txt"
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    except (ImportError, OSError):
        return None


def facts(gpus_advertised: float) -> dict[str, Any]:
    """All that `foodray doctor` judges of a node but its storage and its clock."""
    arguments, settings = raylet()
    return {
        "versions": versions(),
        "environment": environment(),
        "gpus": gpus(gpus_advertised, settings.get("CUDA_VISIBLE_DEVICES")),
        "disks": {name: disk(arguments.get(flag)) for name, flag in (("temporary", "session_dir"), ("spilling", "fallback_directory"))},
        "object_store": {
            "bytes": int(arguments.get("object_store_memory") or 0),
            "folder": arguments.get("plasma_directory"),
            "shm_bytes": shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0,
            "memory_bytes": memory_bytes(),
        },
        "open_files": open_files(os.getppid()),
        "auth_mode": settings.get("RAY_AUTH_MODE", "unset").lower(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }


def clock() -> float:
    """The time here, in seconds since 1970."""
    return time.time()


def raylet() -> tuple[dict[str, str], dict[str, str]]:
    """Arguments and environment of the node's raylet; empty where the kernel does not tell."""
    place = Path(f"/proc/{os.getppid()}")
    try:
        words = (place / "cmdline").read_text(errors="replace").split("\0")
        pairs = (place / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return {}, {}
    arguments = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
    return arguments, dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def gpus(advertised: float, visible: str | None) -> dict[str, Any]:
    """The GPUs that torch can use here, or why it cannot: {"seen": [{"name", "bytes"}, …], "error": text or None}.

    Ray hides them from a worker that did not ask for one, so torch is asked in a process that sees what the raylet sees. Where there is no device
    and none is advertised torch is not loaded.
    """
    if not advertised and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return {"seen": [], "error": None}
    settings = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    settings |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    try:
        done = subprocess.run([sys.executable, "-c", ASK_TORCH], env=settings, capture_output=True, text=True, timeout=TORCH_S, check=False)
    except subprocess.TimeoutExpired:
        return {"seen": [], "error": f"torch did not answer within {TORCH_S} s"}
    if done.returncode:
        return {"seen": [], "error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return {"seen": json.loads(done.stdout.splitlines()[-1]), "error": None}


def disk(folder: str | None) -> dict[str, Any] | None:
    """Total and free bytes of the disk that a folder lies on; None where the folder is not known or not there."""
    if not folder or not Path(folder).exists():
        return None
    about = shutil.disk_usage(folder)
    return {"folder": folder, "total_bytes": about.total, "free_bytes": about.free}


def memory_bytes() -> int:
    """The memory that processes here may use: the machine's, or the limit of the container."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            text = limit.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(whole, int(text))
    return whole


def open_files(process: int) -> int:
    """How many files a process may hold open; that of this one where the kernel does not tell."""
    try:
        line = next(line for line in Path(f"/proc/{process}/limits").read_text().splitlines() if line.startswith("Max open files"))
        soft = line.split()[3]
    except (OSError, StopIteration):
        soft = str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return int(soft) if soft.isdigit() else sys.maxsize
