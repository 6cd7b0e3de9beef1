"""What all tests share: one Ray, one S3 server in a process of its own, and the folder of real data where there is one."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Ray reads these once, when it is first imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
torch.set_num_threads(1)

BUCKET = "foodray-tests"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes share the suite (`make test`): one takes all that needs Ray, so that there is one Ray; files stay whole, for what they share."""
    for item in items:
        needs_ray = "ray_session" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if needs_ray else str(item.path)))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An empty place on an S3 server, as "s3://bucket…"; AWS_* then name the server, here and in Ray's workers.

    The server is moto on this machine, or, with FOODRAY_TEST_S3=s3://bucket and AWS_* set, a real one: a new prefix there.
    """
    if os.environ.get("FOODRAY_TEST_S3"):
        yield f"{os.environ['FOODRAY_TEST_S3']}/tests-{secrets.token_hex(4)}"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            for name, value in settings.items():
                patch.setenv(name, value)
            _wait_for(endpoint, server)
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"), timeout=10).close()
            yield f"s3://{BUCKET}"
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(endpoint: str, server: "subprocess.Popen[bytes]", limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the S3 server at {endpoint} did not answer within {limit_s} s; is moto[server] installed?")


@pytest.fixture(scope="session")
def ray_session(s3: str) -> Iterator[None]:
    """The one Ray of the suite. It starts after the S3 server, so that its workers inherit the way there."""
    import ray

    for last in (False, False, True):
        try:
            ray.init(address="local", num_cpus=6, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False)
            break
        except Exception as error:  # Ray waits 30 s for its own processes, and a busy machine takes longer
            if last or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; a test that needs it skips where there is none."""
    folder = os.environ.get("FOODRAY_DATA")
    if not folder:
        pytest.skip("FOODRAY_DATA is unset: it names the folder of real data (ecustfd/ …), of which nothing is in the project")
    return Path(folder)
