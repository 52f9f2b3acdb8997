"""What the store raises. Exceptions of the Redis client and of the file system never leave this room."""

import errno

from service.errors import Fault, RlmServiceError


class StoreFailed(RlmServiceError):
    """The server or the disk below it did not do its work. Whether a write took place may be unknown."""

    code = "store_failed"
    fault = Fault.PLATFORM
    may_be_retried = True


class TenantErased(StoreFailed):
    """The tenant is erased: nothing can be kept for it any more. Whoever gets this stops working for it."""

    may_be_retried = False


class WritesRefused(StoreFailed):
    """The server answers and takes no writes: it is full, its disk is, or it is a read-only replica."""


class StaleEpoch(RlmServiceError):
    """Somebody else has taken the run or session over; whoever gets this stops driving it and touches nothing more."""

    code = "stale_epoch"
    fault = Fault.PLATFORM


class RecordUnreadable(RlmServiceError):
    """What is kept is not what this version writes: it was changed by another hand, or is damaged."""

    code = "record_unreadable"
    fault = Fault.PLATFORM


class BlobTooLarge(RlmServiceError):
    """A payload is larger than its reader or writer allows."""

    code = "blob_too_large"
    fault = Fault.CALLER


class BlobMissing(RlmServiceError):
    """A payload that something refers to is not in the blob store any more."""

    code = "blob_missing"
    fault = Fault.PLATFORM


def disk_failed(error: OSError, doing: str) -> StoreFailed:
    """Translate a file system error met while `doing` something, naming the remedy where there is one."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            remedy = "the disk is full; free space or point RLM_DATA_DIR at a larger disk"
        case errno.EROFS:
            remedy = "the file system is read-only; point RLM_DATA_DIR at a writable one"
        case errno.EACCES | errno.EPERM:
            remedy = "access is denied; the data directory must belong to the user that runs the service"
        case errno.EMFILE | errno.ENFILE:
            remedy = "too many files are open; raise the limit of open files (ulimit -n)"
        case _:
            remedy = error.strerror or type(error).__name__
    return StoreFailed(f"could not {doing}: {remedy}", data={"errno": error.errno})
