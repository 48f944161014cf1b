"""Which GPUs a process may use, told without loading TensorFlow."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

# Set by the supervisor for a worker that ended again and again with this GPU: it runs on the CPU, and says why.
GIVEN_UP = "CXR_NODE_GPU_GIVEN_UP"


def visible_gpus(dev: Path = Path("/dev"), environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES may name here, one entry for each GPU; empty where there is none.

    CUDA counts the GPUs that it finds from 0: a container that was given `/dev/nvidia3` alone knows it as 0. So the
    entries are places in that count, not the numbers of the device files.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables": the list ends at the first entry that is none.
    """
    count = len(list(dev.glob("nvidia[0-9]*")))
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if count == 0 or chosen is None:
        return tuple(str(place) for place in range(count))
    found: list[str] = []
    for entry in (item.strip() for item in chosen.split(",")):
        if not entry or entry.startswith("-"):
            break
        found.append(entry)
    return tuple(found)


def given_up_gpu(environment: Mapping[str, str] = os.environ) -> str:
    """Return the GPU that the supervisor no longer lets this process use, else an empty text."""
    return environment.get(GIVEN_UP, "")


def cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many processor cores this process may use, a container's limit of processor time included.

    With more threads than that limit pays for, all of them stand still for the rest of each period.

    Source: Linux kernel documentation, cgroup v2, `cpu.max`: quota and period in µs, or `max`.
    """
    # macOS knows no affinity.
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text("ascii").split()
        return found if quota == "max" else max(1, min(found, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return found
