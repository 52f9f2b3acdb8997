"""The operator's commands for tenants, keys and the audit log: their options. Nothing heavy is imported (`entry`)."""

from typing import Annotated

import typer

from service.cli.options import AsJson, Traceback

tenants = typer.Typer(help="Make, limit, suspend and erase tenants.", no_args_is_help=True, rich_markup_mode=None)
keys = typer.Typer(help="Make, rotate and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)
provider_keys = typer.Typer(
    help="Keep a tenant's own keys for model providers.", no_args_is_help=True, rich_markup_mode=None
)
audit = typer.Typer(help="Read and verify the audit log.", no_args_is_help=True, rich_markup_mode=None)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant's id, as `tenants ls` prints it.")]
TenantOption = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="The tenant.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="A key's id, as `keys ls` prints it.")]
SetLimits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=VALUE",
        help="Such as parallel_runs=4 or usd_per_day=5.00; none lifts it; repeatable.",
    ),
]


@tenants.command("ls")
def list_tenants(as_json: AsJson = False, traceback: Traceback = False) -> None:
    """List tenants, the oldest first."""
    from service.cli import tenant_commands
    from service.cli.boundary import run_command

    run_command(lambda: tenant_commands.list_tenants(as_json=as_json), show_traceback=traceback)


@tenants.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    limit: SetLimits = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Make a tenant and print its id."""
    from service.cli import tenant_commands
    from service.cli.boundary import run_command

    run_command(
        lambda: tenant_commands.create_tenant(name, tuple(limit or ()), as_json=as_json), show_traceback=traceback
    )


@tenants.command("show")
def show_tenant(tenant: TenantArgument, as_json: AsJson = False, traceback: Traceback = False) -> None:
    """Show a tenant and its limits."""
    from service.cli import tenant_commands
    from service.cli.boundary import run_command

    run_command(lambda: tenant_commands.show_tenant(tenant, as_json=as_json), show_traceback=traceback)


@tenants.command("change")
def change_tenant(
    tenant: TenantArgument,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    limit: SetLimits = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Give a tenant another name or other limits; what is not named stays."""
    from service.cli import tenant_commands
    from service.cli.boundary import run_command

    run_command(
        lambda: tenant_commands.change_tenant(tenant, name, tuple(limit or ()), as_json=as_json),
        show_traceback=traceback,
    )


@tenants.command("suspend")
def suspend_tenant(tenant: TenantArgument, as_json: AsJson = False, traceback: Traceback = False) -> None:
    """Refuse a tenant's keys, and let its runs spend nothing more."""
    from service.cli import tenant_commands
    from service.cli.boundary import run_command

    run_command(lambda: tenant_commands.suspend_tenant(tenant, as_json=as_json), show_traceback=traceback)


@tenants.command("resume")
def resume_tenant(tenant: TenantArgument, as_json: AsJson = False, traceback: Traceback = False) -> None:
    """End a suspension."""
    from service.cli import tenant_commands
    from service.cli.boundary import run_command

    run_command(lambda: tenant_commands.resume_tenant(tenant, as_json=as_json), show_traceback=traceback)


@tenants.command("erase")
def erase_tenant(
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: there is no way back.")] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Erase everything of a tenant, for good. Broken off, it is finished by asking again."""
    from service.cli import tenant_commands
    from service.cli.boundary import run_command

    run_command(lambda: tenant_commands.erase_tenant(tenant, yes=yes, as_json=as_json), show_traceback=traceback)


@keys.command("ls")
def list_keys(tenant: TenantOption = "default", as_json: AsJson = False, traceback: Traceback = False) -> None:
    """List a tenant's keys, the oldest first."""
    from service.cli import key_commands
    from service.cli.boundary import run_command

    run_command(lambda: key_commands.list_keys(tenant, as_json=as_json), show_traceback=traceback)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    tenant: TenantOption = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="runs, contexts, sessions, usage, webhooks, keys or admin; repeatable; the first four if left out.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="Allow this model, or all that begin so with a *; repeatable; all if left out.",
        ),
    ] = None,
    limit: SetLimits = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", metavar="TIME", help="Such as 90d, 12h or 30m; never if left out.")
    ] = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Make an API key and print it, this once."""
    from service.cli import key_commands
    from service.cli.boundary import run_command

    wanted = key_commands.WantedKey(
        tenant=tenant,
        name=name,
        scopes=tuple(scope or ()),
        models=None if model is None else tuple(model),
        limits=tuple(limit or ()),
        expires_in=expires_in,
    )
    run_command(lambda: key_commands.create_key(wanted, as_json=as_json), show_traceback=traceback)


@keys.command("rotate")
def rotate_key(
    key: KeyArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long the old secret works on, such as 24h or 0s.")
    ] = "24h",
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Give a key a new secret and print it, this once."""
    from service.cli import key_commands
    from service.cli.boundary import run_command

    run_command(lambda: key_commands.rotate_key(key, overlap, as_json=as_json), show_traceback=traceback)


@keys.command("revoke")
def revoke_key(key: KeyArgument, as_json: AsJson = False, traceback: Traceback = False) -> None:
    """End a key and all that it made."""
    from service.cli import key_commands
    from service.cli.boundary import run_command

    run_command(lambda: key_commands.revoke_key(key, as_json=as_json), show_traceback=traceback)


@provider_keys.command("ls")
def list_provider_keys(tenant: TenantOption = "default", as_json: AsJson = False, traceback: Traceback = False) -> None:
    """List for which providers a tenant has keys."""
    from service.cli import provider_key_commands
    from service.cli.boundary import run_command

    run_command(lambda: provider_key_commands.list_keys(tenant, as_json=as_json), show_traceback=traceback)


@provider_keys.command("put")
def put_provider_key(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="openai, anthropic, or as in litellm/PROVIDER/…")],
    tenant: TenantOption = "default",
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Keep the key that stdin brings, in place of the one before."""
    from service.cli import provider_key_commands
    from service.cli.boundary import run_command

    run_command(lambda: provider_key_commands.put_key(provider, tenant, as_json=as_json), show_traceback=traceback)


@provider_keys.command("rm")
def delete_provider_key(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="As `provider-keys ls` prints it.")],
    tenant: TenantOption = "default",
    traceback: Traceback = False,
) -> None:
    """Forget a key."""
    from service.cli import provider_key_commands
    from service.cli.boundary import run_command

    run_command(lambda: provider_key_commands.delete_key(provider, tenant), show_traceback=traceback)


@audit.command("ls")
def list_records(
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="The operator's own log if left out.")
    ] = None,
    after: Annotated[int, typer.Option(min=0, help="Begin after this number.")] = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, the oldest first.")] = 100,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """List records."""
    from service.cli import audit_commands
    from service.cli.boundary import run_command

    run_command(
        lambda: audit_commands.list_records(tenant, after=after, limit=limit, as_json=as_json),
        show_traceback=traceback,
    )


@audit.command("verify")
def verify_log(
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="The operator's own log if left out.")
    ] = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Say whether anybody changed, left out or inserted a record. Exit code 6 if so."""
    from service.cli import audit_commands
    from service.cli.boundary import run_command

    run_command(lambda: audit_commands.verify(tenant, as_json=as_json), show_traceback=traceback)
