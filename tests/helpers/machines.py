"""Machines that share a network and nothing else, made of Linux namespaces: each its own address, host name, processes, /tmp, home and /dev/shm.

Whatever a machine writes lies in its own memory; everything else, the repository and its .venv too, is read-only to it. So what one writes to its disk
another cannot find, and turning a machine off takes its processes and its files at once. Needs root on Linux; `why_not` says what is missing.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
import psutil
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

ROOT = Path(__file__).parents[2]
OWN_FOLDERS = ("/tmp", "/var/tmp", "/root", "/home", "/run", "/dev/shm")
BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
n=0
for kept in $KEPT; do n=$((n+1)); mkdir /mnt/$n; mount --bind "$kept" /mnt/$n; done
for own in $OWN; do mount -t tmpfs -o size=2g,mode=1777 none "$own"; done
n=0
for kept in $KEPT; do
    n=$((n+1)); [ -d "$kept" ] || mkdir -p "$kept"
    mount --bind /mnt/$n "$kept"; mount -o remount,bind,ro "$kept"
done
mount -o remount,bind,ro /
umount --lazy /mnt
hostname "$NAME"
printf '127.0.0.1 localhost\\n%s %s\\n' "$ADDRESS" "$NAME" > /run/hosts
mount --bind /run/hosts /etc/hosts
ip link set lo up
touch /run/booted
sleep infinity & wait
"""

AGAIN = 'for try in 1 2 3 4 5 6; do "$@" && break; done'  # Ray gives its agents 15 s and its node 30 s, which on a busy machine may not be enough
LEAN = ("--include-dashboard=false", "--no-monitor")
"""What a head of these tests can do without: each is a process that imports Ray while the node's own agents have their 15 s."""


