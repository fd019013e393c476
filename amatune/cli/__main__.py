"""`python -m amatune.cli`."""

import sys

from amatune.cli import main

sys.exit(main())
