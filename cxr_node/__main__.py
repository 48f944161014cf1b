"""`python -m cxr_node` is the command `cxr-node`."""

import sys

from cxr_node.cli import main

sys.exit(main())
