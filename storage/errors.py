"""Every exception of storage. It knows no job and no DICOM status: the caller decides what happens next.

StorageError            a row or file is not what it must be; asking again gives the same answer
├── StorageBusy         database locked, or disk or server gone: it may pass
├── StorageFull         no space left: it passes when somebody makes room
├── LeaseGone           the job's lease ran out and another worker may hold it
└── DuplicateInstance   that SOP Instance UID and variant has a row already
"""


class StorageError(Exception):
    """Base of all errors of this package. Messages hold names of ours only, nothing a sender wrote."""


class StorageBusy(StorageError):
    """The database is locked for longer than the busy timeout, or database or disk cannot be reached."""


class StorageFull(StorageError):
    """Disk, quota or database has no space left."""


class LeaseGone(StorageError):
    """The lease of a job ran out and another worker may hold it: nothing of this attempt may be kept."""


class DuplicateInstance(StorageError):
    """A row with this SOP Instance UID and variant exists. The transaction stays usable."""
