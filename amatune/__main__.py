"""`python -m amatune`, where the command itself is not on the path."""

import sys

from amatune.cli import main

sys.exit(main())
