"""The CPUs and GPUs of trials that were given up come back.

Ray Tune ends such a trial by killing its process, and Ray Train's controller dies with it; the placement group of the training workers stays until
the whole job ends, unless Ray's own cleaner finds the dashboard, which a private cluster has not. After a few trials nothing could start. So each
controller says which group it made, and the search removes it when the trial ends.
"""

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group


@ray.remote(num_cpus=0)
class Rooms:
    """Which placement groups the trials of a search hold."""

    def __init__(self) -> None:
        self.held: dict[str, list[PlacementGroup]] = {}

    def add(self, trial: str, room: PlacementGroup) -> None:
        """A trial has taken a group."""
        self.held.setdefault(trial, []).append(room)

    def take(self, trial: str) -> list[PlacementGroup]:
        """The groups of a trial, once."""
        return self.held.pop(trial, [])


class TellRoom(WorkerGroupCallback):
    """In Ray Train's controller: says which placement group its workers got."""

    def __init__(self, rooms: Any, trial: str) -> None:
        self.rooms, self.trial = rooms, trial

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called each time workers have started."""
        room = worker_group.get_worker_group_state().placement_group_handle.placement_group
        ray.get(self.rooms.add.remote(self.trial, room))


def give_back(rooms: Any, trial: str) -> None:
    """Remove what a trial that is over still holds; what its controller removed itself is gone already."""
    for room in ray.get(rooms.take.remote(trial)):
        remove_placement_group(room)
