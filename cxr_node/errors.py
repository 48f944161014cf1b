"""Every exception of the node, and what happens next to the work that raised it.

CxrNodeError
├── SettingsError          node.toml: names file, key and what was expected; nothing starts
├── PackageError           a model package is missing, altered or unusable; the stage refuses to serve
├── UnreadableDataset      the bytes are no DICOM dataset                            FAIL
├── UnreadablePixels       the pixels contradict their description, or do not decode FAIL
├── StorageUnavailable     disk full, database locked or gone                        RETRY
├── PoisonJob              every worker that took the job died of it                 FAIL
├── LeaseLost              another worker holds the job now                          DROP
├── RisUnavailable         the RIS does not answer, or not now                       RETRY
├── RisRefused             the RIS takes no such query                               FAIL
├── BadMultipart           a body of parts is none, or ends too early                RETRY
├── SourceUnavailable      a source of studies does not answer, or not now           RETRY
├── SourceRefused          a source of studies will not give what is asked           FAIL
└── DeliveryError          a destination did not take an object
    ├── Unreachable        no connection, or it broke                                RETRY
    ├── AssociationRefused the peer knows us not, or is full                         RETRY
    ├── NotNegotiated      the peer takes no SOP class we can offer                  FAIL
    └── Refused            the peer answered with a failure status                   RETRY or FAIL, by status
"""

from enum import Enum


class Disposition(Enum):
    """What `work` does with a job whose handler raised."""

    RETRY = "retry"  # later, with backoff, until the attempts are used up
    FAIL = "fail"  # at once: a second try reads the same bytes
    DROP = "drop"  # not ours any more: leave the row alone


class CxrNodeError(Exception):
    """Base of all errors that the node itself raises. Messages hold no patient's name or ID."""

    disposition = Disposition.RETRY


class SettingsError(CxrNodeError):
    """node.toml or the environment holds an unknown key or a bad value."""

    disposition = Disposition.FAIL


class PackageError(CxrNodeError):
    """A model package is missing, altered, or not one this node can run."""

    disposition = Disposition.FAIL


class UnreadableDataset(CxrNodeError):
    """The bytes cannot be read as a DICOM dataset."""

    disposition = Disposition.FAIL


class UnreadablePixels(CxrNodeError):
    """The pixel data is absent, does not decode, or contradicts its attributes."""

    disposition = Disposition.FAIL


class StorageUnavailable(CxrNodeError):
    """Disk or database cannot take the write now."""


class PoisonJob(CxrNodeError):
    """The job was claimed as often as allowed and never settled: it ends the process that works on it."""

    disposition = Disposition.FAIL


class LeaseLost(CxrNodeError):
    """The job's lease ran out and another worker may hold it: nothing of this attempt may be kept."""

    disposition = Disposition.DROP


class RisUnavailable(CxrNodeError):
    """The Modality Worklist of the RIS cannot be reached, or did not answer whole."""


class RisRefused(CxrNodeError):
    """The RIS answers, and takes no Modality Worklist query or not this one."""

    disposition = Disposition.FAIL


class BadMultipart(CxrNodeError):
    """A multipart body is not one, or ends before its closing boundary."""


class SourceUnavailable(CxrNodeError):
    """A system that studies are fetched from cannot be reached, or did not answer whole."""


class SourceRefused(CxrNodeError):
    """A system that studies are fetched from answers, and will not give what is asked of it until somebody acts."""

    disposition = Disposition.FAIL


class DeliveryError(CxrNodeError):
    """A destination did not take an object."""


class Unreachable(DeliveryError):
    """No connection to the destination, or it broke before an answer came."""


class AssociationRefused(DeliveryError):
    """The destination answered the association request with a rejection."""


class NotNegotiated(DeliveryError):
    """The destination accepts none of the SOP classes that the object can be sent as."""

    disposition = Disposition.FAIL


class Refused(DeliveryError):
    """The destination answered C-STORE with a failure status.

    Out of resources (0xA7xx) may pass; a dataset the peer cannot take (0xA9xx, 0xCxxx) will not.
    Source: DICOM PS3.4 B.2.3.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.disposition = Disposition.RETRY if status & 0xFF00 == 0xA700 else Disposition.FAIL
