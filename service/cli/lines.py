"""The lines that a person sees, before anybody chooses colours. What a model or a file wrote is made `visible`."""

from dataclasses import dataclass
from enum import StrEnum

from service.cli.counts import counted
from service.cli.visible import visible_line

LINE_WIDTH = 160


class Style(StrEnum):
    """What a line is, for whoever chooses colours."""

    HEADING = "heading"
    PLAIN = "plain"
    CODE = "code"
    OUTPUT = "output"
    GOOD = "good"
    WARNING = "warning"
    PULSE = "pulse"
    """Only to show life where the status line cannot be updated in place."""


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    style: Style = Style.PLAIN


def bounded(shown: list[str], most: int, style: Style, prefix: str, *, or_more: bool = False) -> list[Line]:
    """The first `most` of these, and whether there are more, also where `or_more` says so."""
    lines = [Line(prefix + visible_line(text, LINE_WIDTH), style) for text in shown[:most]]
    if len(shown) > most:
        lines.append(Line(f"{prefix}… {counted(len(shown) - most, 'more line', 'more lines')}", style))
    elif or_more:
        lines.append(Line(f"{prefix}…", style))
    return lines


def short(text: str) -> str:
    """A message on one line."""
    return visible_line(text, 2 * LINE_WIDTH)
