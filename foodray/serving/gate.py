"""The gate: one process that counts each key's requests for all ingress replicas. It imports no model, so that it is small and soon back."""

from ray import serve

from foodray.serving.limiter import TokenBuckets


@serve.deployment
class Gate:
    """Counts requests of keys; one replica, so that a limit holds whatever the number of ingress replicas."""

    def __init__(self) -> None:
        self.buckets = TokenBuckets()

    def take(self, key_id: str, requests_per_minute: float, burst: int) -> float:
        """Count one request; 0 when it may go on, else the seconds to wait."""
        return self.buckets.take(key_id, requests_per_minute, burst)
