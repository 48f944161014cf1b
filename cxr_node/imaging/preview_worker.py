"""A process that makes previews for another one: a line of JSON in, a line of JSON and the values out.

Codecs are C code that meets a sender's bytes. Here they can only end this process, whose parent starts the next one.
It ends with its parent (standard input closes), and after a while without work.

Request   {"path": …, "longest_side": …}
Answer    {"description": …, "rows": …, "columns": …} and rows x columns little-endian uint16, or {"problem": …}
"""

import json
import os
import resource
import select
import signal
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

from pydicom.errors import InvalidDicomError

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.description import UNCONVERTIBLE
from cxr_node.imaging.preview import make_preview
from cxr_node.imaging.reader import read_dataset

IDLE_S = 120.0
_MEMORY_BYTES = 6 << 30  # of address space, of which the libraries reserve more than they use


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return what is sent back for a request."""
    try:
        made = make_preview(read_dataset(Path(request["path"])), int(request["longest_side"]))
    except UnreadablePixels as error:
        return {"problem": str(error)}, b""
    except (*UNCONVERTIBLE, InvalidDicomError, EOFError, NotImplementedError, struct.error, zlib.error) as error:
        return {"problem": f"the file does not read to its end ({type(error).__name__})"}, b""
    except (OSError, MemoryError) as error:
        return {"problem": f"the file cannot be read ({type(error).__name__})"}, b""
    rows, columns = made.values.shape
    head = {"description": made.description.to_json(), "rows": rows, "columns": columns}
    return head, made.values.astype("<u2").tobytes()


def main() -> None:
    """Serve until standard input closes, or nobody asked for `IDLE_S`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold a patient's image
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints must not stand in an answer
    requests = sys.stdin.buffer
    while select.select([requests], [], [], IDLE_S)[0]:
        line = requests.readline()
        if not line:
            return
        head, body = answer(json.loads(line))
        out.write(json.dumps(head).encode() + b"\n" + body)
        out.flush()


if __name__ == "__main__":
    main()
