"""The DIMSE statuses that C-STORE is answered with. Source: DICOM PS3.4 B.2.3, PS3.7 C."""

from dataclasses import dataclass

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATASET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
INVALID_UID = 0xC001
MISSING_UID = 0xC002
UNEXPECTED = 0xC0FF


@dataclass(frozen=True)
class Answer:
    """A status and its comment: (0000,0902) Error Comment, LO, 64 characters, nothing of the patient."""

    status: int
    comment: str = ""

    def __post_init__(self) -> None:
        if len(self.comment) > 64:
            raise ValueError(f"Error Comment holds 64 characters, found {len(self.comment)}")
