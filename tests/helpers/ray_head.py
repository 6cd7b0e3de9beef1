"""A Ray head of a test's own, on loopback and with token authentication, and the environment with which a user reaches it."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).parent / "ray")


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(number)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


@contextmanager
def ray_head(log: Path, *, num_cpus: int = 6) -> Iterator[dict[str, str]]:
    """A head while the block runs; yields a user's environment.

    RAY_API_SERVER_ADDRESS is its dashboard; `FOODRAY_TEST_HEAD` is what RAY_ADDRESS would be, which is not set.
    """
    gcs, dashboard, client, agent, agent_grpc = free_ports(5)  # the session's own Ray has taken the default ones
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    environment = {**{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, **token}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # as an activated .venv: a job's `python` is the head's
    folder = f"/tmp/fr-{secrets.token_hex(3)}"  # a short path: sockets live below it
    command = [RAY, "start", "--head", "--block", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"]
    command += [f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}", "--disable-usage-stats", f"--temp-dir={folder}"]
    user = {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}", "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    user["FOODRAY_TEST_HEAD"] = f"127.0.0.1:{gcs}"
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT)
    try:
        for _ in range(60):
            if subprocess.run([RAY, "job", "list"], env=user, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(1)
        yield user
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for member in family:
            member.terminate()
        psutil.wait_procs(family[1:], timeout=10)
