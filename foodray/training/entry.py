"""Where a training worker begins, in a module that imports nothing: Ray's controller of a run unpickles it too, and has no use for the 8 s of imports."""

from typing import Any


def train_worker(config: dict[str, Any]) -> None:
    """What Ray Train calls in each worker."""
    from foodray.training.worker import work

    work(config)
