"""What a person sees of a cell that has run."""

from service.cli.counts import counted
from service.cli.lines import Line, Style, bounded, short
from service.cli.visible import visible_line
from service.ids import CellId
from service.loop.values import CapturedText, CellResult, CellStatus

MAX_OUTPUT_LINES = 8


def lines_of(result: CellResult, *, with_output: bool) -> list[Line]:
    """How it ended, and with `with_output` the beginning of what it printed."""
    style = Style.GOOD if result.status is CellStatus.OK else Style.WARNING
    printed = [*_captured(result.stdout), *_captured(result.stderr)] if with_output else []
    return [Line(_cell_summary(result), style), *printed]


def _cell_summary(result: CellResult) -> str:
    parts = [f"cell {_cell_place(result.cell_id)} {result.status}"]
    if result.raised is not None:
        message = short(result.raised.message)
        parts.append(visible_line(result.raised.type_name, 60) + (f": {message}" if message.strip() else ""))
    if result.detail:
        parts.append(short(result.detail))
    if result.namespace_lost:
        parts.append("variables lost")
    parts.append(f"{result.wall_s:.1f} s")
    if result.stdout.size_bytes:
        parts.append(f"printed {counted(result.stdout.size_bytes, 'byte')}")
    if result.answer is not None and result.answer.ready:
        parts.append(f"answer submitted ({counted(result.answer.size_bytes, 'byte')})")
    return " · ".join(parts)


def _cell_place(cell: CellId) -> str:
    """`run_….t3.b0` is cell 3.1 to people; cells of the loop's own making keep their name."""
    place = cell.partition(".")[2]
    turn, _, block = place.partition(".b")
    if turn.startswith("t") and turn[1:].isdecimal() and block.isdecimal():
        return f"{turn[1:]}.{int(block) + 1}"
    return visible_line(place or cell, 40)


def _captured(captured: CapturedText) -> list[Line]:
    shown = captured.head.strip("\n").splitlines()
    lines = bounded(shown, MAX_OUTPUT_LINES, Style.OUTPUT, "  ", or_more=bool(captured.tail))
    return lines if any(line.text.strip() for line in lines) else []
