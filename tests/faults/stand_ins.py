"""What a stage is given in place of a part of its own, named by module and attribute: see `zygote.Stage.patches`."""

import os
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

POISON = "CXR_TEST_POISON"  # environment variable: the Study Instance UID that nobody survives


def load_study_or_die(*arguments: Any, **options: Any) -> Any:
    """As `analyze.study.load_study`, but for one study that ends the process, as a decoder's fault would."""
    from cxr_node.analyze.study import load_study

    opened = load_study(*arguments, **options)
    if opened is not None and opened.study.study_instance_uid == os.environ.get(POISON):
        os.kill(os.getpid(), signal.SIGKILL)
    return opened


CLOCK = "CXR_TEST_CLOCK"  # environment variable: a file that says how many seconds the clock is ahead


class SetClock(datetime):
    """The class `datetime` in `cxr_node.clock`, by a clock that a test sets."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        try:
            ahead = float(Path(os.environ[CLOCK]).read_text())
        except (KeyError, OSError, ValueError):
            ahead = 0.0
        return datetime.now(tz) + timedelta(seconds=ahead)
