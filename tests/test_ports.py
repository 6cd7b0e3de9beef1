"""Claims about the ports of a head that is started with cluster.yaml's commands: without the token nobody runs anything.

Slow (`make acceptance`): `python -m tests.bench.ports` prints the whole table. Needs root.
"""

import pytest
from machines import why_not

from tests.bench.ports import Door, opened, refused, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
HARMLESS = {"GET /metrics", "GET /", "GET /api/gcs_healthz", "GET /api/local_raylet_healthz", "GET /api/healthz", "/grpc.health.v1.Health/Check"}
"""Gauges for Prometheus, the dashboard's empty page, and whether the node is alive."""


@pytest.fixture(scope="module")
def doors() -> list[Door]:
    return run()


def test_the_dashboard_and_its_job_queue_listen_on_loopback_alone_and_refuse_who_has_no_token(doors: list[Door]) -> None:
    (dashboard,) = [door for door in doors if door.port == 8265]
    assert dashboard.is_loopback
    assert refused(dashboard.at_home)
    assert set(opened(dashboard.at_home)) <= HARMLESS


def test_a_stranger_on_the_network_is_told_health_and_gauges_and_nothing_else(doors: list[Door]) -> None:
    told = {f"{door.process}:{door.port}": set(opened(door.answers)) - HARMLESS for door in doors if not door.is_loopback}
    assert {who: what for who, what in told.items() if what} == {}


def test_the_registry_the_raylet_and_the_workers_refuse_calls_without_the_token(doors: list[Door]) -> None:
    by_call = {"gcs_server": "InternalKVGcsService", "raylet": "NodeManagerService", "ray::": "CoreWorkerService"}
    for process, service in by_call.items():
        asked = [answer for door in doors if process in door.process for call, answer in (door.answers or {}).items() if service in call]
        assert "UNAUTHENTICATED" in asked, process
        assert "OK" not in asked, process
