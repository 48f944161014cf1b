"""How many heaps the threads of a process share."""

import contextlib
import ctypes
import sys

_M_ARENA_MAX = -8  # of mallopt(3)
_HEAPS = 2


def share_heaps() -> None:
    """Have all threads share two heaps; call it before the first thread begins.

    glibc makes sixteen on two cores. Each keeps what its threads gave back, and a page cache of the database that one
    thread filled and another empties keeps many of them large: the process grows for hours.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)
