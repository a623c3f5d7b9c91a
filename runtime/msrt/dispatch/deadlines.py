"""What is due when: every open request in a bucket of its deadline, so that adding and removing cost no search."""

from __future__ import annotations

import heapq
import math

from msrt.dispatch.events import Request

__all__ = ["Deadlines"]

PER_SECOND = 32


class Deadlines:
    """A timer wheel without hands. `next` is exact for what was added and a lower bound after removals."""

    def __init__(self) -> None:
        self.next = math.inf
        self._buckets: dict[int, dict[int, Request]] = {}
        self._order: list[int] = []

    def add(self, request: Request) -> None:
        deadline = request.deadline
        key = int(deadline * PER_SECOND)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = {}
            heapq.heappush(self._order, key)
        bucket[request.id] = request
        self.next = min(self.next, deadline)

    def remove(self, request: Request) -> None:
        bucket = self._buckets.get(int(request.deadline * PER_SECOND))
        if bucket is not None:
            bucket.pop(request.id, None)

    def expired(self, now: float) -> list[Request]:
        """Take out what is due, and find the next."""
        due: list[Request] = []
        while self._order:
            key = self._order[0]
            bucket = self._buckets[key]
            if key <= now * PER_SECOND:
                late = [request for request in bucket.values() if request.deadline <= now]
                for request in late:
                    del bucket[request.id]
                due += late
            if bucket:
                self.next = min(request.deadline for request in bucket.values())
                return due
            del self._buckets[key]
            heapq.heappop(self._order)
        self.next = math.inf
        return due
