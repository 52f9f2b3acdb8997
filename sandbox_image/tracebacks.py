"""An exception as the model is shown it: the cell's own frames with their source lines, bounded in every direction."""

import linecache
from types import TracebackType

from .kernel_messages import MAX_MESSAGE_CHARS
from .protocol import MAX_NAME_CHARS, MAX_TRACEBACK_CHARS, RaisedReply

CELL_FILE_PREFIX = "<cell "
TOOL_FILE_PREFIX = "<tool "
_FRAMES_AT_EACH_END = 15
_MAX_CHAIN = 4
_MAX_MEMBERS = 5


def describe_exception(error: BaseException) -> RaisedReply:
    """Never raises: an exception's own `__str__` is the model's code too."""
    return RaisedReply(
        type_name=_type_name(error),
        message=_message(error),
        traceback=cut_middle("\n".join(_describe_chain(error)), MAX_TRACEBACK_CHARS),
    )


def cut_middle(text: str, limit: int) -> str:
    """Head and tail of a text that is too long."""
    if len(text) <= limit:
        return text
    note = f"\n… {len(text)} characters in all …\n"
    keep = (limit - len(note)) // 2
    return text[:keep] + note + text[-keep:]


def _type_name(error: BaseException) -> str:
    return type(error).__name__[:MAX_NAME_CHARS]


def _message(error: BaseException) -> str:
    try:
        if type(error).__str__ is BaseException.__str__ and len(error.args) == 1 and type(error.args[0]) is str:
            text = error.args[0]  # not through str(): an argument of a gigabyte is cut before it is copied
        else:
            text = str.__str__(str(error))
    except BaseException as failure:
        return f"<its message could not be read: {type(failure).__name__}>"
    return cut_middle(text, MAX_MESSAGE_CHARS)


def _describe_chain(error: BaseException) -> list[str]:
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    between = ""
    while link is not None and id(link) not in seen and len(links) < _MAX_CHAIN:
        seen.add(id(link))
        links.append((link, between))
        if link.__cause__ is not None:
            between, link = "\nThe above exception was the direct cause of the following exception:\n", link.__cause__
        else:
            between = "\nDuring handling of the above exception, another exception occurred:\n"
            link = None if link.__suppress_context__ else link.__context__
    lines: list[str] = []
    for position in range(len(links) - 1, -1, -1):
        lines += _describe_one(links[position][0])
        if links[position][1]:
            lines.append(links[position][1])
    return lines


def _describe_one(error: BaseException) -> list[str]:
    lines = _describe_frames(error.__traceback__)
    if isinstance(error, SyntaxError):
        lines += _describe_syntax_error(error)
    message = _message(error)
    lines.append(f"{_type_name(error)}: {message}" if message else _type_name(error))
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions[:_MAX_MEMBERS]:
            lines.append(f"  | {_type_name(member)}: {_message(member)}")
        if len(error.exceptions) > _MAX_MEMBERS:
            lines.append(f"  | … {len(error.exceptions)} exceptions in all")
    return lines


def _describe_frames(traceback: TracebackType | None) -> list[str]:
    head: list[str] = []
    tail: list[str] = []
    count = 0
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename.startswith((CELL_FILE_PREFIX, TOOL_FILE_PREFIX)):
            count += 1
            place = _describe_place(code.co_filename, traceback.tb_lineno, code.co_name)
            if len(head) < _FRAMES_AT_EACH_END:
                head.append(place)
            else:
                tail.append(place)
                if len(tail) > _FRAMES_AT_EACH_END:
                    del tail[0]
        traceback = traceback.tb_next
    if count == 0:
        return []
    left_out = count - len(head) - len(tail)
    note = [f"  [… {left_out} more frames …]"] if left_out else []
    return ["Traceback (most recent call last):", *head, *note, *tail]


def _describe_place(file: str, line_number: int | None, name: str) -> str:
    line = linecache.getline(file, line_number or 0).strip()
    return f'  File "{file}", line {line_number}, in {name}' + (f"\n    {cut_middle(line, 500)}" if line else "")


def _describe_syntax_error(error: SyntaxError) -> list[str]:
    lines = [f'  File "{error.filename}", line {error.lineno}']
    if isinstance(error.text, str) and len(error.text) < 500:
        text = error.text.rstrip("\n")
        stripped = text.lstrip()
        lines.append(f"    {stripped}")
        if error.offset and error.offset > 0:
            lines.append("    " + " " * max(0, error.offset - 1 - (len(text) - len(stripped))) + "^")
    return lines
