"""A process of the stage `receive`: an acceptor beside others, or STOW-RS. Started by `stage`, never by hand.

It reads its errand from standard input. The end of that is the end of the process that started it, however it went.
"""

import contextlib
import os
import pickle
import sys
import threading

from cxr_node.errors import SettingsError
from cxr_node.log import configure_logging
from cxr_node.receive.lean import load_lean
from cxr_node.receive.stage import Errand, Word, folders_of, stow_of
from cxr_node.signals import stop_on_signals
from storage.errors import StorageError


def main(word: int) -> int:
    """Serve until SIGTERM, or until the parent is gone; `word` is the descriptor to tell it by."""
    errand: Errand = pickle.load(sys.stdin.buffer)
    configure_logging(errand.settings.node.log_level, "receive")
    stop = threading.Event()
    stop_on_signals(stop)
    threading.Thread(target=_follow_parent, args=(stop,), name="follow-parent", daemon=True).start()
    load_lean()
    try:
        _serve(errand, stop, word)
    except SettingsError as error:
        _say(word, Word(str(error), is_settings=True))
        return 1
    except StorageError as error:
        _say(word, Word(str(error)))
        return 1
    return 0


def _serve(errand: Errand, stop: threading.Event, word: int) -> None:
    if errand.is_stow:
        with stow_of(errand.settings):
            _say(word, Word())
            stop.wait()
        return
    from cxr_node.receive.acceptor import accept

    with folders_of(errand.settings) if errand.watches else contextlib.nullcontext():
        accept(errand.settings, stop, errand.port, tell=lambda _: _say(word, Word()))


def _follow_parent(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    stop.set()


def _say(word: int, said: Word) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: `stop` follows
        os.write(word, pickle.dumps(said))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[2])))
