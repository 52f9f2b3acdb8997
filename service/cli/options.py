"""The options that several commands have. Nothing heavy is imported (`entry`)."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]
ShowCode = Annotated[bool, typer.Option("--show-code/--no-show-code", help="Show code and what it printed.")]
Newest = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many, newest first.")]
Encoding = Annotated[
    str | None,
    typer.Option("--encoding", metavar="NAME", help="The encoding of the text, such as windows-1252."),
]
NoConvert = Annotated[
    bool, typer.Option("--no-convert", help="Take HTML, notebooks and e-mail as the text that they are.")
]
