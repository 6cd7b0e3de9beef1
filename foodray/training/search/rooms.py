"""The CPUs and GPUs of trials that were given up come back.

Ray Tune ends such a trial by killing its process, and Ray Train's controller dies with it, sooner or later; the placement group of the training
workers stays until the whole job ends, unless Ray's own cleaner finds the dashboard, which a private cluster has not. After a few trials nothing
could start. So each controller says who it is and which groups it made, and when its trial ends the controller is killed first (alive, it would take
the loss for a failure and make a new group) and its groups are removed then.
"""

from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group


@ray.remote(num_cpus=0)
class Rooms:
    """Which controller and which placement groups each trial of a search has."""

    def __init__(self) -> None:
        self.controllers: dict[str, Any] = {}
        self.groups: dict[str, list[PlacementGroup]] = {}

    def moved_in(self, trial: str, controller: Any) -> None:
        """A trial's controller has started."""
        self.controllers[trial] = controller

    def took(self, trial: str, group: PlacementGroup) -> None:
        """A trial's controller has made a group."""
        self.groups.setdefault(trial, []).append(group)

    def give_back(self, trial: str) -> None:
        """The trial is over: end its controller and remove its groups; what is gone already is no error."""
        if controller := self.controllers.pop(trial, None):
            ray.kill(controller)
            with suppress(RayActorError):  # raised once it is dead
                ray.get(controller.__ray_ready__.remote())
        for group in self.groups.pop(trial, []):
            remove_placement_group(group)


class TellRoom(ControllerCallback, WorkerGroupCallback):
    """In Ray Train's controller: says which placement groups its workers got."""

    def __init__(self, rooms: Any, trial: str) -> None:
        self.rooms, self.trial = rooms, trial

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called once, in the controller's own process."""
        ray.get(self.rooms.moved_in.remote(self.trial, ray.get_runtime_context().current_actor))

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called each time workers have started."""
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        ray.get(self.rooms.took.remote(self.trial, group))
