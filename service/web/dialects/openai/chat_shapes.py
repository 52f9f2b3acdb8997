"""Chat completions as they come in and go out."""

from typing import Annotated, Any, Literal

from pydantic import Field

from service.ids import KeyId
from service.runs.answering.answering import Outcome
from service.runs.answering.conversation import Conversation
from service.runs.values import RunView
from service.web.dialects.openai.formats import schema_of
from service.web.dialects.openai.messages import ChatMessage, read_messages
from service.web.dialects.parameters import (
    MOST_MESSAGES,
    ModelName,
    RlmOptions,
    SaysMessages,
    context_id,
    refuse_unsupported,
)
from service.web.dialects.reports import EXAMPLE_OF_REPORT, RlmReport, usd_number
from service.web.shapes import Shown, example

HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "stop": ([], ""),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}
"""Parameters that are refused, but for these values."""
_ASK: dict[str, Any] = {
    "model": "rlm/default",
    "messages": [{"role": "user", "content": "Which customers complained twice, and about what?"}],
    "rlm": {"context_ids": ["ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"]},
}


class ChatCompletionRequest(SaysMessages):
    """A chat completion. The last message asks; what stands before it, and files, are what it is about."""

    model_config = example(_ASK)

    model: ModelName = Field(description="`rlm/PROFILE` or `direct/MODEL`.")
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]
    stream: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Of a direct call.")
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: dict[str, Any] | None = None
    rlm: RlmOptions = Field(default_factory=RlmOptions)

    def conversation(self, key_id: KeyId) -> Conversation:
        """Raises `UnsupportedParameter`, `BadRequest`."""
        refuse_unsupported(self, HARMLESS)
        read = read_messages(self.messages)
        stored = [context_id(each, "rlm.context_ids") for each in self.rlm.context_ids]
        return Conversation(
            model=self.model,
            parts=read.parts,
            earlier=read.earlier,
            instructions="\n\n".join(read.instructions),
            context_ids=tuple(dict.fromkeys([*stored, *read.context_ids])),
            schema=schema_of(self.response_format),
            max_output_tokens=self.max_completion_tokens or self.max_tokens,
            root_model=self.rlm.root_model,
            sub_model=self.rlm.sub_model,
            cost_limit=self.rlm.cost,
            key_id=key_id,
        )


class ChatUsage(Shown):
    """Of the root LM, its sub-calls and child runs together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost: float = Field(description="USD. `rlm.spent` is exact.")


class ChatAnswer(Shown):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Shown):
    index: int = 0
    message: ChatAnswer
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Shown):
    """The answer."""

    model_config = example(
        {
            "id": "chatcmpl-0198c2f0a7b87cc2b1a8f2c3d4e5f607",
            "object": "chat.completion",
            "created": 1763640042,
            "model": "rlm/default",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Rossi, about late deliveries.", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 48_210, "completion_tokens": 1_904, "total_tokens": 50_114, "cost": 0.0123},
            "rlm": EXAMPLE_OF_REPORT,
        }
    )

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    rlm: RlmReport


def chat_usage(view: RunView) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=view.input_tokens,
        completion_tokens=view.output_tokens,
        total_tokens=view.input_tokens + view.output_tokens,
        cost=usd_number(view.spent),
    )


def completion(
    answer_id: str, *, created: int, model: str, text: str, outcome: Outcome, rlm: RlmReport
) -> ChatCompletion:
    return ChatCompletion(
        id=answer_id,
        created=created,
        model=model,
        choices=[ChatChoice(message=ChatAnswer(content=text), finish_reason=outcome.finish_reason)],
        usage=chat_usage(outcome.view),
        rlm=rlm,
    )
