"""What is checked of the cluster before a long run."""

import contextlib
import socket

import pytest
import ray
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

from foodray.cluster import connect
from foodray.errors import ClusterError


def test_a_private_cluster_whose_jobs_could_not_begin_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the suite's own has no job queue
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # taken by another Ray on this machine already
            taken.bind(("", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
            taken.listen()
        with pytest.raises(ClusterError, match=r"port \d+, on which Ray's jobs begin, is taken.*--dashboard-agent-listen-port"):
            connect(dashboard=True)
