"""Error answers of a sandbox, and what they mean for what was asked."""

from typing import Literal, assert_never

from sandbox_image.protocol import ErrorCode
from service.errors import RlmServiceError
from service.sandboxes import replies
from service.sandboxes.port import KernelGone
from service.sandboxes.values import BindRefused, ValueMissing, ValueTooLarge, ValueUnserialisable


class Refused(Exception):
    """The sandbox answered with an error of the closed set. Never leaves this room."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = replies.shown_to_people(message)


def bind_error(refused: Refused) -> BindRefused | Refused:
    """What it means where something was to be bound; itself where it means nothing of its own."""
    if refused.code in (ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE, ErrorCode.KERNEL_LOST, ErrorCode.NOT_FOUND):
        return BindRefused(f"the sandbox could not bind what it was given: {refused.message}")
    return refused


def kernel_gone(refused: Refused) -> KernelGone:
    """What it means for who asked for variables."""
    return KernelGone(f"the variables are gone until the session's next cell: {refused.message}")


def value_error(
    refused: Refused, name: str, form: Literal["text", "json"], limit_bytes: int
) -> RlmServiceError | Refused:
    """Likewise where a variable was to be read."""
    shown = replies.shown_to_people(name)[:80]
    match refused.code:
        case ErrorCode.NOT_FOUND:
            return ValueMissing(f"the namespace has no variable named {shown!r}")
        case ErrorCode.TOO_LARGE:
            return ValueTooLarge(f"the value of {shown!r} is larger than the {limit_bytes} bytes asked for")
        case ErrorCode.UNSERIALISABLE:
            hint = ": try ?as=text" if form == "json" else ""
            return ValueUnserialisable(f"the value of {shown!r} cannot be written in the form asked for{hint}")
        case ErrorCode.KERNEL_LOST:
            return kernel_gone(refused)
        case (
            ErrorCode.BAD_REQUEST
            | ErrorCode.NOT_CLAIMED
            | ErrorCode.ALREADY_CLAIMED
            | ErrorCode.STALE_GENERATION
            | ErrorCode.BUSY
            | ErrorCode.NOT_A_FILE
            | ErrorCode.CHANGED
            | ErrorCode.NO_ROOM
            | ErrorCode.INTERNAL
        ):
            return refused
        case _:
            assert_never(refused.code)
