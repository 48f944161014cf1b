"""Reads requirements.lock: what is installed, with every hash and with who asks for it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OWN = "cxr-node"

_ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Locked:
    """One line of the lock. `marker` says on which systems it is installed, empty for all; `via` are those that ask."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    via: tuple[str, ...]


def read_lock(path: Path = LOCK) -> tuple[Locked, ...]:
    """Return every entry in the order of the file.

    Raises
    ------
    ValueError
        An entry without a hash: what is installed by it would not be known.
    """
    found = tuple(_entries(path.read_text(encoding="utf-8").splitlines()))
    for item in found:
        if not item.hashes:
            raise ValueError(f"{path.name}: {item.name}=={item.version} has no hash")
    return found


def _entries(lines: list[str]) -> Iterator[Locked]:
    starts = [at for at, line in enumerate(lines) if _ENTRY.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        match = _ENTRY.match(lines[start])
        assert match is not None  # it is what the place was chosen by
        body = lines[start + 1 : end]
        hashes = tuple(found[1] for line in body if (found := _HASH.search(line)))
        yield Locked(match["name"], match["version"], (match["marker"] or "").strip(), hashes, tuple(_via(body)))


def _via(body: list[str]) -> Iterator[str]:
    """Names after `# via`, on its line or on those below; `name (pyproject.toml)` is the project itself."""
    is_list = False
    for line in body:
        text = line.strip()
        if text.startswith("# via"):
            is_list, text = True, text.removeprefix("# via")
        elif is_list and text.startswith("#"):
            text = text.removeprefix("#")
        else:
            continue
        name = text.strip().split(" ")[0]
        if name and not name.startswith("-"):  # `-c`: a constraint, nobody who asks for it
            yield name
