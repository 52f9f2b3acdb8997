"""`provider-keys …`: straight on the store. A key comes from stdin: other users see what is on a command line."""

import sys
from dataclasses import asdict

import anyio.to_thread

from service.cli.exit_codes import ExitCode
from service.cli.streams import write_out
from service.cli.views import day, print_json
from service.errors import BadRequest
from service.ids import TenantId
from service.settings import read_settings
from service.tenants.provider_keys import LONGEST_KEY, ProviderKey
from service.tenants.values import OPERATOR
from service.wiring.keys import open_registry_alone


async def list_keys(tenant: str, *, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        found = await registry.provider_keys_of((await registry.tenants.get(TenantId(tenant))).id).shown()
    if as_json:
        print_json([asdict(key) for key in found])
    else:
        write_out("".join(_row(key) + "\n" for key in found))
    return ExitCode.ANSWERED


async def put_key(provider: str, tenant: str, *, as_json: bool) -> ExitCode:
    given = await anyio.to_thread.run_sync(_from_stdin)
    async with open_registry_alone(read_settings()) as registry:
        keys = registry.provider_keys_of((await registry.tenants.get(TenantId(tenant))).id)
        shown = await keys.put(provider, given, by=OPERATOR)
    if as_json:
        print_json(asdict(shown))
    else:
        write_out(_row(shown) + "\n")
    return ExitCode.ANSWERED


async def delete_key(provider: str, tenant: str) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        tenant_id = (await registry.tenants.get(TenantId(tenant))).id
        await registry.provider_keys_of(tenant_id).delete(provider, by=OPERATOR)
    write_out(f"forgot the key for {provider}\n")
    return ExitCode.ANSWERED


def _from_stdin() -> str:
    if sys.stdin is None:
        raise BadRequest("the key is expected on stdin, which is closed")
    given = sys.stdin.buffer.read(LONGEST_KEY + 2)
    return given.decode("ascii", "replace")


def _row(key: ProviderKey) -> str:
    return f"{key.provider:<20}  …{key.last_four}  {day(key.created_at)}  {key.by}"
