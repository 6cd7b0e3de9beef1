"""The way into a cluster: knock first, so that a wrong token or another version is one sentence and not a long trace, then join."""

import logging
import os
import socket
import sys
from dataclasses import dataclass
from typing import Literal

import grpc
import ray
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from foodray.errors import ClusterError

log = logging.getLogger(__name__)
LOGICAL_CPUS = 4  # Ray Data's stages and the training workers wait for each other for ever when there are too few
KNOCK_S = 10.0
TOKEN_HELP = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the token that the head was started with, by default that of "
    "~/.ray/auth_token on the head; a job that is submitted with `ray job submit` has it"
)


@dataclass(frozen=True, kw_only=True)
class Knock:
    """What the registry of a cluster (GCS) answered."""

    answer: Literal["welcome", "refused", "unreachable"]
    """It let us in, wants another token, or did not answer."""
    detail: str
    """The version of Ray of a cluster that lets us in, otherwise what was said."""


def knock(address: str, header: str | None, *, timeout_s: float = KNOCK_S) -> Knock:
    """Ask the registry at host:port whether it is alive, with this authorization header or none."""
    who = (("authorization", header),) if header else None
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            registry = NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
            alive = registry.CheckAlive(CheckAliveRequest(), metadata=who, timeout=timeout_s)
            return Knock(answer="welcome", detail=str(alive.ray_version))
        except grpc.RpcError as error:
            refused = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            return Knock(answer="refused" if refused else "unreachable", detail=str(error.details()))


def own_header() -> str | None:
    """The authorization header that this process would send; None where token authentication is off here, or there is no token."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    header = AuthenticationTokenLoader.instance().get_token_for_http_header()
    return next((value for name, value in header.items() if name.lower() == "authorization"), None)


def connect(*, dashboard: bool = False) -> None:
    """Join the cluster of RAY_ADDRESS (a submitted job has one), or start a private one on this machine, with its dashboard (and job queue) if
    asked, for which Ray's agent needs its port; raises `ClusterError`."""
    # The controller asks its workers for news every 2 s by default, and a report waits for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        _join(address)
    else:
        if dashboard:
            _check_agent_port()
        ray.init(address="local", num_cpus=max(LOGICAL_CPUS, (os.cpu_count() or 1) + 2), include_dashboard=dashboard, log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    resources = f"{total.get('CPU', 0):g} logical CPUs, {total.get('GPU', 0):g} GPUs"
    log.info("Ray %s on %d node%s, %s", ray.__version__, len(nodes), "" if len(nodes) == 1 else "s", resources)


def _join(address: str) -> None:
    """Join a cluster that runs; raises `ClusterError` with the remedy where it cannot be."""
    if "://" not in address and not os.environ.get("RAY_USE_TLS"):
        try:
            found = str(canonicalize_bootstrap_address(address) or "")
        except (ConnectionError, ValueError) as error:
            raise ClusterError(f"no cluster at RAY_ADDRESS = {address}: {error}") from error
        if found:
            _check_welcome(address, found)
    try:
        ray.init(address=address, log_to_driver=False)
    except AuthenticationError as error:
        raise ClusterError(f"the cluster at {address} does not let this process in: it has no token, or another one; {TOKEN_HELP}") from error
    except (ConnectionError, RuntimeError) as error:  # another version of Ray or Python ends as a RuntimeError
        last = (str(error).strip().splitlines() or [repr(error)])[-1]
        raise ClusterError(f"the cluster at {address} cannot be joined: {last}") from error


def _check_welcome(address: str, found: str) -> None:
    try:
        header = own_header()
    except (AuthenticationError, RuntimeError) as error:
        raise ClusterError(f"token authentication is on, but this process has no token: {TOKEN_HELP}") from error
    knocked = knock(found, header)
    if knocked.answer == "refused":
        mine = "without a token" if header is None else "with this token"
        raise ClusterError(f"the cluster at {address} does not let this process in {mine}; {TOKEN_HELP}")
    if knocked.answer == "unreachable":
        raise ClusterError(
            f"no cluster answers at {address} ({knocked.detail}); start it with `ray start --head` or `ray up cluster.yaml`, or correct RAY_ADDRESS, and see "
            "that this machine may reach that port"
        )
    if knocked.detail != ray.__version__:
        raise ClusterError(
            f"the cluster at {address} runs Ray {knocked.detail}, this process ({sys.executable}) Ray {ray.__version__}; use one image, or one lock "
            "(`make install`), for both"
        )


def _check_agent_port() -> None:
    """Raise `ClusterError` where jobs could be submitted to a private cluster but would never begin: Ray's job agent has one fixed port a machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
        except OSError as error:
            raise ClusterError(
                f"port {DEFAULT_DASHBOARD_AGENT_LISTEN_PORT}, on which Ray's jobs begin, is taken, probably by another Ray on this machine; wait until that "
                "has ended, or run `ray start --head --dashboard-agent-listen-port PORT` with another port and give the command RAY_ADDRESS"
            ) from error
