"""pyspark's daemon of Python workers, with what libraries hold left out of the collection that follows every task.

pyspark collects garbage after each task: a worker that has loaded a model's libraries spends a third of a second on
walking through half a million objects that never go. Frozen once, they cost nothing, and a task's own garbage is
found as before.
"""

from __future__ import annotations

import gc
import sys

from pyspark import daemon


class Collector:
    """Stands where the daemon says `gc`: collects, and freezes what is left when modules were loaded since.

    Only then: what a task leaves behind without loading anything is a value that may go one day.
    """

    def __init__(self) -> None:
        self._modules = 0

    def collect(self) -> int:
        found = gc.collect()
        if len(sys.modules) > self._modules:
            self._modules = len(sys.modules)
            gc.freeze()
        return found


if __name__ == "__main__":
    daemon.gc = Collector()  # type: ignore[assignment]
    daemon.manager()
