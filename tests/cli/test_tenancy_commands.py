"""`tenants`, `keys`, `provider-keys` and `audit`: what they do to a store of the test's own, and what they print."""

import io
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.cli import audit_commands, key_commands, provider_key_commands, tenant_commands
from service.cli.exit_codes import ExitCode
from service.cli.key_commands import WantedKey
from service.cli.limits_given import changed_limits, limits_as_given, seconds_given
from service.errors import BadRequest, NotFound
from service.settings import read_settings
from service.tenants.errors import TenantSuspended, Unauthenticated
from service.tenants.values import NO_LIMITS
from service.wiring.keys import open_registry_alone
from tests.cli.conftest import CommandLine

pytestmark = pytest.mark.anyio

WANTED = WantedKey(tenant="default", name="k", scopes=(), models=None, limits=(), expires_in=None)


class Terminal:
    """Runs a command's work in this process and reads what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def json(self, command: Awaitable[ExitCode]) -> Any:
        assert await command is ExitCode.ANSWERED
        return json.loads(self._capsys.readouterr().out)

    async def text(self, command: Awaitable[ExitCode]) -> tuple[str, str]:
        assert await command is ExitCode.ANSWERED
        captured = self._capsys.readouterr()
        return captured.out, captured.err


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Terminal]:
    monkeypatch.setenv("RLM_DATA_DIR", str(tmp_path / "data"))
    with capture_logs():  # which `run_command` sends to stderr
        yield Terminal(capsys)


async def recognised(secret: str) -> str:
    async with open_registry_alone(read_settings()) as registry:
        return (await registry.api_keys.authenticate(secret)).key.id


async def test_a_tenant_from_its_making_to_its_erasure(terminal: Terminal) -> None:
    """A tenant is made with limits, changed, suspended, resumed and erased; what the listing says follows."""
    made = await terminal.json(tenant_commands.create_tenant("ours", ("usd_per_day=2.50",), as_json=True))
    tenant = made["tenant_id"]
    assert made["limits"] == {"usd_per_day": "2.50"}
    limits = ("parallel_runs=3", "usd_per_day=none")
    changed = await terminal.json(tenant_commands.change_tenant(tenant, "renamed", limits, as_json=True))
    assert (changed["name"], changed["limits"]) == ("renamed", {"parallel_runs": 3})
    secret, _ = await terminal.text(key_commands.create_key(replace_tenant(tenant), as_json=False))
    await terminal.json(tenant_commands.suspend_tenant(tenant, as_json=True))
    with pytest.raises(TenantSuspended):
        await recognised(secret.strip())
    resumed = await terminal.json(tenant_commands.resume_tenant(tenant, as_json=True))
    assert resumed["state"] == "active"
    await recognised(secret.strip())
    with pytest.raises(BadRequest, match="--yes"):
        await tenant_commands.erase_tenant(tenant, yes=False, as_json=True)
    assert (await terminal.json(tenant_commands.erase_tenant(tenant, yes=True, as_json=True)))["runs"] == 0
    listed = await terminal.json(tenant_commands.list_tenants(as_json=True))
    assert [each["tenant_id"] for each in listed] == ["default"]
    with pytest.raises(Unauthenticated):
        await recognised(secret.strip())


def replace_tenant(tenant: str) -> WantedKey:
    return WantedKey(tenant=tenant, name="k", scopes=("runs",), models=("openai/*",), limits=(), expires_in="90d")


async def test_a_key_from_its_making_to_its_end(terminal: Terminal) -> None:
    """The secret alone is on stdout, once; a rotated key has another; a revoked one opens nothing."""
    secret, said = await terminal.text(key_commands.create_key(WANTED, as_json=False))
    assert secret.startswith("rlm_")
    assert secret.count("\n") == 1
    key = await recognised(secret.strip())
    assert key in said
    assert secret.strip() not in said
    rotated = await terminal.json(key_commands.rotate_key(key, "0s", as_json=True))
    assert await recognised(rotated["secret"]) == key
    with pytest.raises(Unauthenticated):
        await recognised(secret.strip())
    await terminal.text(key_commands.revoke_key(key, as_json=False))
    with pytest.raises(Unauthenticated):
        await recognised(rotated["secret"])
    (listed,) = await terminal.json(key_commands.list_keys("default", as_json=True))
    assert (listed["state"], listed["scopes"]) == ("revoked", ["contexts", "runs", "sessions", "usage"])
    assert "secret" not in listed


async def test_a_provider_key_comes_from_stdin_and_does_not_come_back(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed of a provider key are its last four characters."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"sk-bait-0123456789\n")))
    await terminal.json(provider_key_commands.put_key("openai", "default", as_json=True))
    out, err = await terminal.text(provider_key_commands.list_keys("default", as_json=False))
    assert "…6789" in out
    assert "bait" not in out + err
    await terminal.text(provider_key_commands.delete_key("openai", "default"))
    assert await terminal.json(provider_key_commands.list_keys("default", as_json=True)) == []


async def test_the_audit_log_is_read_and_verified(terminal: Terminal) -> None:
    """What was done stands in the log, and a log that somebody changed ends with exit code 6."""
    await terminal.text(key_commands.create_key(WANTED, as_json=False))
    (record,) = await terminal.json(audit_commands.list_records("default", after=0, limit=10, as_json=True))
    assert (record["deed"]["action"], record["deed"]["by"]) == ("key.created", "operator")
    assert (await terminal.json(audit_commands.verify("default", as_json=True)))["broken_at"] is None
    async with open_registry_alone(read_settings()) as registry:
        await registry.store.write("DEL", "rlm:{default}:audit")
    assert await audit_commands.verify("default", as_json=True) is ExitCode.PLATFORM


@pytest.mark.parametrize(
    "command",
    [
        lambda: tenant_commands.show_tenant("ten_none", as_json=True),
        lambda: key_commands.list_keys("ten_none", as_json=True),
        lambda: key_commands.revoke_key("key_none", as_json=True),
        lambda: provider_key_commands.list_keys("ten_none", as_json=True),
        lambda: audit_commands.verify("ten_none", as_json=True),
    ],
    ids=["tenant", "keys", "key", "provider keys", "audit"],
)
@pytest.mark.usefixtures("terminal")
async def test_what_is_not_there_is_not_found(command: Callable[[], Awaitable[ExitCode]]) -> None:
    """An id that leads nowhere is told as such by every command."""
    with pytest.raises(NotFound):
        await command()


def test_limits_are_read_as_they_are_shown() -> None:
    """What is shown of limits can be typed again, and money is typed in USD."""
    given = ("parallel_runs=3", "usd_per_month=10.00", "storage_bytes=5")
    limits = changed_limits(NO_LIMITS, given)
    assert limits.nano_usd_per_month == 10_000_000_000
    shown = [f"{name}={value}" for name, value in limits_as_given(limits).items()]
    assert changed_limits(NO_LIMITS, shown) == limits
    assert changed_limits(limits, ["parallel_runs=none", "usd_per_month=none", "storage_bytes=none"]) == NO_LIMITS


@pytest.mark.parametrize(
    "given", ["", "x=1", "parallel_runs", "parallel_runs=-1", "usd_per_day=a", "parallel_runs=1.5"]
)
def test_limits_that_are_none_are_refused(given: str) -> None:
    """A mistyped limit is refused with the names that there are, or what is wrong with its value."""
    with pytest.raises(BadRequest):
        changed_limits(NO_LIMITS, [given])


def test_times_have_a_unit() -> None:
    """A time is a number with its unit."""
    assert seconds_given("90d", "--expires-in") == 90 * 86_400
    for mistyped in ("90", "d", "1.5h", "-1s", "1y"):
        with pytest.raises(BadRequest, match="--expires-in"):
            seconds_given(mistyped, "--expires-in")


def test_the_commands_are_reached(tmp_path: Path) -> None:
    """As a process, a command does what it says and a mistake has the exit code of one."""
    line = CommandLine(directory=tmp_path)
    made = line.run("keys", "create", "first", "--scope", "admin", "--json")
    assert made.code == ExitCode.ANSWERED, made.err
    assert json.loads(made.out)["scopes"] == ["admin"]
    assert line.run("keys", "create", "k", "--scope", "all").code == ExitCode.BAD_USAGE


async def test_ask_calls_with_the_tenants_own_key(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A provider key that the tenant has left is enough: `ask` misses none of the operator's."""
    asking = CommandLine(directory=tmp_path)
    arguments = ("ask", "q", "-c", "ctx_" + "0" * 32, "--model", "openai/gpt-4o-mini")
    assert "OPENAI_API_KEY" in asking.run(*arguments).err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"sk-bait-0123456789\n")))
    await terminal.json(provider_key_commands.put_key("openai", "default", as_json=True))
    assert "contexts ls" in asking.run(*arguments).err
