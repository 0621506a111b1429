"""A crew of threads goes through the steps of one forward pass together.

Each step is cut into tasks. Whoever is free takes the next one, and when none is left waits until all are *done*.
Nobody waits for a thread to arrive, so a thread that the system holds up, or never starts, costs at most the task that
it has in hand.

    task = first_task(counters, step)
    while task < tasks:
        ...                                    # a result never depends on who does a task
        task = next_task(counters, step)       # the last one is done, here is another
    wait(counters, step, tasks)

``counters`` (steps, 16) int64 holds for each step how many tasks are taken (column 0) and done (column 8, another cache
line). A step whose counts stand at SKIP is passed over.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numba
import numpy as np

from minivitpose.kernels.simd import aligned, count, count_up, give_way, pause

TAKEN, DONE = 0, 8
SKIP = 1 << 40  # more than any step has tasks
PATIENCE = 4_000  # looks at a counter before a waiting thread lets others run. A look is 25 ns: 100 us, a task or two


def new_counters(steps):
    return aligned(steps, 16, dtype=np.int64)


class Crew:
    """threads - 1 helpers, asleep between passes, and whoever calls."""

    def __init__(self, threads):
        self.threads = threads
        self.hire()

    def hire(self):
        self.helpers = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self.process = os.getpid()

    def go(self, walk, counters, *arguments):
        """walk(counters, thread, threads, *arguments) on each thread; walk is compiled with nogil."""
        if self.process != os.getpid():  # a fork has no threads but the one that forked
            self.hire()
        later = []
        with suppress(RuntimeError):  # the system starts no more threads: who is here does it all
            later.extend(
                self.helpers.submit(walk, counters, t, self.threads, *arguments) for t in range(1, self.threads)
            )
        walk(counters, 0, self.threads, *arguments)
        for helper in later:
            helper.cancel() or helper.result()  # who has not begun need not: all is done


@numba.njit
def first_task(counters, step):
    """The number of a task that is this thread's from now on; as large as their number or larger: none is left."""
    return count_up(counters, step, TAKEN)


@numba.njit
def next_task(counters, step):
    """The same, after a task is done."""
    count_up(counters, step, DONE)
    return count_up(counters, step, TAKEN)


@numba.njit
def wait(counters, step, tasks):
    """Until all tasks of the step are done, and what they wrote can be read."""
    looks = 0
    while count(counters, step, DONE) < tasks:
        looks += 1
        pause()
        if looks > PATIENCE:
            give_way()


@numba.njit
def cuts(units, pieces, longest, threads):
    """In how many parts to cut each unit of work, of so many pieces, so that the busiest thread has least to do.

    A part has at most ``longest`` pieces.
    """
    best, most = 0, units * pieces + 1
    for parts in range(-(-pieces // longest), pieces + 1):
        busiest = -(-units * parts // threads) * -(-pieces // parts)
        if busiest < most:
            best, most = parts, busiest
    return best
