"""`python -m rayapp.cli`: the same as `rayapp`."""

import sys

from rayapp.cli.app import main

sys.exit(main())
