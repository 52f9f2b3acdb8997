"""Child runs: `rlm_query` and its batches. Below the depth limit a child is a run of its own; at it, a sub-call.

A child shares its parent's budget and deadline and has its own sandbox. Waiting for one holds no money and no model
slot. A batch without spare sandbox slots runs its children one at a time, on the slot that the root run was admitted
with for this depth, so parents and children never wait for each other in a circle.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio

from service.errors import BadRequest, Fault, RlmServiceError
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, HostCallKey, StopReason
from service.runs.host_calls.sub_calls import SubCalls
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import CELL_ENDED, NOT_STARTED, AnswerRoom, HostCall, HostCallItem
from service.runs.standing import Standing
from service.runs.submission.first_event import BudgetTooSmall

MAX_CHILD_ANSWER_BYTES = 32 << 20
"""A child's answer becomes a string in its parent's REPL; the item fails when it is longer."""

CHILDREN_AT_ONCE = 16
"""Of one batch, being prepared or driven; sandbox slots decide how many of them really run."""

QUESTION_IN_CONTEXT = "Your whole task, with its material, is in `context`: read it there and carry it out."
"""The question of a child that was given only a prompt: the prompt may be huge, so it is the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRequest:
    """One child run as code asked for it. `context` is a string or any JSON value."""

    question: str
    context: Any
    root_model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildAnswer:
    """How a child ended. `text` is None when it has no answer, or one over `MAX_CHILD_ANSWER_BYTES`."""

    stop_reason: StopReason
    text: str | None
    message: str


RunChild = Callable[[HostCallKey, ChildRequest], Awaitable[ChildAnswer]]


class Children:
    """Makes the child runs of one run."""

    def __init__(
        self,
        standing: Standing,
        *,
        sub_calls: SubCalls,
        run_child: RunChild,
    ) -> None:
        self._standing = standing
        self._sub_calls = sub_calls
        self._run_child = run_child

    def remember(self, call: CallFinished) -> None:
        """Child runs are not calls; what they degrade to is remembered by `SubCalls` itself."""

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        """One item per prompt, in order."""
        requests = self._requests(call.arguments)
        if not self._standing.may_have_children:
            await self._sub_calls.make(_as_sub_calls(call, requests), under_way)
            return
        items = under_way.items
        items.extend([NOT_STARTED] * len(requests))
        room = AnswerRoom()
        places = anyio.Semaphore(CHILDREN_AT_ONCE)
        broke: list[HostCallItem] = []

        async def run_item(index: int, request: ChildRequest) -> None:
            try:
                items[index] = await self._one(replace(under_way.key, item=index), request, room)
                if items[index].failure is CallOutcome.BUDGET:
                    broke.append(items[index])
            finally:
                places.release()

        async with anyio.create_task_group() as tasks:
            begun, rest = 0, CELL_ENDED
            with under_way.beginning:
                for index, request in enumerate(requests):
                    await places.acquire()
                    if broke:
                        # What did not cover that child covers none that comes after it either.
                        rest = broke[0]
                        break
                    tasks.start_soon(run_item, index, request)
                    begun += 1
            items[begun:] = [rest] * (len(requests) - begun)

    async def _one(self, key: HostCallKey, request: ChildRequest, room: AnswerRoom) -> HostCallItem:
        try:
            answer = await self._run_child(key, request)
        except BudgetTooSmall as exc:
            return HostCallItem(failure=CallOutcome.BUDGET, message=str(exc))
        except RlmServiceError as exc:
            if exc.fault is Fault.PLATFORM and not exc.may_be_retried:
                raise
            return HostCallItem(failure=CallOutcome.UNAVAILABLE, message=str(exc))
        if answer.text is None:
            return HostCallItem(failure=_failure(answer.stop_reason), message=answer.message)
        return room.item(answer.text, len(answer.text))

    def _requests(self, arguments: dict[str, Any]) -> list[ChildRequest]:
        prompts, contexts, model = arguments.get("prompts"), arguments.get("contexts"), arguments.get("model")
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) and prompt for prompt in prompts):
            raise BadRequest("prompts must be a list of strings that are not empty")
        if contexts is not None and (not isinstance(contexts, list) or len(contexts) != len(prompts)):
            raise BadRequest("contexts must be a list with one context for each prompt")
        allowed = (self._standing.root_route.name, self._standing.sub_route.name)
        if model is not None and model not in allowed:
            raise BadRequest(f"this run may call {allowed[0]!r} and {allowed[1]!r}; leave `model` out")
        root_model = model or allowed[0]
        if contexts is None:
            return [
                ChildRequest(question=QUESTION_IN_CONTEXT, context=prompt, root_model=root_model) for prompt in prompts
            ]
        return [
            ChildRequest(question=prompt, context=context, root_model=root_model)
            for prompt, context in zip(prompts, contexts, strict=True)
        ]


def _as_sub_calls(call: HostCall, requests: list[ChildRequest]) -> HostCall:
    """The same prompts as plain completions: their context, if any, goes into the prompt."""
    prompts = [
        request.context if request.question == QUESTION_IN_CONTEXT else f"{request.question}\n\n{request.context}"
        for request in requests
    ]
    return replace(call, arguments={"prompts": prompts, "model": call.arguments.get("model")})


def _failure(reason: StopReason) -> CallOutcome:
    match reason:
        case StopReason.BUDGET:
            return CallOutcome.BUDGET
        case StopReason.TOKEN_LIMIT:
            return CallOutcome.TOKEN_LIMIT
        case StopReason.DEADLINE:
            return CallOutcome.TIMED_OUT
        case StopReason.CANCELLED:
            return CallOutcome.CANCELLED
        case _:
            return CallOutcome.UNAVAILABLE
