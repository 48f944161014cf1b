"""Every exception of storage. It knows no job and no DICOM status: the caller decides what happens next.

StorageError            a row or file is not what it must be; asking again gives the same answer
├── StorageBusy         database locked, or disk or server gone: it may pass
├── StorageFull         no space left: it passes when somebody makes room
├── BytesMissing        a file or object that a row names is not there
├── BytesAltered        a sealed file does not open: it was altered, cut, or put in another's place
├── LeaseGone           the job's lease ran out and another worker may hold it
└── DuplicateInstance   that SOP Instance UID and variant has a row already
"""


class StorageError(Exception):
    """Base of all errors of this package. Messages hold names of ours only, nothing a sender wrote."""


class StorageBusy(StorageError):
    """The database is locked for longer than the busy timeout, or database or disk cannot be reached."""


class StorageFull(StorageError):
    """Disk, quota or database has no space left."""


class BytesMissing(StorageError):
    """The bytes of a location are not there."""


class BytesAltered(StorageError):
    """The bytes of a location are not those that were kept there. Nothing of them is given to anybody."""


class LeaseGone(StorageError):
    """The lease of a job ran out and another worker may hold it: nothing of this attempt may be kept."""


class DuplicateInstance(StorageError):
    """A row with this SOP Instance UID and variant exists. The transaction stays usable."""
