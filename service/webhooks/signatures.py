"""Signatures as Standard Webhooks defines them (v1: HMAC-SHA-256). Pure.

A webhook's secret is derived from the installation's vault key, the tenant and the webhook: it stands in no store, and
with another vault key there are other secrets.
"""

import base64
import hashlib
import hmac

from service.ids import TenantId
from service.tenants.key_files import KeyFile
from service.webhooks.values import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 -- what secrets begin with
OVERLAP_S = 86_400.0
"""How long requests are signed with the secret before as well, after it was rotated."""


def secret_of(vault: KeyFile, tenant: TenantId, webhook: Webhook) -> str:
    """What the receiver is given, once."""
    return SECRET_PREFIX + base64.b64encode(_key(vault, tenant, webhook, webhook.secret_version)).decode()


def signed_headers(
    vault: KeyFile, tenant: TenantId, webhook: Webhook, *, message_id: str, body: bytes, now: float
) -> list[tuple[str, str]]:
    """The three headers by which a receiver checks that it was us, and when."""
    versions = [webhook.secret_version]
    if webhook.secret_version > 1 and now < webhook.previous_secret_until:
        versions.append(webhook.secret_version - 1)
    timestamp = str(int(now))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(_key(vault, tenant, webhook, version), signed, hashlib.sha256)).decode()
        for version in versions
    ]
    return [
        ("webhook-id", message_id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", " ".join(signatures)),
    ]


def _key(vault: KeyFile, tenant: TenantId, webhook: Webhook, version: int) -> bytes:
    return vault.mac("webhook-secrets", f"{tenant}\n{webhook.id}\n{version}".encode())
