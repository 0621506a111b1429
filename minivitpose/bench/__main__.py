"""``python -m minivitpose.bench worker JOB`` is a worker; ``minivitpose bench`` starts it (see worker.py)."""

import sys

from minivitpose.bench.worker import serve

if len(sys.argv) != 3 or sys.argv[1] != "worker":
    sys.exit("this is the inside of 'minivitpose bench': run that instead")
sys.exit(serve(sys.argv[2]))
