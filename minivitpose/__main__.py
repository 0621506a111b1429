"""``python -m minivitpose`` is the command line."""

import sys

from minivitpose.cli import main

sys.exit(main())
