"""What every result object is made from: one value, complete before the first object is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from cxr_node.findings import StudyOutcome


@dataclass(frozen=True)
class Device:
    """The observer: this installation of the node. `observer_uid` is stable for the installation."""

    name: str
    manufacturer: str
    model: str
    serial_number: str
    software_version: str
    observer_uid: str


@dataclass(frozen=True)
class Material:
    """The outcome of a study, and what a document about it needs.

    Parameters
    ----------
    headers : by SOP Instance UID, for every image of the outcome, without pixels
    predecessors : by object kind, the newest one of an earlier revision that a destination has
    content_time : aware; written in `time_zone`, the system's where None
    was_flagged : whether an earlier revision flagged the study
    heat_maps : by SOP Instance UID, (rows, columns) float32 in [0, 1]; profile `research` only
    radiographs : by SOP Instance UID, of the images with a heat map: (rows, columns) float32 in [0, 1], maybe reduced
    made : by object kind, the objects of this revision that were built before this one
    """

    outcome: StudyOutcome
    headers: Mapping[str, Dataset]
    device: Device
    revision: int
    content_time: datetime
    predecessors: Mapping[str, Dataset] = field(default_factory=dict)
    profile: Literal["triage", "research"] = "triage"
    was_flagged: bool = False
    time_zone: tzinfo | None = None
    heat_maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    radiographs: Mapping[str, np.ndarray] = field(default_factory=dict)
    made: Mapping[str, Dataset] = field(default_factory=dict)
