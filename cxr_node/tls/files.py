"""The files of a listener."""

from dataclasses import dataclass
from pathlib import Path

from cxr_node.tls.policy import Minimum


@dataclass(frozen=True)
class ServerFiles:
    """What a listener shows and trusts. `where` opens every sentence about it: the section of node.toml."""

    where: str
    certificate: Path
    key: Path
    ca: Path | None = None
    require_client_certificate: bool = False
    minimum: Minimum = "1.2"

    @property
    def stamp(self) -> tuple[object, ...]:
        """Differs once a file was written or replaced, also through a symbolic link."""
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.ca) if path is not None)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
