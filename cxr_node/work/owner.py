"""Names of workers: unique over hosts, such that a supervisor finds those of its own dead processes and no others."""

import os
from pathlib import Path

from storage.host import host_id


def owner(data_dir: Path, stage: str, worker: str) -> str:
    """Return a worker's name in this process, ``stage:host:pid:worker``."""
    return f"{owners_of(data_dir, stage, os.getpid())}{worker}"


def owners_of(data_dir: Path, stage: str, pid: int | None = None) -> str:
    """Return how the names of a stage's workers begin on this host: of one process, or of all that it ever had here."""
    host = f"{stage}:{host_id(data_dir / 'run')}:"
    return host if pid is None else f"{host}{pid}:"
