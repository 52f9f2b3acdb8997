"""Messages of chat completions, and what they come to: a conversation."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.errors import BadRequest
from service.ids import ContextId
from service.loop.values import Message
from service.web.dialects.parameters import MOST_MESSAGE_PARTS, context_id, unsupported


class ContentPart(BaseModel):
    """A piece of a message: text, or a file that was uploaded."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    text: str | None = None
    file: dict[str, Any] | None = None


class ChatMessage(BaseModel):
    """One message. `system` and `developer` are instructions."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True, max_length=MOST_MESSAGE_PARTS)] | None = None


class ReadMessages:
    """What the messages of a request come to."""

    def __init__(self) -> None:
        self.instructions: list[str] = []
        self.said: list[tuple[Literal["user", "assistant"], tuple[str, ...]]] = []
        self.context_ids: list[ContextId] = []

    def add(self, role: str, texts: Sequence[str]) -> None:
        match role:
            case "system" | "developer":
                self.instructions.extend(texts)
            case "user" | "assistant":
                if texts:
                    self.said.append(("user" if role == "user" else "assistant", tuple(texts)))
            case _:
                raise unsupported("messages", f"messages of the role {role!r} belong to tools, which it does not call")

    @property
    def parts(self) -> tuple[str, ...]:
        """The texts of the last message. Raises `BadRequest` when it is not the user's."""
        if not self.said or self.said[-1][0] != "user":
            raise BadRequest("the last message must be the user's: it is the question", data={"param": "messages"})
        return self.said[-1][1]

    @property
    def earlier(self) -> tuple[Message, ...]:
        return tuple(Message(role=role, content="\n\n".join(texts)) for role, texts in self.said[:-1])


def read_messages(messages: Sequence[ChatMessage]) -> ReadMessages:
    """Raises `UnsupportedParameter` or `BadRequest` for what is neither text nor an uploaded file."""
    read = ReadMessages()
    for number, message in enumerate(messages):
        content = message.content
        if content is None:
            texts: list[str] = []
        elif isinstance(content, str):
            texts = [content]
        else:
            texts = []
            for part in content:
                where = f"messages[{number}].content"
                if part.type == "text" and part.text is not None:
                    texts.append(part.text)
                elif part.type == "file" and part.file is not None:
                    read.context_ids.append(context_id(part.file.get("file_id"), f"{where}.file.file_id"))
                else:
                    raise unsupported(where, "send text, and files as file_id")
        read.add(message.role, texts)
    return read
