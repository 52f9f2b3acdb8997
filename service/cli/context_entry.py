"""The commands for contexts: their options. Nothing heavy is imported (`entry`)."""

from typing import Annotated

import typer

from service.cli.options import AsJson, Encoding, Newest, NoConvert, Traceback

contexts = typer.Typer(help="Store contexts and list them.", no_args_is_help=True, rich_markup_mode=None)


@contexts.command("put")
def put_contexts(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, directories, globs, or - for stdin.")],
    encoding: Encoding = None,
    no_convert: NoConvert = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Store each path as a context and print its id."""
    from service.cli import context_commands
    from service.cli.boundary import run_command, wants_colour

    run_command(
        lambda: context_commands.put_contexts(
            tuple(paths),
            as_json=as_json,
            encoding=encoding,
            documents_as_they_are=no_convert,
            colour=wants_colour(),
        ),
        show_traceback=traceback,
    )


@contexts.command("ls")
def list_contexts(limit: Newest = 20, as_json: AsJson = False, traceback: Traceback = False) -> None:
    """List stored contexts."""
    from service.cli import context_commands
    from service.cli.boundary import run_command

    run_command(lambda: context_commands.list_contexts(limit=limit, as_json=as_json), show_traceback=traceback)
