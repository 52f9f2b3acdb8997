"""Spreadsheets: each sheet under `<!-- sheet N: name -->`, its rows as CSV; formulas as the values last computed."""

from collections.abc import Sequence
from typing import BinaryIO

from python_calamine import CalamineWorkbook, PasswordError

from service.contexts.documents.packages import check_package
from service.contexts.documents.text_writer import TextWriter, Unreadable


def read(document: BinaryIO, text: TextWriter, encoding: str) -> None:  # the file says its own
    check_package(document, may_be_compound=True)
    try:
        workbook = CalamineWorkbook.from_filelike(document)
    except PasswordError:
        raise Unreadable("is protected by a password: save a copy without one") from None
    for number, name in enumerate(workbook.sheet_names, 1):
        text.mark(f"sheet {number}: {name}")
        text.rows(_cells(row) for row in workbook.get_sheet_by_index(number - 1).iter_rows())
    text.note(f"{len(workbook.sheet_names)} sheet{'' if len(workbook.sheet_names) == 1 else 's'}")


def _cells(row: Sequence[object]) -> list[str]:
    cells = [_cell(value) for value in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _cell(value: object) -> str:
    """As a person would type it: whole numbers without a fraction, times in ISO 8601."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value)) if abs(value) < 1e15 else repr(value)
    return str(value)
