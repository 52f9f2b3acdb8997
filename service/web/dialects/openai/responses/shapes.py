"""Responses as they come in and go out."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.errors import NotFound
from service.ids import ContextId, KeyId, RunId, is_id
from service.runs.answering.conversation import Conversation
from service.web.dialects.openai.formats import schema_of
from service.web.dialects.openai.messages import ReadMessages
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
from service.web.dialects.reports import EXAMPLE_OF_REPORT, RlmReport
from service.web.shapes import Shown, example

HARMLESS: dict[str, tuple[Any, ...]] = {"tools": ([],), "top_logprobs": (0,), "conversation": (), "prompt": ()}
"""Parameters that are refused, but for these values."""
_TEXTS = ("input_text", "output_text", "text")

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
MetadataText = Annotated[str, StringConstraints(max_length=512)]


class InputPart(BaseModel):
    """A piece of an input message: text, or a file that was uploaded."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    text: str | None = None
    file_id: str | None = None


class InputItem(BaseModel):
    """A message; also the items of an earlier output, sent back."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | Annotated[list[InputPart], Field(fail_fast=True, max_length=MOST_MESSAGE_PARTS)] | None = None


class TextOptions(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    format: dict[str, Any] | None = None


class ResponseRequest(SaysMessages):
    """A response. The last message asks; what stands before it, and files, are what it is about."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "rlm/default",
                    "input": "Which customers complained twice, and about what?",
                    "background": True,
                    "rlm": {"context_ids": ["ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"]},
                },
                {
                    "model": "rlm/default",
                    "input": "And which of them were answered?",
                    "previous_response_id": "resp_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
                },
                {
                    "model": "rlm/default",
                    "input": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "input_file", "file_id": "ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"},
                                {"type": "input_text", "text": "Which customers complained twice?"},
                            ],
                        }
                    ],
                },
            ]
        },
    )

    model: ModelName = Field(description="`rlm/PROFILE` or `direct/MODEL`.")
    input: str | Annotated[list[InputItem], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    previous_response_id: Annotated[str, StringConstraints(max_length=100)] | None = None
    background: bool | None = None
    stream: bool | None = None
    store: bool | None = None
    text: TextOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Of a direct call.")
    metadata: Annotated[dict[str, MetadataText], Field(max_length=16)] | None = None
    rlm: RlmOptions = Field(default_factory=RlmOptions)

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    def conversation(self, key_id: KeyId) -> Conversation:
        """As it was sent, without what it continues. Raises `UnsupportedParameter`, `BadRequest`."""
        refuse_unsupported(self, HARMLESS)
        if self.background and not self.is_stored:
            raise unsupported("store", "a response in the background has to be stored")
        read = read_input(self.input)
        stored = [context_id(each, "rlm.context_ids") for each in self.rlm.context_ids]
        instructions = [self.instructions] if self.instructions else []
        return Conversation(
            model=self.model,
            parts=read.parts,
            earlier=read.earlier,
            instructions="\n\n".join([*instructions, *read.instructions]),
            context_ids=tuple(dict.fromkeys([*stored, *read.context_ids])),
            schema=schema_of(None if self.text is None else self.text.format),
            max_output_tokens=self.max_output_tokens,
            root_model=self.rlm.root_model,
            sub_model=self.rlm.sub_model,
            cost_limit=self.rlm.cost,
            key_id=key_id,
        )


def read_input(given: str | Sequence[InputItem]) -> ReadMessages:
    """Raises `UnsupportedParameter` or `BadRequest` for what is neither text nor an uploaded file."""
    read = ReadMessages()
    if isinstance(given, str):
        read.add("user", [given])
        return read
    for number, item in enumerate(given):
        if item.type == "reasoning":  # an earlier answer's, sent back
            continue
        if item.type != "message" or item.role is None:
            raise unsupported(f"input[{number}]", "send messages")
        read.add(item.role, _texts(item.content or "", f"input[{number}].content", read.context_ids))
    return read


def _texts(content: str | Sequence[InputPart], where: str, context_ids: list[ContextId]) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    texts = []
    for part in content:
        if part.type in _TEXTS and part.text is not None:
            texts.append(part.text)
        elif part.type == "input_file" and part.file_id is not None:
            context_ids.append(context_id(part.file_id, f"{where}.file_id"))
        else:
            raise unsupported(where, "send input_text, and files as file_id")
    return texts


def response_id(run_id: RunId) -> str:
    return f"resp_{run_id.removeprefix('run_')}"


def run_id_of(text: str) -> RunId:
    """Raises `NotFound` for what is no id of a response."""
    run_id = f"run_{text.removeprefix('resp_')}"
    if not text.startswith("resp_") or not is_id(run_id, "run"):
        raise NotFound(f"there is no response {text[:80]}")
    return RunId(run_id)


_EXAMPLE: dict[str, Any] = {
    "id": "resp_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "object": "response",
    "created_at": 1763640000,
    "status": "completed",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "rlm/default",
    "output": [
        {
            "id": "msg_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {
                    "type": "output_text",
                    "text": "Rossi, about late deliveries.",
                    "annotations": [],
                    "logprobs": [],
                }
            ],
        }
    ],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "store": True,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 48_210,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 1_904,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 50_114,
        "cost": 0.0123,
    },
    "rlm": EXAMPLE_OF_REPORT,
}


class NoDetails(Shown):
    cached_tokens: int = 0


class NoOutputDetails(Shown):
    reasoning_tokens: int = 0


class ResponseUsage(Shown):
    """Of the root LM, its sub-calls and child runs together."""

    input_tokens: int
    input_tokens_details: NoDetails = NoDetails()
    output_tokens: int
    output_tokens_details: NoOutputDetails = NoOutputDetails()
    total_tokens: int
    cost: float = Field(description="USD. `rlm.spent` is exact.")


class ResponseError(Shown):
    code: str
    message: str


class Incomplete(Shown):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ShownResponse(Shown):
    """A response as it stands."""

    model_config = example(_EXAMPLE)

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool = True
    previous_response_id: str | None
    store: bool
    text: dict[str, Any]
    tool_choice: Literal["auto"] = "auto"
    tools: list[Any] = Field(default_factory=list)
    usage: ResponseUsage | None
    rlm: RlmReport | None


class DeletedResponse(Shown):
    """A response that was."""

    model_config = example({"id": _EXAMPLE["id"], "object": "response", "deleted": True})

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
