"""What the stage says of itself with each sign of life: its models, where they run, and the GPU's memory."""

import shutil
import subprocess
from typing import Any

from cxr_node.analyze.analyzer import Analyzer

_WITHIN_S = 3.0  # a driver that hangs must not take the sign of life with it
_QUERY = ("--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits")


def standing(analyzer: Analyzer | None, doing: str = "loading models") -> dict[str, Any]:
    """Return it as JSON; None while the models are loaded, then `doing` says how far that is."""
    if analyzer is None:
        return {"state": doing, "models": [], "gpus": gpus()}
    devices = analyzer.devices()
    models = [
        {
            "name": package.manifest.name,
            "version": package.manifest.version,
            "digest": package.digest,
            "device": devices[package.manifest.name],
            "engine": analyzer.engine(package).name,
            "trouble": analyzer.engine(package).trouble,
            "role": role,
        }
        for role, packages in (("active", analyzer.packages), ("shadow", analyzer.shadow))
        for package in packages
    ]
    return {"state": "ready", "models": models, "gpus": gpus()}


def gpus() -> list[dict[str, Any]]:
    """Return name and memory, MiB, of every GPU that the driver's own tool tells of; none without that tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        told = subprocess.run([tool, *_QUERY], capture_output=True, text=True, timeout=_WITHIN_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in told.splitlines():
        name, _, memory = line.partition(",")
        used, _, total = memory.partition(",")
        if used.strip().isdigit() and total.strip().isdigit():
            found.append({"name": name.strip(), "used_mib": int(used), "total_mib": int(total)})
    return found
