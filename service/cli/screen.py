"""Where progress goes: stderr, so that stdout holds the answer and nothing else.

A terminal gets colours and one line that is updated in place. Everything else (a pipe, a log, `NO_COLOR`) gets
plain lines. Text arrives already made safe by `visible`; rich never parses it as markup.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from service.cli.lines import Line, Style
from service.cli.streams import flush_out, is_terminal, write_out

STYLES: dict[Style, str] = {
    Style.HEADING: "bold",
    Style.PLAIN: "",
    Style.CODE: "cyan",
    Style.OUTPUT: "dim",
    Style.GOOD: "green",
    Style.WARNING: "yellow",
    Style.PULSE: "dim",
}


class QuietScreen:
    """`--quiet`: no progress, but what must not be missed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, lines: Iterable[Line]) -> None:
        """Nothing."""

    def tell(self, lines: Iterable[Line]) -> None:
        self._stream.writelines(line.text + "\n" for line in lines if line.style is Style.WARNING)

    def update(self, status: str) -> None:
        """Nothing."""


class PlainScreen:
    """Lines of text, each written out at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._stream.write(line.text + "\n")
        self._stream.flush()

    def tell(self, lines: Iterable[Line]) -> None:
        self.show(lines)

    def update(self, status: str) -> None:
        """Nothing: there is no place to update."""


class LiveScreen:
    """A terminal: finished lines scroll up, the status line stays underneath."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status

    def show(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if line.style is not Style.PULSE:
                self._console.print(Text(line.text, STYLES[line.style]), soft_wrap=True)

    def tell(self, lines: Iterable[Line]) -> None:
        self.show(lines)

    def update(self, status: str) -> None:
        self._status.update(Text(status))


class ListingScreen:
    """Lines on stdout, where they are what was asked for."""

    def show(self, lines: Iterable[Line]) -> None:
        for line in lines:
            write_out(line.text + "\n")
        flush_out()

    def tell(self, lines: Iterable[Line]) -> None:
        self.show(lines)

    def update(self, status: str) -> None:
        """Nothing: there is no place to update."""


Screen = QuietScreen | PlainScreen | LiveScreen | ListingScreen


@contextmanager
def open_screen(*, quiet: bool, colour: bool) -> Iterator[Screen]:
    """The screen that fits stderr. `colour` is false where `NO_COLOR` is set.

    Each has `show` for progress, `tell` for what stderr must say in any case (of it warnings, when quiet), and `update`
    for the line that is updated in place.
    """
    if quiet:
        yield QuietScreen(sys.stderr)
    elif not (colour and sys.stderr.isatty()):
        yield PlainScreen(sys.stderr)
    else:
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        with console.status(Text("starting")) as status:
            yield LiveScreen(console, status)


@contextmanager
def open_listing(*, colour: bool) -> Iterator[Screen]:
    """The same for stdout."""
    if not (colour and is_terminal()):
        yield ListingScreen()
    else:
        console = Console(highlight=False, markup=False, emoji=False)
        with console.status(Text("looking")) as status:
            yield LiveScreen(console, status)
