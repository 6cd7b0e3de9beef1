"""What an operator sees: counters for Prometheus (through Ray's metrics) and one line of JSON in the log for each request.

The line holds the request id, the key's id, route, status and seconds; never a token, a file name or anything of a photo.
"""

import json
import logging
from collections import Counter as Tally
from collections.abc import Sequence

from ray.util.metrics import Counter, Histogram
from starlette.types import Scope

from foodray.analyzer.messages import PhotoReply

log = logging.getLogger("foodray.access")
SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]


class Telemetry:
    """Of one ingress replica."""

    def __init__(self) -> None:
        self.requests = Counter("foodray_http_requests", description="requests by route and status", tag_keys=("route", "method", "status"))
        self.seconds = Histogram("foodray_http_seconds", description="time of a request", boundaries=SECONDS, tag_keys=("route", "method"))
        self.photos = Counter("foodray_http_photos", description="photos by the status they ended in", tag_keys=("status", "reason"))
        self.items = Counter("foodray_http_items", description="items found")

    def request(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """One request is answered."""
        route = getattr(scope.get("route"), "path", "other")  # never the path as sent: it may hold anything
        self.requests.inc(1, tags={"route": route, "method": scope["method"], "status": str(status)})
        self.seconds.observe(seconds, tags={"route": route, "method": scope["method"]})
        key = getattr(scope.get("state", {}).get("key"), "key_id", None)
        line = {"request_id": request_id, "key_id": key, "method": scope["method"], "route": route, "status": status, "seconds": round(seconds, 4)}
        log.info(json.dumps(line))

    def count_photos(self, replies: Sequence[PhotoReply]) -> None:
        """Photos of an answered request."""
        ended = Tally((reply.status, reply.reason.code if reply.reason else "") for reply in replies)
        for (status, reason), count in ended.items():
            self.photos.inc(count, tags={"status": status, "reason": reason})
        if found := sum(len(reply.items or ()) for reply in replies):
            self.items.inc(found)
