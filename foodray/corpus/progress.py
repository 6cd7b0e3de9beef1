"""Progress of work that Ray tasks do: tasks add to a counter, the driver logs a line now and then.

with counted("indexing", total=1245, unit="photos") as tally:
    … tasks call tally.add(number) …
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data

log = logging.getLogger(__name__)


@ray.remote(num_cpus=0)
class _Counter:
    def __init__(self) -> None:
        self.done = 0

    def add(self, number: int) -> None:
        self.done += number

    def read(self) -> int:
        return self.done


class Tally:
    """A counter that tasks on any node can add to; adding does not wait."""

    def __init__(self, counter: Any) -> None:
        self.counter = counter

    def add(self, number: int) -> None:
        """Count some more units as done."""
        self.counter.add.remote(number)


def quiet_ray_data() -> None:
    """No progress bars of Ray Data: foodray has one kind of progress, also where there is no terminal."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


@contextmanager
def counted(doing: str, *, total: int, unit: str, every_s: float = 3.0) -> Iterator[Tally]:
    """Log progress every few seconds until the block ends, and one line at its end."""
    quiet_ray_data()
    counter = _Counter.remote()  # type: ignore[attr-defined]
    over, started = threading.Event(), time.monotonic()

    def watch() -> None:
        while not over.wait(every_s):
            done, seconds = ray.get(counter.read.remote()), time.monotonic() - started
            left = f", {(total - done) * seconds / done:.0f} s left" if done else ""
            log.info("%s: %d of %d %s%s", doing, done, total, unit, left)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield Tally(counter)
    finally:
        over.set()
        thread.join()
        ray.kill(counter)
    log.info("%s: %d %s in %.1f s", doing, total, unit, time.monotonic() - started)
