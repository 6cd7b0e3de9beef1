"""What a node's facts mean: each becomes a finding that says what, the value, and the remedy. No Ray here: facts go in, sentences come out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foodray.cluster.facts import differing
from foodray.errors import ConfigError

GIB = 2**30
CLOCK_NOTE_S, CLOCK_MEND_S = 2.0, 20.0
"""A lease on a run is void after 60 s without a sign of life, told by the clocks of two machines; S3 refuses a signature that is 15 minutes off."""
FREE_SHARE = 0.05
"""Ray puts no object on a disk that is fuller than 95 %, and its logs stop with it."""
FEW_FILES, TOO_FEW_FILES = 8_192, 1_024
"""Ray opens a socket to each of its processes and a file for each of many objects."""
STORE_SHARE = 0.5
"""Of the node's memory; the workers need the rest."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What the run to come will ask of the cluster."""

    address: str = ""
    """Address of the cluster (host:port or auto); by default RAY_ADDRESS. Without either a private cluster is started and this machine is examined."""
    storage: tuple[str, ...] = ()
    """Places that every node must be able to write to and to read from: results, local or s3://. What is written is removed."""
    readable: tuple[str, ...] = ()
    """Places that every node must be able to read from, and nothing is written to: photos, corpus, bundles."""
    gpus: int = 0
    """GPUs that the run needs, over all nodes."""
    cpus: int = 0
    """CPUs that the run needs, over all nodes."""
    timeout_s: float = 180.0
    """How long the answer of a node, or of its storage, is waited for."""

    def __post_init__(self) -> None:
        if min(self.gpus, self.cpus) < 0 or self.timeout_s <= 0:
            raise ConfigError(f"gpus = {self.gpus} and cpus = {self.cpus} must be >= 0 and timeout_s = {self.timeout_s} above it")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """versions, GPUs, storage …"""
    state: Literal["ok", "note", "mend"]
    """Well; worth knowing; the run would fail or go wrong."""
    value: str
    """What was found."""
    remedy: str = ""
    """What to do about it."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings of the cluster as a whole and of each node."""

    cluster: tuple[Finding, ...]
    nodes: Mapping[str, tuple[Finding, ...]]
    """By the node's name: its address, and whether it is the head."""

    @property
    def num_to_mend(self) -> int:
        """How many findings must be mended before a run."""
        return sum(finding.state == "mend" for findings in (self.cluster, *self.nodes.values()) for finding in findings)


def judge_node(found: Mapping[str, Any], driver: Mapping[str, Any], resources: Mapping[str, float]) -> list[Finding]:
    """The findings of one node's facts (`foodray.cluster.facts`), seen from the process that examines it."""
    return [
        _versions(found, driver),
        _packages(found["environment"], driver["environment"]),
        _gpus(found["gpus"], resources.get("GPU", 0.0)),
        *(_disk(name, about) for name, about in found["disks"].items()),
        _object_store(found["object_store"]),
        _open_files(found["open_files"]),
    ]


def _versions(found: Mapping[str, Any], driver: Mapping[str, Any]) -> Finding:
    has, wrong = found["versions"], differing(driver["versions"], found["versions"])
    if wrong:
        return Finding(
            what="versions", state="mend", value="; ".join(wrong), remedy="start every node from one image, or run `make install` from one lock on each"
        )
    names = ("python", "ray", "torch", "pyarrow", "foodray")
    return Finding(what="versions", state="ok", value=", ".join(f"{name} {has[name]}" for name in names) + f", code {has['code_sha256'][:8]}")


