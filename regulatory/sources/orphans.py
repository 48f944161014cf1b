"""Brings nothing to any page: it fails the build where the trace from needs to test results is broken.

Apart from the topics that print the trace, so that what is broken is named once and every page is made all the same.
"""

from pathlib import Path

from regulatory import trace
from regulatory.figures import Material


def gather(root: Path) -> Material:
    """Return nothing.

    Raises
    ------
    BrokenTrace
        A requirement without need or test, a need without requirement, a test without requirement, a control without
        test, code without area, or a test that failed in the last recorded run; all of them are named.
    """
    trace.check(trace.read(root))
    return Material()
