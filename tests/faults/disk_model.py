"""What a power cut leaves of a folder, from a trace of everything that processes did to it.

A disk promises nothing but this: the bytes of a file are there once its fsync returned, a name (of a new, renamed or
removed file, or of a new folder) once the fsync of its folder returned. `strace` writes down every call, of SQLite's
too; `Disk` follows them with what is surely on the disk beside what a reader sees, and `rebuild` lays out the worst
that a cut at that moment may leave, in two ways: names as last synced ("names lost"), or names as they stand with the
bytes that were never synced gone ("bytes lost"), which is what a file system with delayed allocation does.

Source: POSIX fsync; T. Pillai et al., All File Systems Are Not Created Equal, OSDI 2014.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CALLS = (
    "open,openat,creat,write,writev,pwrite64,pwritev,fsync,fdatasync,ftruncate,rename,renameat,renameat2,"
    "unlink,unlinkat,mkdir,mkdirat,link,linkat,sendto,sendmsg"
)
Way = Literal["names lost", "bytes lost"]
WAYS: tuple[Way, ...] = ("names lost", "bytes lost")

_LINE = re.compile(r"(\d+)\s+(.*)")
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)", re.DOTALL)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"^(?:AT_FDCWD<[^>]*>|AT_FDCWD|(\d+)<((?:\\x[0-9a-f]{2}|[^>])*)>)")


@dataclass(frozen=True)
class Step:
    """One call that succeeded: its name, the path that its first descriptor stood for, its texts, its arguments."""

    call: str
    path: str
    texts: tuple[bytes, ...]
    arguments: str
    result: int


def steps(trace: Path) -> Iterator[Step]:
    """Read a trace that `strace -f -y -xx` wrote, calls in the order in which they returned."""
    begun: dict[str, str] = {}
    with trace.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            found = _LINE.match(line)
            if found is None:
                continue
            pid, text = found.groups()
            if text.rstrip().endswith("<unfinished ...>"):
                begun[pid] = text.rstrip().removesuffix("<unfinished ...>")
                continue
            if text.startswith("<..."):
                text = begun.pop(pid, "") + text.partition("resumed>")[2]
            call = _CALL.match(text)
            if call is None or int(call[3]) < 0:
                continue
            descriptor = _FD.match(call[2])
            path = _plain(descriptor[2]) if descriptor is not None and descriptor[2] else ""
            texts = tuple(bytes.fromhex(item.replace("\\x", "")) for item in _TEXT.findall(call[2]))
            yield Step(call[1], path, texts, call[2], int(call[3]))


def _plain(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)


@dataclass(eq=False)
class _File:
    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    end: int = 0  # where the next write without an offset goes


class Disk:
    """A folder as it stands and as it surely is on the disk; `apply` follows a call."""

    def __init__(self, folder: Path) -> None:
        self._root = str(folder)
        self._now: dict[str, _File | None] = {}  # None: a folder
        for path in folder.rglob("*"):
            if path.is_dir():
                self._now[str(path)] = None
            elif path.is_file():
                data = path.read_bytes()
                self._now[str(path)] = _File(bytearray(data), data, len(data))
        self._synced = dict(self._now)

    def apply(self, step: Step) -> bool:
        """Follow a call; True where what a cut leaves may differ from before."""
        if step.call in ("open", "openat", "creat"):
            return self._opened(step)
        if step.call in ("rename", "renameat", "renameat2"):
            source, target = (text.decode() for text in step.texts[:2])
            if not self._is_ours(target):
                return False
            self._now[target] = self._now.pop(source, _File())
            return True
        if step.call in ("link", "linkat"):
            source, target = (text.decode() for text in step.texts[:2])
            if self._is_ours(target):
                self._now[target] = self._now[source]
            return self._is_ours(target)
        if step.call in ("unlink", "unlinkat"):
            return self._now.pop(step.texts[0].decode(), self) is not self
        if step.call in ("mkdir", "mkdirat"):
            if self._is_ours(step.texts[0].decode()):
                self._now.setdefault(step.texts[0].decode(), None)
            return False
        if not self._is_ours(step.path):
            return False
        if step.call in ("fsync", "fdatasync"):
            return self._sync(step.path)
        file = self._now.get(step.path)
        if file is not None:
            self._write(file, step)
        return False

    def _opened(self, step: Step) -> bool:
        path = step.texts[0].decode() if step.texts else ""
        if self._is_ours(path) and "O_CREAT" in step.arguments and path not in self._now:
            self._now[path] = _File()
            return True
        file = self._now.get(path)
        if file is not None and "O_TRUNC" in step.arguments:
            file.now.clear()
            file.end = 0
        return False

    def _sync(self, path: str) -> bool:
        file = self._now.get(path)
        if file is not None:
            file.synced = bytes(file.now)
            return True
        for name in {*self._now, *self._synced}:
            if name.rpartition("/")[0] != path:
                continue
            if name in self._now:
                self._synced[name] = self._now[name]
            else:
                self._synced.pop(name, None)
        return True

    @staticmethod
    def _write(file: _File, step: Step) -> None:
        if step.call == "ftruncate":
            length = int(step.arguments.rpartition(",")[2])
            file.now[:] = file.now[:length].ljust(length, b"\0")
            return
        data = b"".join(step.texts)[: step.result]
        at = int(step.arguments.rpartition(",")[2]) if step.call in ("pwrite64", "pwritev") else file.end
        if len(file.now) < at:
            file.now.extend(bytes(at - len(file.now)))
        file.now[at : at + len(data)] = data
        if step.call in ("write", "writev"):
            file.end = at + len(data)

    def _is_ours(self, path: str) -> bool:
        return path.startswith(self._root + "/")

    def rebuild(self, target: Path, way: Way) -> None:
        """Lay out below `target` what a cut at this moment may leave."""
        names = self._synced if way == "names lost" else self._now
        target.mkdir(parents=True)
        for name, file in sorted(names.items(), key=lambda item: item[0]):
            path = target / Path(name).relative_to(self._root)
            parent = name.rpartition("/")[0]
            if parent != self._root and parent not in names:
                continue  # its folder's own name is lost
            if file is None:
                path.mkdir()
            elif not name.endswith("-shm"):  # SQLite makes it anew from the log
                path.write_bytes(file.synced if way == "names lost" else self._torn(file))

    @staticmethod
    def _torn(file: _File) -> bytes:
        """What was synced, and of what was not the half, at the most."""
        if bytes(file.now) == file.synced:
            return file.synced
        grown = bytes(file.now[len(file.synced) :])
        return file.synced + grown[: len(grown) // 2]
