"""`python -m cxr_node` is the command `cxr-node`."""

import os
import sys

from cxr_node.cli import main

status = main()
sys.stdout.flush()
sys.stderr.flush()
# Every stage has ended what it began. Taking TensorFlow apart would take seconds more, in which nothing happens and a
# service manager waits.
os._exit(status)
