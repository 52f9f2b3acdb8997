"""What an upload is, and what its routes refuse with."""

from dataclasses import dataclass

from service.contexts.detection import FileKind
from service.errors import Fault, RlmServiceError
from service.ids import ContextId, UploadId


class UploadOffsetMismatch(RlmServiceError):
    """The upload stands elsewhere than where these bytes would go; `data["offset"]` says where."""

    code = "upload_offset_mismatch"
    fault = Fault.CALLER


class UploadBusy(RlmServiceError):
    """Another request is writing to this upload."""

    code = "upload_busy"
    fault = Fault.CALLER
    may_be_retried = True


class TooManyUploads(RlmServiceError):
    """The key or its tenant has as many open uploads as it may have."""

    code = "too_many_uploads"
    fault = Fault.POLICY


class UploadDigestMismatch(RlmServiceError):
    """All bytes came, and are not what was announced; the upload is gone."""

    code = "upload_digest_mismatch"
    fault = Fault.CALLER


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPlan:
    """What is to come."""

    name: str
    kind: FileKind
    size_bytes: int
    sha256: str | None = None
    """Of the whole; None where the client does not know it beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload as it stands."""

    upload_id: UploadId
    plan: UploadPlan
    offset: int
    """Bytes that have come, and are on disk."""
    context_id: ContextId | None
    """What it became; None until all bytes came."""
