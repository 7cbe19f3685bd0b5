"""Work that waits for a thread, taken up as much at once as there is."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")


def batches(waiting: queue.SimpleQueue[Item | None], at_once: int) -> Iterator[list[Item]]:
    """What waits, at most so many at once, as soon as there is any, until None comes."""
    while True:
        batch = [waiting.get()]
        while len(batch) < at_once and not waiting.empty():
            batch.append(waiting.get())
        items = [one for one in batch if one is not None]
        if items:
            yield items
        if len(items) < len(batch):
            return
