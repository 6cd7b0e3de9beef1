"""How often each key may ask: token buckets, of which one instance counts for a whole endpoint.

A bucket of `burst` tokens fills at `requests_per_minute`; a request takes one. What is kept of a bucket is only the time at which it
will be full again (the generic cell rate algorithm of ITU-T I.371), and nothing of one that is full, so memory stays small.
"""

import threading
import time
from collections.abc import Callable

_SMALLEST_SWEEP = 1024
_ROUNDING_S = 1e-6


class TokenBuckets:
    """The buckets of all keys. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._full_at: dict[str, float] = {}
        self._sweep_above = _SMALLEST_SWEEP

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._full_at)

    def take(self, key_id: str, requests_per_minute: float, burst: int) -> float:
        """Take a token: 0.0 when there was one, else the seconds until there is; a refused request takes none."""
        assert min(requests_per_minute, burst) > 0, (requests_per_minute, burst)
        with self._lock:
            return self._take(key_id, 60.0 / requests_per_minute, burst, self._clock())

    def _take(self, key_id: str, period_s: float, burst: int, now: float) -> float:
        # Never emptier than empty: a rate that was raised since then counts from now on.
        full_at = min(max(now, self._full_at.get(key_id, now)), now + burst * period_s)
        wait_s = full_at - now - (burst - 1) * period_s
        refused = wait_s > _ROUNDING_S
        self._full_at[key_id] = full_at if refused else full_at + period_s
        if len(self._full_at) > self._sweep_above:
            self._full_at = {key: full for key, full in self._full_at.items() if full > now}
            self._sweep_above = max(_SMALLEST_SWEEP, 2 * len(self._full_at))  # so that sweeping costs a constant per request
        return wait_s if refused else 0.0


class LocalLimiter:
    """Buckets for one process: what a service without Ray counts with."""

    def __init__(self, buckets: TokenBuckets | None = None) -> None:
        self._buckets = TokenBuckets() if buckets is None else buckets

    async def take(self, key_id: str, requests_per_minute: float, burst: int) -> float:
        """As `TokenBuckets.take`."""
        return self._buckets.take(key_id, requests_per_minute, burst)
