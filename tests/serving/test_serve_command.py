"""The endpoint as its users start it: `foodray serve` on one machine, `serve deploy` of infra/serve.yaml on a cluster.

Slow (`make acceptance`): each starts a Ray of its own and all deployments.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from odd import encoded, make_bundle, picture
from ray_head import free_ports, ray_head

from foodray.serving.access import add_key

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
FILE = Path(__file__).parents[2] / "infra" / "serve.yaml"


def until(done: Callable[[], Any], process: "subprocess.Popen[bytes] | None" = None, limit_s: float = 300) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert process is None or process.poll() is None, "the command ended"
        assert time.monotonic() < end, "it took too long"
        time.sleep(1)


def is_ready(address: str) -> bool:
    try:
        return requests.get(f"{address}/readyz", timeout=10).status_code == 200
    except requests.RequestException:
        return False


def ask(address: str, token: str) -> dict[str, Any]:
    answer = requests.post(f"{address}/v1/analyze", files={"image": encoded(picture(1))}, headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_foodray_serve_answers_until_it_is_told_to_end(tmp_path: Path, signal_number: int) -> None:
    token = add_key(str(tmp_path / "keys"), "test", ["analyze"])
    [port] = free_ports(1)
    words = [str(BIN / "foodray"), "serve", "--bundles", make_bundle(tmp_path / "bundle"), "--keys", str(tmp_path / "keys"), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            until(lambda: is_ready(f"http://127.0.0.1:{port}"), process)
            assert ask(f"http://127.0.0.1:{port}", token)["photos"][0]["status"] == "ok"
            process.send_signal(signal_number)
            assert process.wait(60) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            process.kill()
    assert not is_ready(f"http://127.0.0.1:{port}")


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head of our own, whose processes find this foodray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FILE.parents[1]))
        with ray_head(tmp_path / "head.log", num_cpus=12) as user:
            yield user


def test_serve_deploy_of_the_deployment_file_starts_and_exchanges_the_endpoint(head: dict[str, str], tmp_path: Path) -> None:
    """With this test's locations in place of the example's, and one replica of each instead of two."""
    token = add_key(str(tmp_path / "keys"), "test", ["analyze"])
    plain = yaml.safe_load(FILE.read_text())
    [port] = free_ports(1)
    plain["http_options"]["port"] = port
    arguments = plain["applications"][0]["args"]
    arguments |= {"keys": str(tmp_path / "keys"), "reviews": str(tmp_path / "reviews"), "markers": ""}
    arguments["jobs"] = arguments["taggers"] = {}
    for settings in ("ingress", "decoder", "segmenter", "recogniser"):
        arguments["graph"][settings] |= {"min_replicas": 1, "max_replicas": 1}
    identities = []
    for seed in (0, 1):
        arguments["analyzer"]["bundles"] = [make_bundle(tmp_path / f"bundle-{seed}", seed=seed)]
        file = tmp_path / "serve.yaml"
        file.write_text(yaml.safe_dump(plain))
        done = subprocess.run([str(BIN / "serve"), "deploy", str(file)], env=head, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: is_ready(f"http://127.0.0.1:{port}"))
        until(lambda: ask(f"http://127.0.0.1:{port}", token)["versions"]["model_sha256"] not in identities)
        identities.append(ask(f"http://127.0.0.1:{port}", token)["versions"]["model_sha256"])
    assert len(set(identities)) == 2
