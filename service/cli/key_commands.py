"""`keys …`: straight on the store. A secret goes to stdout, once, and nowhere else."""

import sys
import time
from dataclasses import dataclass
from typing import Any

from service.cli.exit_codes import ExitCode
from service.cli.limits_given import changed_limits, limits_as_given, seconds_given
from service.cli.streams import write_out
from service.cli.views import day, print_json
from service.cli.visible import visible_line
from service.errors import BadRequest
from service.ids import KeyId, TenantId
from service.settings import read_settings
from service.tenants.api_keys import IssuedKey
from service.tenants.key_plans import KeyRequest
from service.tenants.values import NO_LIMITS, OPERATOR, ApiKey, Scope
from service.wiring.keys import open_registry_alone

USUAL_SCOPES = frozenset({Scope.RUNS, Scope.CONTEXTS, Scope.SESSIONS, Scope.USAGE})


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedKey:
    """The options of `keys create`, as they were typed."""

    tenant: str
    name: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    limits: tuple[str, ...]
    expires_in: str | None


async def list_keys(tenant: str, *, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        found = await registry.api_keys.of_tenant((await registry.tenants.get(TenantId(tenant))).id, by=OPERATOR)
    if as_json:
        print_json([describe_key(key) for key in found])
    else:
        write_out("".join(_row(key) + "\n" for key in found))
    return ExitCode.ANSWERED


async def create_key(wanted: WantedKey, *, as_json: bool) -> ExitCode:
    now = time.time()
    expires_in_s = None if wanted.expires_in is None else seconds_given(wanted.expires_in, "--expires-in")
    request = KeyRequest(
        name=wanted.name,
        scopes=_scopes(wanted.scopes) or USUAL_SCOPES,
        models=wanted.models,
        limits=changed_limits(NO_LIMITS, wanted.limits),
        expires_at=None if expires_in_s is None else now + expires_in_s,
    )
    async with open_registry_alone(read_settings()) as registry:
        issued = await registry.api_keys.create(TenantId(wanted.tenant), request, by=OPERATOR)
    return _tell_issued(issued, as_json=as_json)


async def rotate_key(text: str, overlap: str, *, as_json: bool) -> ExitCode:
    overlap_s = seconds_given(overlap, "--overlap")
    async with open_registry_alone(read_settings()) as registry:
        issued = await registry.api_keys.rotate(KeyId(text), overlap_s=overlap_s, by=OPERATOR)
    return _tell_issued(issued, as_json=as_json)


async def revoke_key(text: str, *, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        key = await registry.api_keys.revoke(KeyId(text), by=OPERATOR)
    if as_json:
        print_json(describe_key(key))
    else:
        write_out(f"revoked {key.id}\n")
    return ExitCode.ANSWERED


def describe_key(key: ApiKey) -> dict[str, Any]:
    """A key as JSON, without its secret, which nobody has."""
    return {
        "key_id": key.id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "state": _state(key),
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else list(key.models),
        "limits": limits_as_given(key.limits),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "rotated_at": key.rotated_at,
        "last_used_at": key.last_used_at,
        "made_by": key.ancestors[0] if key.ancestors else None,
    }


def _scopes(given: tuple[str, ...]) -> frozenset[Scope]:
    unknown = [each for each in given if each not in set(Scope)]
    if unknown:
        raise BadRequest(f"expected --scope to be one of {', '.join(Scope)}, found {unknown[0][:80]!r}")
    return frozenset(map(Scope, given))


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.is_live(time.time()) else "expired"


def _row(key: ApiKey) -> str:
    used = "never used" if key.last_used_at is None else f"used {day(key.last_used_at)}"
    return f"{key.id}  {day(key.created_at)}  {_state(key):<8}  {used:<22}  {','.join(sorted(key.scopes))}  " + (
        visible_line(key.name, 60)
    )


def _tell_issued(issued: IssuedKey, *, as_json: bool) -> ExitCode:
    if as_json:
        print_json({**describe_key(issued.key), "secret": issued.secret})
    else:
        write_out(issued.secret + "\n")
        sys.stderr.write(f"this is {issued.key.id}; its secret is shown this once and cannot be shown again\n")
    return ExitCode.ANSWERED