def _packages(found: Mapping[str, Any], driver: Mapping[str, Any]) -> Finding:
    has, mine = found["packages"], driver["packages"]
    lock = "" if found["lock_sha256"] is None else f", lock {found['lock_sha256'][:8]}"
    value = f"{len(has)} installed, {found['sha256'][:8]}{lock}"
    if found["lock_sha256"] != driver["lock_sha256"] and None not in (found["lock_sha256"], driver["lock_sha256"]):
        remedy = "submit the job with --working-dir, or copy the repository to each node"
        return Finding(what="packages", state="mend", value=f"{value}; this process has lock {driver['lock_sha256'][:8]}", remedy=remedy)
    other = sorted(name for name in has.keys() & mine.keys() if has[name] != mine[name])
    if other:
        told = ", ".join(f"{name} {has[name]} instead of {mine[name]}" for name in other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        return Finding(what="packages", state="mend", value=told, remedy="start every node from one image, or run `make install` from one lock on each")
    absent = sorted(mine.keys() - has.keys())
    if absent:
        return Finding(what="packages", state="note", value=f"{value}; not here: {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}")
    return Finding(what="packages", state="ok", value=value)


def _gpus(found: Mapping[str, Any], advertised: float) -> Finding:
    seen = found["seen"]
    kinds = ", ".join(dict.fromkeys(f"{gpu['name']} {gpu['bytes'] / GIB:.0f} GiB" for gpu in seen))
    value = f"Ray offers {advertised:g}, torch sees {len(seen)}" + (f" ({kinds})" if kinds else "")
    if found["error"]:
        remedy = "install a driver that fits torch's CUDA (`nvidia-smi`), and give the container the GPUs (nvidia.com/gpu, --gpus all)"
        return Finding(what="GPUs", state="mend", value=f"{value}: {found['error']}", remedy=remedy)
    if advertised > len(seen):
        remedy = "start Ray with --num-gpus of what is there, or give the node its GPUs (driver, nvidia.com/gpu, --gpus all)"
        return Finding(what="GPUs", state="mend", value=value, remedy=remedy)
    if advertised < len(seen):
        return Finding(what="GPUs", state="note", value=value, remedy=f"start Ray with --num-gpus={len(seen)} to use all of them")
    return Finding(what="GPUs", state="ok", value=value)


def _disk(name: str, about: Mapping[str, Any] | None) -> Finding:
    what = f"{name} disk"
    if about is None:
        return Finding(what=what, state="note", value="not known", remedy="")
    free = about["free_bytes"] / max(1, about["total_bytes"])
    value = f"{about['free_bytes'] / GIB:.1f} of {about['total_bytes'] / GIB:.1f} GiB free at {about['folder']}"
    if free < FREE_SHARE:
        remedy = (
            f"Ray stops spilling and logging below {FREE_SHARE:.0%}: clear the disk, or start Ray with --temp-dir (--object-spilling-directory) on a larger one"
        )
        return Finding(what=what, state="mend", value=value, remedy=remedy)
    if free < 2 * FREE_SHARE:
        return Finding(what=what, state="note", value=value, remedy=f"Ray stops spilling and logging below {FREE_SHARE:.0%}")
    return Finding(what=what, state="ok", value=value)


def _object_store(about: Mapping[str, Any]) -> Finding:
    size, shm, memory = about["bytes"], about["shm_bytes"], about["memory_bytes"]
    value = f"{size / GIB:.1f} GiB in {about['folder']}, /dev/shm {shm / GIB:.1f}, memory {memory / GIB:.1f}"
    if not size:
        return Finding(what="object store", state="note", value=value)
    if about["folder"] != "/dev/shm" or shm < size:
        remedy = "Ray falls back to a disk, which is many times slower: give the container a larger /dev/shm (--shm-size, an emptyDir of medium Memory)"
        return Finding(what="object store", state="mend", value=value, remedy=f"{remedy}, or start Ray with a smaller --object-store-memory")
    if size > STORE_SHARE * memory:
        remedy = f"it leaves the workers less than half of the memory; start Ray with --object-store-memory={int(0.3 * memory)}"
        return Finding(what="object store", state="mend", value=value, remedy=remedy)
    return Finding(what="object store", state="ok", value=value)


def _open_files(limit: int) -> Finding:
    remedy = "raise it where Ray is started: `ulimit -n 65536`, LimitNOFILE= of a service, the container runtime's default"
    state: Literal["ok", "note", "mend"] = "mend" if limit < TOO_FEW_FILES else "note" if limit < FEW_FILES else "ok"
    return Finding(what="open files", state=state, value=f"at most {limit:,}", remedy="" if state == "ok" else remedy)


def judge_clock(sent: float, answered: float, received: float) -> Finding:
    """The clock of a node that was asked between two moments of this process' clock: how far it is off at the least."""
    off = max(0.0, sent - answered, answered - received)
    middle = answered - (sent + received) / 2
    value = f"{middle:+.2f} s to this process' (known to {(received - sent) / 2:.2f} s)"
    remedy = "let an NTP service (chrony, systemd-timesyncd) set the clocks: leases on runs and S3's signatures go by them"
    state: Literal["ok", "note", "mend"] = "mend" if off > CLOCK_MEND_S else "note" if off > CLOCK_NOTE_S else "ok"
    return Finding(what="clock", state=state, value=value, remedy="" if state == "ok" else remedy)


def judge_totals(
    config: DoctorConfig, up: Mapping[str, float], seen_gpus: Mapping[str, int], most: Mapping[str, float] | None, *, can_grow: bool
) -> list[Finding]:
    """Whether the GPUs and CPUs that are wanted are there, by node, or could be started. `most` is what an autoscaler may make of the cluster, None
    where its limits are not known."""
    found = []
    for kind, wanted, has in (("GPU", config.gpus, sum(seen_gpus.values())), ("CPU", config.cpus, up.get("CPU", 0.0))):
        if not wanted:
            continue
        limit = None if most is None else most.get(kind, 0.0)
        grown = "" if not can_grow else "; the autoscaler's limit is not known here" if limit is None else f"; the autoscaler may make it {limit:g}"
        nobody = [name for name, number in seen_gpus.items() if not number] if kind == "GPU" else []
        value = f"{wanted} wanted, {has:g} up{grown}" + (f"; none on {', '.join(nobody)}" if nobody and has < wanted else "")
        remedy = f"add nodes with {kind}s, start Ray on them with --num-{kind.lower()}s, or ask for less"
        if has >= wanted:
            found.append(Finding(what=f"{kind}s wanted", state="ok", value=value))
        elif can_grow and (limit is None or limit >= wanted):
            found.append(Finding(what=f"{kind}s wanted", state="note", value=value, remedy="they are started when the run begins, which takes minutes"))
        else:
            more = ", or raise max_workers of a node type" if can_grow else ""
            found.append(Finding(what=f"{kind}s wanted", state="mend", value=value, remedy=remedy + more))
    return found


def judge_doors(doors: Sequence[tuple[str, str, str]]) -> list[Finding]:
    """Whether the cluster's doors refuse who has no token, or a wrong one: (door, token, answer) each, the answer being refused, open or unreachable."""
    remedy = "start the head and every node with RAY_AUTH_MODE=token and a token; who reaches this port can run any code"
    found = []
    for door in dict.fromkeys(name for name, _, _ in doors):
        answers = {token: answer for name, token, answer in doors if name == door}
        value = ", ".join(f"{token}: {answer}" for token, answer in answers.items())
        state: Literal["ok", "note", "mend"] = "mend" if "open" in answers.values() else "ok" if "refused" in answers.values() else "note"
        found.append(Finding(what=f"access to {door}", state=state, value=value, remedy=remedy if state == "mend" else ""))
    return found
