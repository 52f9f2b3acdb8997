"""E-mail: the headers that people read, then the text; of HTML-only messages the page's text. Attachments are named."""

import email
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import BinaryIO, cast

from service.contexts.documents.text_writer import TextWriter, Unreadable, one_line
from service.contexts.documents.web_page import add_html

LONGEST_HEADER = 1 << 13
"""In characters, room for some hundred addresses: taking a header apart costs time by the square of its length."""

_SHOWN = ("From", "To", "Cc", "Date", "Subject")


class _Policy(EmailPolicy):
    """The standard library's, with headers cut before they are looked at."""

    def header_source_parse(self, sourcelines: Sequence[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(list(sourcelines))
        return name, value if len(value) <= LONGEST_HEADER else value[:LONGEST_HEADER] + "…"


def read(document: BinaryIO, text: TextWriter, encoding: str) -> None:  # each part says its own
    message = cast("EmailMessage", email.message_from_binary_file(document, policy=_Policy()))
    if not message.keys():
        raise Unreadable("is damaged, or no e-mail (it has no headers)")
    text.block("\n".join(f"{name}: {one_line(str(message[name]))}" for name in _SHOWN if message[name] is not None))
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        content = body.get_content()
        if isinstance(content, str):
            if body.get_content_subtype() == "html":
                add_html(content, text)
            else:
                text.block(content.replace("\r\n", "\n"))
    names = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    for name in names:
        text.mark(f"attachment left out: {name}")
    if names:
        text.note(f"{len(names)} attachment{'' if len(names) == 1 else 's'} left out")
