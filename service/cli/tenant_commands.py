"""`tenants …`: straight on the store, whether or not a service runs."""

import sys
import time
from dataclasses import asdict
from functools import partial
from typing import Any

from service.cli.exit_codes import ExitCode
from service.cli.limits_given import changed_limits, limits_as_given
from service.cli.streams import write_out
from service.cli.views import day, plain_usd, print_json
from service.cli.visible import visible_line
from service.errors import BadRequest
from service.ids import TenantId
from service.money import NanoUSD
from service.runs.erasure.erasure import Erasure
from service.settings import read_settings
from service.tenants.values import NO_LIMITS, OPERATOR, Tenant
from service.wiring.blobs import open_blobs
from service.wiring.keys import open_registry_alone

PAGE = 1000


async def list_tenants(*, as_json: bool) -> ExitCode:
    """All of them."""
    found: list[Tenant] = []
    async with open_registry_alone(read_settings()) as registry:
        while page := await registry.tenants.page(after=found[-1].id if found else None, limit=PAGE):
            found += page
    if as_json:
        print_json([describe_tenant(tenant) for tenant in found])
    else:
        write_out("".join(_row(tenant) + "\n" for tenant in found))
    return ExitCode.ANSWERED


async def create_tenant(name: str, limits: tuple[str, ...], *, as_json: bool) -> ExitCode:
    given = changed_limits(NO_LIMITS, limits)
    async with open_registry_alone(read_settings()) as registry:
        tenant = await registry.tenants.create(name, limits=given, by=OPERATOR)
    return _tell(tenant, as_json=as_json)


async def show_tenant(text: str, *, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        tenant = await registry.tenants.get(TenantId(text))
    return _tell(tenant, as_json=as_json)


async def change_tenant(text: str, name: str | None, limits: tuple[str, ...], *, as_json: bool) -> ExitCode:
    if name is None and not limits:
        raise BadRequest("nothing to change: give --name or --limit")
    async with open_registry_alone(read_settings()) as registry:
        tenant = await registry.tenants.get(TenantId(text))
        given = changed_limits(tenant.limits, limits) if limits else None
        tenant = await registry.tenants.update(tenant.id, name=name, limits=given, by=OPERATOR)
    return _tell(tenant, as_json=as_json)


async def suspend_tenant(text: str, *, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        tenant = await registry.tenants.suspend(TenantId(text), by=OPERATOR)
    return _tell(tenant, as_json=as_json)


async def resume_tenant(text: str, *, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        tenant = await registry.tenants.resume(TenantId(text), by=OPERATOR)
    return _tell(tenant, as_json=as_json)


async def erase_tenant(text: str, *, yes: bool, as_json: bool) -> ExitCode:
    """Everything of it, for good."""
    if not yes:
        raise BadRequest(f"this erases everything of {text[:80]!r} and there is no way back: say --yes if you mean it")
    settings = read_settings()
    async with open_registry_alone(settings) as registry:
        erasure = Erasure(registry.store, registry, partial(open_blobs, settings), time.time)
        erased = await erasure.erase(TenantId(text), by=OPERATOR)
    figures = erased.figures
    if not erased.is_off_the_log:
        sys.stderr.write(
            "the store's server has not written its append-only file anew, so what was erased still stands in it: "
            "say BGREWRITEAOF to the server\n"
        )
    if as_json:
        print_json(asdict(figures))
    else:
        spent = NanoUSD(sum(figures.nano_usd_by_month.values()))
        write_out(f"erased {text}: {figures.runs} runs, {figures.calls} calls, {plain_usd(spent)} USD\n")
    return ExitCode.ANSWERED


def describe_tenant(tenant: Tenant) -> dict[str, Any]:
    """A tenant as JSON."""
    return {
        "tenant_id": tenant.id,
        "name": tenant.name,
        "state": _state(tenant),
        "created_at": tenant.created_at,
        "suspended_at": tenant.suspended_at,
        "limits": limits_as_given(tenant.limits),
    }


def _state(tenant: Tenant) -> str:
    if tenant.erasing_since is not None:
        return "erasing"
    return "active" if tenant.suspended_at is None else "suspended"


def _row(tenant: Tenant) -> str:
    return f"{tenant.id:<36}  {day(tenant.created_at)}  {_state(tenant):<9}  {visible_line(tenant.name, 60)}"


def _tell(tenant: Tenant, *, as_json: bool) -> ExitCode:
    if as_json:
        print_json(describe_tenant(tenant))
    else:
        limits = "".join(f"{name:<20} {value}\n" for name, value in limits_as_given(tenant.limits).items())
        write_out(_row(tenant) + "\n" + limits)
    return ExitCode.ANSWERED
