"""The benchmark behind ``minivitpose bench``: every engine in a process of its own, and measured in turn.

Two thread pools in one process slow each other, and a machine that others use too drifts from minute to minute. So
every engine gets a process (a *worker*); all are loaded and warm before the first measurement; then each works for a
moment while the rest sleep, A B C A B C ..., and a drift hits all alike. Before and after that, each worker's heatmaps
are compared with the NumPy engine's: nobody is timed on a wrong answer.

| file           | what it holds                                                                               |
|----------------|---------------------------------------------------------------------------------------------|
| ``engines.py`` | what a worker runs: this package's engines, and the others on the same weights              |
| ``worker.py``  | a worker from inside (it obeys one line at a time) and from outside (``Worker``)            |
| ``measure.py`` | the course of a benchmark: ``bench(plan)`` -> all numbers as one dict, ready for JSON       |
| ``machine.py`` | the CPU, its measured peak, and how much arithmetic a model is                              |
| ``report.py``  | the numbers as text; ``chart.py``: as bars                                                  |
"""

from minivitpose.bench.measure import BenchError, Plan, bench

__all__ = ["BenchError", "Plan", "bench"]
