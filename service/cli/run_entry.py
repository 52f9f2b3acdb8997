"""The commands for runs: their options. Nothing heavy is imported (`entry`)."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import AsJson, Newest, ShowCode, Traceback

runs = typer.Typer(help="Look at runs and cancel them.", no_args_is_help=True, rich_markup_mode=None)

RunIdArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run id, as `runs ls` prints it.")]


@runs.command("ls")
def list_runs(limit: Newest = 20, as_json: AsJson = False, traceback: Traceback = False) -> None:
    """List runs."""
    from service.cli import run_commands
    from service.cli.boundary import run_command

    run_command(lambda: run_commands.list_runs(limit=limit, as_json=as_json), show_traceback=traceback)


@runs.command("show")
def show_run(
    run: RunIdArgument,
    answer: Annotated[bool, typer.Option("--answer", help="Print the answer; with --json, within the rest.")] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Show one run, or its answer."""
    from service.cli import run_commands
    from service.cli.boundary import run_command

    run_command(lambda: run_commands.show_run(run, as_json=as_json, answer_only=answer), show_traceback=traceback)


@runs.command("tail")
def tail_run(
    run: RunIdArgument, as_json: AsJson = False, show_code: ShowCode = True, traceback: Traceback = False
) -> None:
    """Follow a run from its first event to its last. With --json, one event per line."""
    from service.cli import run_commands
    from service.cli.boundary import run_command, wants_colour

    run_command(
        lambda: run_commands.tail_run(run, as_json=as_json, show_code=show_code, colour=wants_colour()),
        show_traceback=traceback,
    )


@runs.command("cancel")
def cancel_run(run: RunIdArgument, traceback: Traceback = False) -> None:
    """End a run; it keeps what it has."""
    from service.cli import run_commands
    from service.cli.boundary import run_command

    run_command(lambda: run_commands.cancel_run(run), show_traceback=traceback)


@runs.command("fork")
def fork_run(
    run: RunIdArgument,
    from_turn: Annotated[int, typer.Option(min=1, metavar="K", help="The first turn that is the fork's own.")],
    model: Annotated[str | None, typer.Option(help="Another root LM.")] = None,
    sub_model: Annotated[str | None, typer.Option(help="Another model of sub-calls.")] = None,
    prompt_pack: Annotated[str | None, typer.Option(metavar="NAME", help="Another prompt pack.")] = None,
    max_cost: Annotated[str | None, typer.Option(metavar="USD", help="Another budget.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Another turn limit, inherited turns included.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Other seconds for the fork.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")] = False,
    show_code: ShowCode = True,
    traceback: Traceback = False,
) -> None:
    """Go on from one of a run's turns as a new run; the turns before it cost nothing."""
    from service.cli.boundary import run_command, wants_colour
    from service.cli.fork_commands import ForkOptions
    from service.cli.fork_commands import fork_run as fork

    options = ForkOptions(
        run=run,
        from_turn=from_turn,
        model=model,
        sub_model=sub_model,
        prompt_pack=prompt_pack,
        max_cost=max_cost,
        max_turns=max_turns,
        timeout_s=timeout,
        show_code=show_code,
        quiet=quiet,
        colour=wants_colour(),
    )
    run_command(lambda: fork(options), show_traceback=traceback)


@runs.command("replay")
def replay_run(
    run: RunIdArgument,
    timeout: Annotated[float, typer.Option(min=1, metavar="S", help="Seconds after which to stop comparing.")] = 600,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Run a finished run's code again without any model, and compare."""
    from service.cli import fork_commands
    from service.cli.boundary import run_command

    run_command(lambda: fork_commands.replay_run(run, timeout_s=timeout, as_json=as_json), show_traceback=traceback)


@runs.command("export")
def export_run(
    run: RunIdArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file instead of stdout.")] = None,
    inline: Annotated[
        int, typer.Option(min=0, metavar="BYTES", help="Leave out contexts beyond this; they are named.")
    ] = 64 << 20,
    traceback: Traceback = False,
) -> None:
    """Write a finished run, with its contexts, to a file that another installation imports."""
    from service.cli import export_commands
    from service.cli.boundary import run_command

    run_command(lambda: export_commands.export_run(run, out=out, inline_bytes=inline), show_traceback=traceback)


@runs.command("import")
def import_run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `runs export` has written; - reads stdin.")],
    traceback: Traceback = False,
) -> None:
    """Make a run of an export and print its id; nothing is run and nothing is paid."""
    from service.cli import export_commands
    from service.cli.boundary import run_command

    run_command(lambda: export_commands.import_run_from(file), show_traceback=traceback)
