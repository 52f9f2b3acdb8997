"""Error answers of a sandbox, before somebody knows what they mean for what was asked."""

from sandbox_image.protocol import ErrorCode
from service.sandboxes import replies


class Refused(Exception):
    """The sandbox answered with an error of the closed set. Never leaves this room."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = replies.shown_to_people(message)
