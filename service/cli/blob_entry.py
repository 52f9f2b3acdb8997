"""The operator's command for blobs: its options. Nothing heavy is imported (`entry`)."""

from typing import Annotated

import typer

from service.cli.options import AsJson, Traceback

blobs = typer.Typer(help="Free the disk of what nothing needs.", no_args_is_help=True, rich_markup_mode=None)


@blobs.callback()
def _several() -> None:
    """A group, though it has one command."""


@blobs.command("collect")
def collect(
    again_after: Annotated[
        float,
        typer.Option("--again-after", metavar="S", min=0, max=86_400, help="Seconds between the two looks."),
    ] = 60.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Believe a store to which the blobs do not belong."),
    ] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Remove blobs that two looks found unreferenced and nobody has touched for an hour."""
    from service.cli import blob_commands
    from service.cli.boundary import run_command

    run_command(
        lambda: blob_commands.collect(again_after_s=again_after, force=force, as_json=as_json),
        show_traceback=traceback,
    )
