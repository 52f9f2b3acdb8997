"""The options that most commands have. Nothing heavy is imported (`entry`)."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]
