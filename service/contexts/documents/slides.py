"""PowerPoint: per slide its title, text, tables and notes, under `<!-- slide N -->`."""

from collections.abc import Iterable
from typing import BinaryIO

import pptx
from pptx.shapes.base import BaseShape
from pptx.shapes.graphfrm import GraphicFrame
from pptx.shapes.group import GroupShape
from pptx.text.text import TextFrame

from service.contexts.documents.packages import check_package
from service.contexts.documents.text_writer import TextWriter, one_line


def read(document: BinaryIO, text: TextWriter, encoding: str) -> None:  # XML says its own
    check_package(document)
    count = 0
    for count, slide in enumerate(pptx.Presentation(document).slides, 1):
        text.mark(f"slide {count}")
        title = slide.shapes.title
        if title is not None and title.has_text_frame:
            text.block(f"# {one_line(title.text_frame.text)}" if title.text_frame.text.strip() else "")
        title_id = None if title is None else title.shape_id
        _shapes((shape for shape in slide.shapes if shape.shape_id != title_id), text)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = slide.notes_slide.notes_text_frame.text
            text.block(f"Notes: {notes}" if notes.strip() else "")
    text.note(f"{count} slide{'' if count == 1 else 's'}")


def _shapes(shapes: Iterable[BaseShape], text: TextWriter) -> None:
    for shape in shapes:
        if isinstance(shape, GroupShape):
            _shapes(shape.shapes, text)
        elif isinstance(shape, GraphicFrame) and shape.has_table:
            text.rows([cell.text for cell in row.cells] for row in shape.table.rows)
        elif shape.has_text_frame:
            frame = getattr(shape, "text_frame", None)  # only some of the library's shapes have one
            if isinstance(frame, TextFrame):
                text.block("\n".join(_lines(frame)))


def _lines(frame: TextFrame) -> Iterable[str]:
    several = len(frame.paragraphs) > 1
    for paragraph in frame.paragraphs:
        words = paragraph.text.replace("\v", " ")
        if words.strip():
            yield f"{'  ' * paragraph.level}- {words}" if several else words
