"""Several threads that do the like at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def at_once(work: Callable[[Item], Done], items: Sequence[Item]) -> list[Done]:
    """What `work` gives for each item, in threads that begin together; what one raised is raised."""
    start = threading.Barrier(len(items))

    def begin(item: Item) -> Done:
        start.wait()
        return work(item)

    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(begin, items))
