"""Messages of Anthropic's API as they come in and go out."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.errors import BadRequest
from service.ids import ContextId, KeyId
from service.loop.values import Message
from service.runs.answering.conversation import Conversation
from service.runs.values import RunView
from service.web.dialects.parameters import (
    MOST_MESSAGE_PARTS,
    MOST_MESSAGES,
    ModelName,
    RlmOptions,
    SaysMessages,
    context_id,
    refuse_unsupported,
    unsupported,
)
from service.web.dialects.reports import EXAMPLE_OF_REPORT, RlmReport, usd_number
from service.web.shapes import Shown, example

HARMLESS: dict[str, tuple[Any, ...]] = {"tools": ([],), "stop_sequences": ([],), "mcp_servers": ([],), "container": ()}
"""Parameters that are refused, but for these values."""


class Block(BaseModel):
    """A piece of a message: text, or a document (text, or a file that was uploaded)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    text: str | None = None
    source: dict[str, Any] | None = None


Blocks = Annotated[list[Block], Field(fail_fast=True, max_length=MOST_MESSAGE_PARTS)]


class GivenMessage(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    role: Literal["user", "assistant"]
    content: str | Blocks


class OutputConfig(BaseModel):
    """What the answer is to be like. Its effort is ignored."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format: dict[str, Any] | None = Field(default=None, description="`json_schema` with the `schema` of the answer.")

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """None for text. Raises `BadRequest` if it is no JSON Schema."""
        if self.format is None:
            return None
        schema = self.format.get("schema")
        if self.format.get("type") == "json_schema" and isinstance(schema, dict):
            return schema
        raise BadRequest(
            "output_config.format: expected the type json_schema, with a schema", data={"param": "output_config"}
        )


class CountRequest(SaysMessages):
    """Whose tokens are to be counted."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"model": "rlm/default", "messages": [{"role": "user", "content": "Which customers complained twice?"}]}
            ]
        },
    )

    model: ModelName
    messages: Annotated[list[GivenMessage], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
    system: str | Blocks | None = None

    @property
    def instructions(self) -> str:
        return "\n\n".join(_texts(self.system or "", "system", []))


class MessageRequest(CountRequest):
    """A message. The last one asks; what stands before it, and documents, are what it is about."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "rlm/default",
                    "max_tokens": 1024,
                    "messages": [{"role": "user", "content": "Which customers complained twice?"}],
                    "rlm": {"context_ids": ["ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"]},
                }
            ]
        },
    )

    max_tokens: Annotated[int, Field(ge=1)] = Field(description="Of a direct call.")
    stream: bool | None = None
    output_config: OutputConfig = Field(default_factory=OutputConfig)
    rlm: RlmOptions = Field(default_factory=RlmOptions)

    def conversation(self, key_id: KeyId) -> Conversation:
        """Raises `UnsupportedParameter`, `BadRequest`."""
        refuse_unsupported(self, HARMLESS)
        context_ids: list[ContextId] = [context_id(each, "rlm.context_ids") for each in self.rlm.context_ids]
        said = [
            (message.role, _texts(message.content, f"messages[{number}].content", context_ids))
            for number, message in enumerate(self.messages)
        ]
        *earlier, (role, parts) = said
        if role != "user":
            raise BadRequest("the last message must be the user's: it is the question", data={"param": "messages"})
        return Conversation(
            model=self.model,
            parts=tuple(parts),
            earlier=tuple(Message(role=who, content="\n\n".join(texts)) for who, texts in earlier if texts),
            instructions=self.instructions,
            schema=self.output_config.schema_of_answer,
            context_ids=tuple(dict.fromkeys(context_ids)),
            max_output_tokens=self.max_tokens,
            root_model=self.rlm.root_model,
            sub_model=self.rlm.sub_model,
            cost_limit=self.rlm.cost,
            key_id=key_id,
        )


def all_texts(request: CountRequest) -> list[str]:
    """Every text of it; stored files are not texts of it."""
    found = [request.instructions]
    for number, message in enumerate(request.messages):
        found.extend(_texts(message.content, f"messages[{number}].content", []))
    return found


def _texts(content: str | list[Block], where: str, context_ids: list[ContextId]) -> list[str]:
    """The texts of a message; files that it names are added to `context_ids`."""
    if isinstance(content, str):
        return [content]
    texts = []
    for block in content:
        source = block.source or {}
        if block.type == "text" and block.text is not None:
            texts.append(block.text)
        elif block.type == "document" and source.get("type") == "text" and isinstance(source.get("data"), str):
            texts.append(source["data"])
        elif block.type == "document" and source.get("type") == "file":
            context_ids.append(context_id(source.get("file_id"), f"{where}.source.file_id"))
        elif block.type not in ("thinking", "redacted_thinking"):  # an earlier answer's, sent back
            raise unsupported(where, "send text, and documents as text or file_id")
    return texts


class MessageUsage(Shown):
    """Of the root LM, its sub-calls and child runs together."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cost: float = Field(description="USD. `rlm.spent` is exact.")


class TextBlock(Shown):
    type: Literal["text"] = "text"
    text: str
    citations: None = None


class MessageAnswer(Shown):
    """The answer."""

    model_config = example(
        {
            "id": "msg_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
            "type": "message",
            "role": "assistant",
            "model": "rlm/default",
            "content": [{"type": "text", "text": "Rossi, about late deliveries.", "citations": None}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 48_210,
                "output_tokens": 1_904,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "cost": 0.0123,
            },
            "rlm": EXAMPLE_OF_REPORT,
        }
    )

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextBlock]
    stop_reason: Literal["end_turn", "max_tokens"] | None
    stop_sequence: None = None
    usage: MessageUsage
    rlm: RlmReport | None


class CountedTokens(Shown):
    """How many tokens there can be."""

    model_config = example({"input_tokens": 42})

    input_tokens: int = Field(description="At most: the bytes of the texts, and what a request takes besides.")


def message_usage(view: RunView) -> MessageUsage:
    return MessageUsage(input_tokens=view.input_tokens, output_tokens=view.output_tokens, cost=usd_number(view.spent))


NO_USAGE = MessageUsage(input_tokens=0, output_tokens=0, cost=0.0)
"""At the beginning of a stream."""


def stop_reason_of(finish_reason: Literal["stop", "length"]) -> Literal["end_turn", "max_tokens"]:
    return "end_turn" if finish_reason == "stop" else "max_tokens"
