"""A crew of threads goes through the steps of one forward pass together.

Each step is cut into tasks. Whoever is free takes the next one, and when none is left waits until all are *done*. Nobody waits
for a thread to arrive, so a thread that the system holds up, or never starts, costs at most the task that it has in hand.

    task = take(crew, step)
    while task < tasks:
        ...                              # a result never depends on who does a task
        task = done_take(crew, step)
    wait(crew, step, tasks)

``crew`` (steps, 16) int64 counts, for each step, the tasks taken (column 0) and done (column 8, another cache line). A step
whose counts stand at SKIP is passed over.
"""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from minivitpose.kernels.simd import aligned, count, count_up, give_way, pause

SKIP = 1 << 40
PATIENCE = 4_000  # looks at the counter, some 100 microseconds, before a waiting thread lets others run


def hire(steps):
    return aligned(steps, 16, dtype=np.int64)


class Crew:
    """threads - 1 helpers, asleep between passes, and whoever calls."""

    def __init__(self, threads):
        self.helpers = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self.threads = threads

    def go(self, walk, crew, *arguments):
        """walk(crew, t, threads, *arguments) on each thread t; they must be compiled with nogil."""
        later = [self.helpers.submit(walk, crew, t, self.threads, *arguments) for t in range(1, self.threads)]
        walk(crew, 0, self.threads, *arguments)
        for helper in later:
            helper.cancel() or helper.result()  # who has not begun need not: all is done


@numba.njit
def take(crew, step):
    return count_up(crew, step, 0)


@numba.njit
def done_take(crew, step):
    count_up(crew, step, 8)
    return count_up(crew, step, 0)


@numba.njit
def wait(crew, step, tasks):
    looks = 0
    while count(crew, step, 8) < tasks:
        looks += 1
        pause()
        if looks > PATIENCE:
            give_way()


@numba.njit
def cuts(units, pieces, longest, threads):
    """In how many parts to cut each unit of work, of so many pieces, so that the busiest thread has least to do."""
    best, most = 0, units * pieces + 1
    for parts in range(-(-pieces // longest), pieces + 1):
        busiest = -(-units * parts // threads) * -(-pieces // parts)
        if busiest < most:
            best, most = parts, busiest
    return best
