"""`audit …`: straight on the store."""

from dataclasses import asdict

from service.cli.exit_codes import ExitCode
from service.cli.streams import write_out
from service.cli.views import day, print_json
from service.cli.visible import visible_line
from service.ids import TenantId
from service.settings import read_settings
from service.tenants.audit import OPERATORS_CHAIN, AuditLog, AuditRecord
from service.tenants.registry import Registry
from service.wiring.keys import open_registry_alone


async def list_records(tenant: str | None, *, after: int, limit: int, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        found = await (await _log_of(registry, tenant)).page(after=after, limit=limit)
    if as_json:
        print_json([asdict(record) for record in found])
    else:
        write_out("".join(_row(record) + "\n" for record in found))
    return ExitCode.ANSWERED


async def verify(tenant: str | None, *, as_json: bool) -> ExitCode:
    async with open_registry_alone(read_settings()) as registry:
        verdict = await (await _log_of(registry, tenant)).verify()
    if as_json:
        print_json(asdict(verdict))
    elif verdict.broken_at is None:
        write_out(f"whole: {verdict.records} records, the last digest is {verdict.last_digest or 'none yet'}\n")
    else:
        write_out(f"broken: record {verdict.broken_at} is not what was recorded\n")
    return ExitCode.ANSWERED if verdict.broken_at is None else ExitCode.PLATFORM


async def _log_of(registry: Registry, tenant: str | None) -> AuditLog:
    if tenant is None:
        return registry.logs.of(OPERATORS_CHAIN)
    return registry.logs.of((await registry.tenants.get(TenantId(tenant))).id)


def _row(record: AuditRecord) -> str:
    deed = record.deed
    details = " ".join(f"{name}={value}" for name, value in deed.details.items())
    words = visible_line(f"{deed.action}  {deed.target}  by {deed.by}  {details}", 1000)
    return f"{record.number:>6}  {day(record.at)}  {words}"
