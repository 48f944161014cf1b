"""The DIMSE statuses that requests are answered with. Source: DICOM PS3.4 B.2.3, F.7.2, R.4.2; PS3.7 C."""

from dataclasses import dataclass

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATASET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
SYNTAX_NOT_SUPPORTED = 0xC122  # STOW-RS only: over DIMSE the presentation context is refused
INVALID_UID = 0xC001
MISSING_UID = 0xC002
UNEXPECTED = 0xC0FF

# N-CREATE and N-SET.
INVALID_ATTRIBUTE_VALUE = 0x0106
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
NO_SUCH_INSTANCE = 0x0112
INVALID_SOP_INSTANCE = 0x0117
MISSING_ATTRIBUTE = 0x0120
MISSING_ATTRIBUTE_VALUE = 0x0121
CLASS_NOT_SUPPORTED = 0x0122

MAY_NO_LONGER_BE_UPDATED = 0xA710  # Error ID beside PROCESSING_FAILURE, PS3.4 table F.7.2-3


@dataclass(frozen=True)
class Answer:
    """A status and its comment: (0000,0902) Error Comment, LO, 64 characters, nothing of the patient.

    `error_id` is (0000,0903) Error ID, where the service has one for the failure.
    """

    status: int
    comment: str = ""
    error_id: int | None = None

    def __post_init__(self) -> None:
        if len(self.comment) > 64:
            raise ValueError(f"Error Comment holds 64 characters, found {len(self.comment)}")
