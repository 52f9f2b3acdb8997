"""`answer`: the variable that a run's answer is read from, whatever the model makes of it.

It is a plain dict `{"content": …, "ready": …}` in the namespace. A model may also bind the name to something else:
a dict with either key is taken as the answer, any other value as unfinished content, and the name is a dict again
from the next cell on.
"""

from typing import Any

from .encoded_values import EncodedValue, Form, Unserialisable, encode_value, is_small, rough_size
from .protocol import AnswerReply

NAME = "answer"
_TRUE_WORDS = frozenset({"true", "yes", "y", "1", "done", "ready"})


class Answer:
    """The session's answer. `settle` is called after every cell."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {"content": "", "ready": False}
        self._encoded: tuple[Any, Form, EncodedValue] | None = None

    def forget_encoding(self) -> None:
        """Before a cell runs: it may change the content in place."""
        self._encoded = None

    def submit(self, value: Any) -> None:
        self.value["content"] = value
        self.value["ready"] = True

    def content(self) -> Any:
        return self.value.get("content", "")

    def adopt(self, bound: Any) -> None:
        """Take over what the name `answer` is bound to."""
        if bound is self.value:
            pass
        # Methods of `dict`, not of what may be a class of the cell's: the kernel's own loop is in this function too.
        elif issubclass(type(bound), dict) and (
            dict.__contains__(bound, "content") or dict.__contains__(bound, "ready")
        ):
            dict.setdefault(bound, "content", dict.get(self.value, "content", ""))
            dict.setdefault(bound, "ready", False)
            self.value = bound
        else:
            self.value = {"content": bound, "ready": False}

    def describe(self, form: Form) -> AnswerReply | None:
        """What the cell's result tells of it; None while nothing was written.

        Raises:
            Unserialisable: it is ready but has no such form; it then counts as unfinished, so the model can mend it.
        """
        content = self.content()
        ready = _is_true(self.value.get("ready", False))
        if not ready and isinstance(content, str) and not content:
            return None
        if ready or is_small(content):
            try:
                encoded = self.encode(form)
            except BaseException as error:
                if not ready and isinstance(error, Unserialisable):
                    return self._unencoded(content)
                self.value["ready"] = False
                if not isinstance(error, Unserialisable):
                    raise  # interrupted, or out of memory: it must not be tried again after every cell
                raise Unserialisable(f"answer['content'] was not accepted: {error}") from None
            return AnswerReply(
                ready=ready, type_name=encoded.type_name, size_bytes=encoded.size_bytes, sha256=encoded.sha256
            )
        return self._unencoded(content)

    def encode(self, form: Form) -> EncodedValue:
        """The content, encoded once per cell: reading it right after the cell costs nothing more."""
        content = self.content()
        if self._encoded is not None and self._encoded[0] is content and self._encoded[1] == form:
            return self._encoded[2]
        encoded = encode_value(content, form)
        self._encoded = (content, form, encoded)
        return encoded

    def _unencoded(self, content: Any) -> AnswerReply:
        return AnswerReply(ready=False, type_name=type(content).__name__, size_bytes=rough_size(content), sha256="")


def _is_true(ready: Any) -> bool:
    """`"False"` in quotes is a common slip, and is not a submission."""
    if isinstance(ready, str):
        return ready.strip().lower() in _TRUE_WORDS
    try:
        return bool(ready)
    except Exception:
        return False
