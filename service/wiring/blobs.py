"""Where each tenant's blobs are: in a directory of its own, so that nothing is put together with what another keeps,
and an erased tenant's are gone with the directory."""

from pathlib import Path

from service.ids import EMBEDDED_TENANT, TenantId
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.keys import Keys


def blobs_directory(settings: Settings) -> Path:
    """Where the blobs of all tenants stand."""
    return settings.data_directory / "blobs"


def open_blobs(settings: Settings, tenant_id: TenantId) -> Blobs:
    """The blobs of one tenant; the default tenant's are where they were before there were others.

    Raises:
        BadRequest: this cannot be a tenant's id, so it becomes no path.
        StoreFailed: the directory cannot be used.
    """
    directory = blobs_directory(settings)
    return Blobs(directory if tenant_id == EMBEDDED_TENANT else directory / "tenants" / Keys(tenant_id).tenant)