def why_not() -> str | None:
    """Why this machine cannot hold such machines, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces of network and mounts need root on Linux"
    missing = [tool for tool in ("ip", "unshare", "nsenter", "mount", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"this kernel or container refuses namespaces: {tried.stderr.strip()}"


@dataclass(kw_only=True)
class Machine:
    """One machine, running."""

    name: str
    address: str
    keeper: "subprocess.Popen[bytes]"
    """The process that ends the machine when it ends."""
    init: int
    """Its first process, seen from outside."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def words(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command there."""
        if self.keeper.poll() is not None:
            raise RuntimeError(f"{self.name} is off")
        return ["nsenter", "--target", str(self.init), "--net", "--mount", "--pid", "--uts", "--wd=/tmp", *command]

    def run(self, command: Sequence[str], *, timeout_s: float = 550, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run a command there to its end."""
        return subprocess.run(self.words(command), env={**self.environment, **more}, capture_output=True, text=True, timeout=timeout_s, check=False)

    def start(self, command: Sequence[str], log: IO[Any], **more: str) -> "subprocess.Popen[bytes]":
        """Start a command there."""
        return subprocess.Popen(self.words(command), env={**self.environment, **more}, stdout=log, stderr=subprocess.STDOUT)

    def off(self) -> None:
        """As if its power failed."""
        self.keeper.kill()
        self.keeper.wait(30)


class Network:
    """A switch with machines on it. This machine is at `gateway`; nothing is routed beyond."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.bridge = f"fr{secrets.token_hex(3)}"
        self.subnet = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}"
        self.gateway = f"{self.subnet}.1"
        self.environment = dict(environment)
        self.machines: list[Machine] = []

    def add(self, **more: str) -> Machine:
        """Turn on one more machine."""
        number = len(self.machines) + 2
        name, address = f"node{number - 1}", f"{self.subnet}.{number}"
        own = " ".join(folder for folder in OWN_FOLDERS if Path(folder).is_dir())
        kept = " ".join(dict.fromkeys([str(ROOT), str(Path(sys.prefix).resolve()), str(Path(sys.base_prefix).resolve())]))
        settings = {"PATH": os.environ["PATH"], "OWN": own, "KEPT": kept, "NAME": name, "ADDRESS": address}
        words = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            BOOT,
        ]
        keeper = subprocess.Popen(words, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        machine = Machine(name=name, address=address, keeper=keeper, init=_child(keeper), environment={**self.environment, **more})
        self.machines.append(machine)
        while machine.run(["test", "-e", "/run/booted"], timeout_s=10).returncode:
            assert keeper.poll() is None, keeper.stdout.read().decode() if keeper.stdout else ""
            time.sleep(0.05)
        self._plug_in(machine, number)
        return machine

    def _plug_in(self, machine: Machine, number: int) -> None:
        outside, inside = f"{self.bridge}h{number}", f"{self.bridge}g{number}"
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", str(machine.init))
        _ip("link", "set", outside, "master", self.bridge, "up")
        for words in (["link", "set", inside, "name", "eth0"], ["addr", "add", f"{machine.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            done = machine.run(["ip", *words])
            assert done.returncode == 0, done.stderr


@contextmanager
def network(environment: Mapping[str, str] | None = None) -> Iterator[Network]:
    """A network while the block runs; `environment` is that of every machine's processes."""
    made = Network({**_plain_environment(), **(environment or {})})
    _ip("link", "add", made.bridge, "type", "bridge")
    try:
        _ip("addr", "add", f"{made.gateway}/24", "dev", made.bridge)
        _ip("link", "set", made.bridge, "up")
        yield made
    finally:
        for machine in made.machines:
            machine.off()
        _ip("link", "delete", made.bridge)


def _plain_environment() -> dict[str, str]:
    """What a process needs to find this Python and this code, and nothing of the session's."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "PYTHONDONTWRITEBYTECODE": "1"}
    return {"PATH": path, "HOME": "/root", "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", **quiet}


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _child(keeper: "subprocess.Popen[bytes]") -> int:
    while True:
        with suppress(psutil.NoSuchProcess):
            if children := psutil.Process(keeper.pid).children():
                return int(children[0].pid)
        assert keeper.poll() is None, keeper.stdout.read().decode() if keeper.stdout else "the machine did not start"
        time.sleep(0.01)


@contextmanager
def forwarded(gateway: str, port: int) -> Iterator[int]:
    """Offer what listens on this machine's loopback at `port` to the machines of a network, at the port that is yielded."""
    listener = socket.create_server((gateway, 0))
    threading.Thread(target=_accept, args=(listener, port), daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()


@contextmanager
def shared_storage(net: Network) -> Iterator[dict[str, str]]:
    """The S3 server of this process' AWS_ENDPOINT_URL, offered on a network: the settings with which its machines find it."""
    own = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    port = urllib.parse.urlsplit(own["AWS_ENDPOINT_URL"]).port
    assert port, own["AWS_ENDPOINT_URL"]
    with forwarded(net.gateway, port) as offered:
        yield {**own, "AWS_ENDPOINT_URL": f"http://{net.gateway}:{offered}", "AWS_EC2_METADATA_DISABLED": "true"}


def _accept(listener: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            outside, _ = listener.accept()
            try:
                inside = socket.create_connection(("127.0.0.1", port))
            except OSError:
                outside.close()
                continue
            for pair in ((outside, inside), (inside, outside)):
                threading.Thread(target=_pour, args=pair, daemon=True).start()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def ray_nodes(net: Network, log: Path, resources: Sequence[Mapping[str, float]], *, head: Sequence[str] = LEAN, **environment: str) -> list[Machine]:
    """A Ray cluster of as many new machines, the first its head at port 6379, each with `num_cpus` and `num_gpus` as given, and a token of its own."""
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **environment}
    found = [net.add(**settings) for _ in resources]
    address = f"{found[0].address}:6379"
    for machine in found:
        machine.environment = {**machine.environment, "RAY_ADDRESS": address}
    for index, (machine, has) in enumerate(zip(found, resources, strict=True)):
        start_ray(machine, log, has, head=None if index == 0 else found[0], more=head if index == 0 else ())
        if index == 0:
            wait_for_nodes(machine, 1, log)
    wait_for_nodes(found[0], len(found), log)
    return found


def start_ray(machine: Machine, log: Path, has: Mapping[str, float], *, head: Machine | None, more: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    """Start Ray on a machine, as a head or as a node of one."""
    where = ["--head", "--port=6379", "--dashboard-host=127.0.0.1"] if head is None else [f"--address={head.address}:6379"]
    sizes = [f"--num-cpus={has.get('num_cpus', 2):g}", f"--num-gpus={has.get('num_gpus', 0):g}", f"--object-store-memory={200 * 2**20}"]
    words = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        *where,
        "--block",
        f"--node-ip-address={machine.address}",
        *sizes,
        "--disable-usage-stats",
        *more,
    ]
    with log.with_name(f"{log.name}-{machine.name}").open("w") as sink:
        return machine.start(["bash", "-c", AGAIN, "again", *words], sink, RAY_ADDRESS="")


def wait_for_nodes(head: Machine, number: int, log: Path, *, limit_s: float = 400) -> None:
    """Wait until so many nodes are alive, asking the head's registry (no process of Ray is started for it)."""
    who = (("authorization", f"Bearer {head.environment['RAY_AUTH_TOKEN']}"),)
    end, said = time.monotonic() + limit_s, ""
    with grpc.insecure_channel(f"{head.address}:6379", options=[("grpc.enable_http_proxy", 0)]) as channel:
        registry = NodeInfoGcsServiceStub(channel)
        while time.monotonic() < end:
            try:
                nodes = registry.GetAllNodeInfo(GetAllNodeInfoRequest(), metadata=who, timeout=5).node_info_list
                if sum(node.state == GcsNodeInfo.ALIVE for node in nodes) == number:
                    return
                said = str([(node.node_manager_address, node.state) for node in nodes])
            except grpc.RpcError as error:
                said = str(error)
            time.sleep(0.2)
    logs = "\n".join(path.read_text()[-1500:] for path in log.parent.glob(f"{log.name}-*"))
    raise AssertionError(f"{number} nodes were not alive within {limit_s} s: {said}\n{logs}")
