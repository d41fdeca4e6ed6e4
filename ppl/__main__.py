"""``python -m ppl``: the command line."""

import sys

from ppl.cli import main

sys.exit(main())
