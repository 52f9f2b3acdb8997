"""The commands and their options. Nothing heavy is imported here.

`rlm-service --help` is what people and shell completion call most and must answer within 150 ms (checked by
tests/cli/test_start.py); the service behind it takes a second to import. So each command imports its work when it
is run, rich help panels are off, and options that are left out are None: their defaults stand where they are used.
"""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import blob_entry, context_entry, run_entry, tenancy_entry
from service.cli.options import AsJson, Encoding, NoConvert, ShowCode, Traceback

if TYPE_CHECKING:
    from service.cli.exit_codes import ExitCode

app = typer.Typer(
    name="rlm-service",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run_entry.runs, name="runs")
app.add_typer(context_entry.contexts, name="contexts")
app.add_typer(tenancy_entry.tenants, name="tenants")
app.add_typer(tenancy_entry.keys, name="keys")
app.add_typer(tenancy_entry.provider_keys, name="provider-keys")
app.add_typer(tenancy_entry.audit, name="audit")
app.add_typer(blob_entry.blobs, name="blobs")

MaxCost = Annotated[str, typer.Option("--max-cost", metavar="USD", help="The most that the run may spend.")]


def _print_version(wanted: bool) -> None:  # as typer calls it
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rlm-service {version('rlm-service')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Answers questions over contexts far larger than a model's window, by running a Recursive Language Model."""


@app.command(context_settings={"allow_extra_args": True})
def ask(
    words: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    context: Annotated[
        list[str] | None,
        typer.Option(
            "-c",
            "--context",
            metavar="PATH",
            help="A file, directory, glob in quotes, stored context (ctx_…), or - for stdin; repeatable. "
            "NAME=PATH also binds it to that variable.",
        ),
    ] = None,
    encoding: Encoding = None,
    no_convert: NoConvert = False,
    model: Annotated[str | None, typer.Option(help="The root LM, such as openai/gpt-5-mini or scripted/root.")] = None,
    sub_model: Annotated[str | None, typer.Option(help="The model of sub-calls; the root LM if left out.")] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Models, limits and prompts of the file at RLM_CONFIG.")
    ] = None,
    max_cost: Annotated[
        str | None, typer.Option(metavar="USD", help="The most that the run may spend; 1.00 if left out.")
    ] = None,
    max_turns: Annotated[int | None, typer.Option(help="Turns; 30 if left out.")] = None,
    max_depth: Annotated[int | None, typer.Option(help="Levels of child runs; 1 if left out.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens, in and out, over all calls.")] = None,
    max_sub_calls: Annotated[int | None, typer.Option(help="Sub-calls.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds for the run; 1800 if left out.")] = None,
    cell_timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Active seconds for one cell; 120 if left out.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON Schema that the answer must satisfy.")
    ] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Run in this session, with its variables.")] = None,
    sandbox: Annotated[
        str | None, typer.Option(metavar="KIND", help="process or docker; RLM_SANDBOX if left out.")
    ] = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the answer to a file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")] = False,
    show_code: ShowCode = True,
    traceback: Traceback = False,
) -> None:
    """Ask one question over one or more contexts.

    The answer goes to stdout and nothing else does; progress goes to stderr.
    """
    from service.cli.boundary import run_command, wants_colour
    from service.cli.question import AskOptions, check

    options = AskOptions(
        question=question,
        more=tuple(words.args),
        contexts=tuple(context or ()),
        encoding=encoding,
        documents_as_they_are=no_convert,
        profile=profile,
        model=model,
        sub_model=sub_model,
        max_cost=max_cost,
        max_turns=max_turns,
        max_depth=max_depth,
        max_tokens=max_tokens,
        max_sub_calls=max_sub_calls,
        timeout_s=timeout,
        cell_timeout_s=cell_timeout,
        schema=schema,
        session=session,
        sandbox=sandbox,
        as_json=as_json,
        out=out,
        quiet=quiet,
        show_code=show_code,
        colour=wants_colour(),
    )

    async def run() -> "ExitCode":
        question = check(options)
        # Takes a second, for which a mistyped path need not wait.
        from service.cli.ask_command import ask_and_deliver

        return await ask_and_deliver(question, options)

    run_command(run, show_traceback=traceback)


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="The root LM.")] = "scripted/root",
    sub_model: Annotated[str, typer.Option(help="The model of sub-calls.")] = "scripted/sub",
    max_cost: MaxCost = "1.00",
    lines: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many lines to search.")] = 1_000_000,
    show_code: ShowCode = True,
    traceback: Traceback = False,
) -> None:
    """Find one number hidden in 1,000,000 lines. Needs no key; leaves nothing behind."""
    from service.cli.boundary import run_command, wants_colour
    from service.cli.demo import DemoOptions
    from service.cli.demo import demo as run

    options = DemoOptions(
        model=model,
        sub_model=sub_model,
        max_cost=max_cost,
        lines=lines,
        show_code=show_code,
        colour=wants_colour(),
    )
    run_command(lambda: run(options), show_traceback=traceback)


@app.command()
def serve(traceback: Traceback = False) -> None:
    """Answer requests of the REST API until SIGTERM. Settings: RLM_HOST, RLM_PORT."""
    from service.cli.boundary import run_command
    from service.cli.serving import serve as run

    run_command(run, show_traceback=traceback, keeps_log=True)


@app.command()
def doctor(as_json: AsJson = False, traceback: Traceback = False) -> None:
    """Say what works here, what does not, and what to do about it."""
    from service.cli.boundary import run_command
    from service.cli.doctor import doctor as run

    run_command(lambda: run(as_json=as_json), show_traceback=traceback)


def main() -> None:
    """The console script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until a command runs there is nothing to clean up, and Ctrl-C must not end in a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getpid() == 1:
        # Of a container: for its first process Linux has no default, and SIGTERM would be lost until a command listens.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    app()
