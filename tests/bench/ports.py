"""What a head that is started with cluster.yaml's commands listens on, and what answers there to somebody without the token.

    python -m tests.bench.ports

Needs root: the head runs on a machine of its own (`tests/helpers/machines.py`), so its ports are the default ones and nothing else listens; a second machine
on the same network is the stranger. Each port is tried with HTTP and with calls of Ray's own services, without a token.
"""

import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.helpers.machines import ROOT, Machine, network, wait_for_nodes

HTTP_PATHS = (
    *("/", "/api/version", "/api/jobs/", "/nodes", "/api/cluster_status", "/api/serve/applications/", "/logs/", "/api/v0/actors"),
    *("/metrics", "/api/gcs_healthz", "/api/local_raylet_healthz", "/api/healthz", "/api/job_agent/jobs/"),
)
CALLS = (
    *("/ray.rpc.InternalKVGcsService/InternalKVKeys", "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "/ray.rpc.JobInfoGcsService/GetAllJobInfo"),
    *("/ray.rpc.NodeManagerService/GetNodeStats", "/ray.rpc.CoreWorkerService/GetCoreWorkerStats", "/ray.rpc.ReporterService/HealthCheck"),
    *("/ray.rpc.RayletDriver/Init", "/ray.rpc.RayletDriver/ClusterInfo", "/grpc.health.v1.Health/Check"),
)
ASK = """
import http.client, json, sys
import grpc
places, paths, calls = json.loads(sys.argv[1])
found = []
for host, port in places:
    answers = {}
    for path in paths:
        try:
            asked = http.client.HTTPConnection(host, port, timeout=3)
            asked.request("GET", path)
            got = asked.getresponse()
            answers["GET " + path] = f"{got.status} {len(got.read(1 << 20))} bytes"
        except ConnectionRefusedError:
            answers = None
            break
        except (OSError, http.client.HTTPException) as error:
            answers["GET " + path] = type(error).__name__
            break
    if answers is not None and not any(" bytes" in answer for answer in answers.values()):
        with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            for call in calls:
                try:
                    channel.unary_unary(call)(b"", timeout=3)
                    answers[call] = "OK"
                except grpc.RpcError as error:
                    answers[call] = error.code().name
                    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                        break
    found.append(answers)
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Door:
    """A port that is listened on."""

    address: str
    """The address as it was bound: a loopback one, the machine's, or * for all."""
    port: int
    process: str
    """Who listens."""
    answers: dict[str, str] | None
    """What a stranger on the same network is told without a token, by request; None where the connection is refused."""
    at_home: dict[str, str] | None
    """The same for a process on the head itself."""

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of the machine reach it."""
        return self.address in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]")


def opened(answers: dict[str, str] | None) -> list[str]:
    """The requests that were answered with what they asked for."""
    return [request for request, answer in (answers or {}).items() if answer == "OK" or answer.startswith("2")]


def refused(answers: dict[str, str] | None) -> bool:
    """Whether some request was refused for want of a token."""
    return any(answer == "UNAUTHENTICATED" or answer[:3] in ("401", "403") for answer in (answers or {}).values())


def head_command() -> list[str]:
    """The settings and words with which cluster.yaml starts a head, without the autoscaler, which would need a cloud."""
    command = yaml.safe_load((ROOT / "cluster.yaml").read_text())["head_start_ray_commands"][-1]
    words = shlex.split(command.split("&&")[-1].split(";")[-1])
    start = next(index for index, word in enumerate(words) if word.endswith("/ray") or word == "ray")
    kept = [word for word in words[start + 1 :] if not word.startswith("--autoscaling-config")]
    settings = [word.replace("~", "/root") for word in words[:start] if "=" in word]
    return ["env", *settings, str(Path(sys.executable).parent / "ray"), *kept]


def start_head(head: Machine, token: str) -> None:
    """Start Ray on a machine as cluster.yaml does."""
    keep = head.run(["bash", "-c", "mkdir -p /root/.ray && umask 077 && printf %s $1 > /root/.ray/auth_token", "bash", token])
    assert keep.returncode == 0, keep.stderr
    done = head.run([*head_command(), f"--node-ip-address={head.address}"], timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr


def scan(head: Machine, stranger: Machine) -> list[Door]:
    """Every port that is listened on, with what it answers near and far."""
    lines = head.run(["ss", "-ltnpH"]).stdout.splitlines()
    found: dict[tuple[str, int], str] = {}
    for line in lines:
        address, _, port = line.split()[3].rpartition(":")
        who = re.search(r"pid=(\d+)", line)
        found[address, int(port)] = _name(head, int(who[1])) if who else "unknown"
    near = _asked(head, [(_reach(address, "127.0.0.1"), port) for address, port in found])
    far = _asked(stranger, [(head.address, port) for _, port in found])
    return sorted(
        (
            Door(address=address, port=port, process=who, answers=None if address in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]") else outside, at_home=inside)
            for ((address, port), who), inside, outside in zip(found.items(), near, far, strict=True)
        ),
        key=lambda door: (door.is_loopback, door.port),
    )


def _reach(address: str, loopback: str) -> str:
    plain = address.strip("[]").removeprefix("::ffff:")
    return loopback if plain in ("*", "0.0.0.0", "::", "127.0.0.1", "::1") else plain


def _name(head: Machine, pid: int) -> str:
    words = head.run(["cat", f"/proc/{pid}/cmdline"]).stdout.split("\0")
    named = next((word for word in words if word.endswith(".py") or word.startswith("ray::") or word in ("ray.util.client.server",)), words[0])
    return named.rpartition("site-packages/ray/")[2].rpartition("/src/")[2].strip() or named


def _asked(who: Machine, places: Sequence[tuple[str, int]]) -> list[dict[str, str] | None]:
    done = who.run([sys.executable, "-c", ASK, json.dumps([places, HTTP_PATHS, CALLS])], RAY_AUTH_TOKEN="", RAY_AUTH_MODE="disabled")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str] | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(doors: Sequence[Door]) -> str:
    """The doors as a table in Markdown."""
    lines = ["| address | port | process | a stranger without a token | a process on the head without a token |", "|---|---|---|---|---|"]
    for door in doors:
        lines.append(
            f"| {door.address} | {door.port} | {door.process} | {'not reachable' if door.is_loopback else _told(door.answers)} | {_told(door.at_home)} |"
        )
    return "\n".join(lines)


def _told(answers: dict[str, str] | None) -> str:
    if answers is None:
        return "connection refused"
    parts = []
    if open_to := opened(answers):
        parts.append("answers " + ", ".join(open_to))
    if refused(answers):
        parts.append("refuses " + ("the rest" if open_to else "all"))
    return "; ".join(parts) or "says nothing to HTTP or to these calls"


def run() -> list[Door]:
    """Start a head and a stranger, scan, and end both."""
    token = "0123456789abcdef" * 4
    with network() as net, tempfile.TemporaryDirectory() as folder:
        head, stranger = net.add(RAY_AUTH_TOKEN=token), net.add()
        start_head(head, token)
        wait_for_nodes(head, 1, Path(folder) / "log")
        time.sleep(20)  # the first workers, and the agents' own servers
        return scan(head, stranger)


def main() -> None:
    """Print the table."""
    found = run()
    beyond = [door for door in found if not door.is_loopback]
    print(table(found))
    print(
        f"\n{len(found)} ports, {len(beyond)} beyond loopback, {sum(bool(opened(door.answers)) for door in beyond)} of which answer something without a token"
    )


if __name__ == "__main__":
    main()
