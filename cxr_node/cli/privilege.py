"""Whose process this is."""

import os
from pathlib import Path

_IN_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))


def root_trouble() -> str:
    """Return why this user is a bad one, "" where it is not; in a container root is a user of the container's own.

    A warning and no refusal: a node that ran as root yesterday must not stay down after an upgrade.
    """
    if os.geteuid() != 0 or any(path.exists() for path in _IN_CONTAINER) or "KUBERNETES_SERVICE_HOST" in os.environ:
        return ""
    return "runs as root: a fault in a decoder would have the whole machine; give it a user of its own"
