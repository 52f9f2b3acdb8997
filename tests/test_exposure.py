"""Whom `serve` lets in, by what its sandboxes promise."""

from pathlib import Path

import anyio
import pytest

from service.main import Serving, serve
from service.sandboxes.port import SandboxRefused
from service.settings import Settings, read_settings
from service.tenants.errors import SoleTenantServed
from service.tenants.values import OPERATOR
from service.wiring.keys import open_registry_alone

pytestmark = [pytest.mark.anyio, pytest.mark.needs_bwrap]


def settings(data: Path, **more: str) -> Settings:
    return read_settings({"RLM_DATA_DIR": str(data), "RLM_PORT": "0", "RLM_WARM_SANDBOXES": "0", **more})


def not_reached(serving: Serving) -> None:
    raise AssertionError(f"somebody would have been served at {serving.address}")


async def test_process_sandboxes_are_not_served_to_the_network(tmp_path: Path) -> None:
    """On an address that others reach, `serve` refuses process sandboxes before it listens, and names the setting."""
    with pytest.raises(SandboxRefused, match="RLM_SANDBOX=docker"):
        await serve(settings(tmp_path, RLM_HOST="0.0.0.0"), not_reached)


async def test_no_second_tenant_is_made_while_process_sandboxes_are_served(tmp_path: Path) -> None:
    """The command line and every other replica are refused a tenant as long as `serve` runs, and no longer."""
    async with open_registry_alone(settings(tmp_path)) as registry:
        ready = anyio.Event()

        async def serve_until_asked() -> None:
            await serve(settings(tmp_path, RLM_WARM_SANDBOXES="0"), lambda _: ready.set())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_until_asked)
            await ready.wait()
            with pytest.raises(SoleTenantServed, match="RLM_SANDBOX=docker"):
                await registry.tenants.create("second", by=OPERATOR)
            tasks.cancel_scope.cancel()
        await registry.tenants.create("second", by=OPERATOR)


async def test_process_sandboxes_are_not_served_to_several_tenants(tmp_path: Path) -> None:
    """With a second tenant in the store, `serve` refuses process sandboxes on loopback too."""
    async with open_registry_alone(settings(tmp_path)) as registry:
        await registry.tenants.create("second", by=OPERATOR)
    with pytest.raises(SandboxRefused, match="several tenants"):
        await serve(settings(tmp_path), not_reached)
