"""What must be true of the cluster before a long run starts: Ray is there and lets us in, has the resources, runs one version, and shares the storage."""

from foodray.cluster.capacity import check_resources, num_runs_at_once, num_workers_at_most
from foodray.cluster.joining import connect
from foodray.cluster.nodes import Node, alive_nodes, check_versions, on_every_node
from foodray.cluster.shared import check_storage, probe_storage

__all__ = [
    "Node",
    "alive_nodes",
    "check_resources",
    "check_storage",
    "check_versions",
    "connect",
    "num_runs_at_once",
    "num_workers_at_most",
    "on_every_node",
    "probe_storage",
]
