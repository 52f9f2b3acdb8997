"""Ids in paths. What has not the shape of an id is not found, in the words of one that nobody has."""

from typing import Annotated

from fastapi import Depends, Path

from service.errors import NotFound
from service.ids import (
    EMBEDDED_TENANT,
    ContextId,
    DeliveryId,
    KeyId,
    RunId,
    SessionId,
    TenantId,
    UploadId,
    WebhookId,
    is_id,
)

_LONGEST_ECHO = 80
_SHAPE = "_[0-9a-f]{32}$"


def described(prefix: str) -> dict[str, object]:
    """In the OpenAPI document, where it tells clients; the check itself is below, because its refusal is a 404."""
    return {"pattern": f"^{prefix}{_SHAPE}"}


def _run_id(
    run_id: Annotated[str, Path(json_schema_extra=described("run"), examples=["run_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])],
) -> RunId:
    if not is_id(run_id, "run"):
        raise NotFound(f"there is no run {run_id[:_LONGEST_ECHO]}")
    return RunId(run_id)


def _context_id(
    context_id: Annotated[
        str, Path(json_schema_extra=described("ctx"), examples=["ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    ],
) -> ContextId:
    if not is_id(context_id, "ctx"):
        raise NotFound(f"there is no context {context_id[:_LONGEST_ECHO]}")
    return ContextId(context_id)


def _session_id(
    session_id: Annotated[
        str, Path(json_schema_extra=described("ses"), examples=["ses_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    ],
) -> SessionId:
    if not is_id(session_id, "ses"):
        raise NotFound(f"there is no session {session_id[:_LONGEST_ECHO]}")
    return SessionId(session_id)


def _upload_id(
    upload_id: Annotated[
        str, Path(json_schema_extra=described("upl"), examples=["upl_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    ],
) -> UploadId:
    if not is_id(upload_id, "upl"):
        raise NotFound(f"there is no upload {upload_id[:_LONGEST_ECHO]}")
    return UploadId(upload_id)


def _key_id(
    key_id: Annotated[str, Path(json_schema_extra=described("key"), examples=["key_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])],
) -> KeyId:
    if not is_id(key_id, "key"):
        raise NotFound(f"there is no API key {key_id[:_LONGEST_ECHO]}")
    return KeyId(key_id)


def _tenant_id(
    tenant_id: Annotated[
        str,
        Path(
            json_schema_extra={"pattern": f"^({EMBEDDED_TENANT}|ten{_SHAPE.rstrip('$')})$"},
            examples=["ten_0198c2f0a7b87cc2b1a8f2c3d4e5f607"],
        ),
    ],
) -> TenantId:
    if tenant_id != EMBEDDED_TENANT and not is_id(tenant_id, "ten"):
        raise NotFound(f"there is no tenant {tenant_id[:_LONGEST_ECHO]}")
    return TenantId(tenant_id)


def _webhook_id(
    webhook_id: Annotated[
        str, Path(json_schema_extra=described("whk"), examples=["whk_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    ],
) -> WebhookId:
    if not is_id(webhook_id, "whk"):
        raise NotFound(f"there is no webhook {webhook_id[:_LONGEST_ECHO]}")
    return WebhookId(webhook_id)


def _delivery_id(
    delivery_id: Annotated[
        str, Path(json_schema_extra=described("dlv"), examples=["dlv_5d1c3f6b0a9e8d7c6b5a49382716f5e4"])
    ],
) -> DeliveryId:
    if not is_id(delivery_id, "dlv"):
        raise NotFound(f"there is no delivery {delivery_id[:_LONGEST_ECHO]}")
    return DeliveryId(delivery_id)


WebhookIdInPath = Annotated[WebhookId, Depends(_webhook_id)]
DeliveryIdInPath = Annotated[DeliveryId, Depends(_delivery_id)]
KeyIdInPath = Annotated[KeyId, Depends(_key_id)]
TenantIdInPath = Annotated[TenantId, Depends(_tenant_id)]
UploadIdInPath = Annotated[UploadId, Depends(_upload_id)]
RunIdInPath = Annotated[RunId, Depends(_run_id)]
ContextIdInPath = Annotated[ContextId, Depends(_context_id)]
SessionIdInPath = Annotated[SessionId, Depends(_session_id)]
