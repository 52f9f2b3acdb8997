"""Whether what the host asks for can be had at all: looked at before anything is done about it.

Each check raises `Refused`.
"""

import keyword

from .files import is_bare
from .protocol import LIST_ENTRY, BindRequest, ClaimRequest, ErrorCode, ErrorReply


class Refused(Exception):
    """The request is answered with an `ErrorReply`."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.reply = ErrorReply(code=code, message=message)


def check_claim(request: ClaimRequest) -> None:
    check_grant(request.grant)
    least = 64 << 20
    if request.memory_bytes < least or request.processes < 1 or request.file_bytes < 0 or request.generation < 0:
        raise Refused(ErrorCode.BAD_REQUEST, f"expected memory_bytes of at least {least}, processes of at least 1")
    if max(request.memory_bytes, request.file_bytes) >= 1 << 60 or abs(request.random_seed) >= 1 << 63:
        raise Refused(ErrorCode.BAD_REQUEST, "a number is out of range")


def check_grant(grant: str) -> None:
    if not grant.isascii() or not grant.isprintable() or " " in grant or len(grant) > 4096:
        raise Refused(ErrorCode.BAD_REQUEST, "a grant must be printable ASCII without spaces")


def check_bindings(request: BindRequest) -> None:
    for binding in request.bindings:
        for name in (binding.name, *binding.aliases):
            if not name.isidentifier() or keyword.iskeyword(name):
                raise Refused(ErrorCode.BAD_REQUEST, f"{name[:80]!r} cannot be a variable's name")
        for file in binding.files:
            if not all(is_bare(named.file) for named in (file, file.image, file.list_image) if named is not None):
                raise Refused(ErrorCode.BAD_REQUEST, f"{binding.name}: expected a bare file name")
            text, texts = file.image, file.list_image
            if (text and text.length < 1) or (texts and not 1 <= texts.count <= texts.size_bytes // LIST_ENTRY.size):
                raise Refused(ErrorCode.BAD_REQUEST, f"{binding.name}: an image of an impossible length")


def is_digest(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)
