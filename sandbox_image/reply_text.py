"""What a sub-call returns: a `str` that also knows whether the call succeeded."""

from typing import Self


class ReplyText(str):
    """A reply is used as text; `.ok` is False when it is an error message instead (it then begins with `Error:`).

    A failed call must not raise, or one failure would destroy a batch. It names itself `str`, because that is what
    code that prints `type(reply)` should be told.
    """

    __slots__ = ("ok",)
    ok: bool

    def __new__(cls, text: str, *, ok: bool) -> Self:
        reply = super().__new__(cls, text)
        reply.ok = ok
        return reply

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Copies and pickles are plain strings."""
        return str, (str(self),)


ReplyText.__name__ = ReplyText.__qualname__ = "str"
ReplyText.__module__ = "builtins"
