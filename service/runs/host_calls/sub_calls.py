"""Sub-calls: `llm_query` and its batches, one plain completion per prompt.

The items of a batch reserve their money one after the other, in index order, and at most `WINDOW` are in flight: what
is held is at most the window's worth, and when the money ends it is the tail that fails, never items at random.
"""

import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import anyio
import anyio.abc

from service.errors import BadRequest
from service.journal.values import Place
from service.loop.events import CallFinished, Event
from service.loop.values import CallOutcome, HostCallKey, Message, Purpose
from service.models.catalog import Route
from service.runs.calls.counting import count_input_tokens
from service.runs.calls.metered_call import MeteredCalls
from service.runs.calls.paid_attempts import Append
from service.runs.calls.values import Hold, MeteredCall, Refused
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import CELL_ENDED, NOT_STARTED, AnswerRoom, HostCall, HostCallItem
from service.runs.standing import Standing
from service.runs.submission.schemas import CheckedSchema, ReplyBreaksSchema, check_schema_aside, parse_checked
from service.runs.values import NO_MODEL
from service.store.riders import Rider

WINDOW = 256
"""Sub-calls of one run in flight at once, over all its threads and batches."""

_NOTHING_MORE = frozenset({CallOutcome.BUDGET, CallOutcome.TOKEN_LIMIT, CallOutcome.CALL_LIMIT, CallOutcome.SUSPENDED})
"""A batch ends where one of its calls comes to this."""

_NO_MODEL_NAMED = HostCallItem(
    failure=CallOutcome.REFUSED,
    message="this session has no sub_model: name one when you make it, or PATCH it",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """One host call: the same model and schema for all its prompts."""

    prompts: list[str]
    key: HostCallKey
    route: Route
    schema: dict[str, Any] | None
    checked: CheckedSchema | None


class Records(Protocol):
    """Journals a fact, with those right ahead of it and the rider behind, and returns its place; `Recorder.record`."""

    async def __call__(self, event: Event, rider: Rider | None = None, *, ahead: Sequence[Event] = ()) -> Place: ...


class SubCalls:
    """Makes the sub-calls of one run. `remember` and `make` belong to its driver alone."""

    def __init__(
        self,
        standing: Standing,
        *,
        max_output_tokens: int,
        metered: MeteredCalls,
        record: Records,
    ) -> None:
        self._standing = standing
        self._max_output_tokens = max_output_tokens
        self._metered = metered
        self._record = record
        self._window = anyio.Semaphore(WINDOW)
        self._finished: dict[HostCallKey, CallFinished] = {}

    def remember(self, event: CallFinished) -> None:
        """Take a journalled sub-call into the records: a batch that a crash cut short asks only for the rest."""
        if event.origin is not None and event.outcome is CallOutcome.OK:
            self._finished[event.origin] = event

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        """One item per prompt, in order."""
        prompts = _prompts(call.arguments)
        checked, schema = await _schema(call.arguments)
        if self._standing.sub_route.name == NO_MODEL:
            under_way.items.extend([_NO_MODEL_NAMED] * len(prompts))
            return
        route = self._route(call.arguments.get("model"))
        batch = _Batch(prompts=prompts, key=under_way.key, route=route, schema=schema, checked=checked)
        under_way.items.extend([NOT_STARTED] * len(prompts))
        await self._run_batch(batch, under_way)

    async def _run_batch(self, batch: _Batch, under_way: UnderWay) -> None:
        items, room = under_way.items, AnswerRoom()
        is_sole = len(items) == 1 and batch.checked is None
        append: Append = partial(self._append_with_answer, under_way) if is_sole else self._record

        async def run_item(index: int, call: MeteredCall, hold: Hold | None) -> None:
            try:
                item = await self._one(call, hold, batch.checked, append)
                if not under_way.is_recorded:
                    items[index] = item if item.failure is not None else room.item(item.value, len(str(item.value)))
            finally:
                self._window.release()

        async with anyio.create_task_group() as tasks:
            done = 0
            # What waits for a place, for money or for its turn is not in flight yet.
            with under_way.beginning:
                while done < len(batch.prompts):
                    dispatched, refused = await self._dispatch(batch, done, run_item, tasks)
                    done += dispatched
                    if refused is not None:
                        # A later prompt may be shorter and still fit: it is refused all the same, because a batch with
                        # holes is worse for the code that asked than one that ends early.
                        end = len(batch.prompts) if refused.outcome in _NOTHING_MORE else done + 1
                        refusal = HostCallItem(failure=refused.outcome, message=refused.message)
                        items[done:end] = [refusal] * (end - done)
                        done = end
            items[done:] = [CELL_ENDED] * (len(items) - done)

    async def _dispatch(
        self,
        batch: _Batch,
        first: int,
        run_item: Callable[[int, MeteredCall, Hold | None], Coroutine[Any, Any, None]],
        tasks: anyio.abc.TaskGroup,
    ) -> tuple[int, Refused | None]:
        """Start as many items from `first` on as the window and the money allow; or say why not even one."""
        places = await self._take_places(len(batch.prompts) - first)
        started = 0
        try:
            calls = [await self._call(batch, index, attempt_from=first) for index in range(first, first + places)]
            if calls[0].origin in self._finished:
                tasks.start_soon(run_item, first, calls[0], None)
                started = 1
                return started, None
            new_calls = list(takewhile(lambda call: call.origin not in self._finished, calls))
            holds = await self._metered.reserve_prefix(new_calls, self._standing.purse)
            if not holds:
                single = replace(calls[0], stem=f"{calls[0].stem}/waited")
                hold = await self._metered.reserve(single, self._standing.purse)
                if isinstance(hold, Refused):
                    return 0, hold
                calls[0], holds = single, [hold]
            for offset, hold in enumerate(holds):
                tasks.start_soon(run_item, first + offset, calls[offset], hold)
                started += 1
            return started, None
        finally:
            for _ in range(places - started):
                self._window.release()

    async def _take_places(self, wanted: int) -> int:
        """At least one place in the window, waiting for it, and what else is free."""
        await self._window.acquire()
        more = min(wanted - 1, self._window.value)
        for _ in range(more):
            self._window.acquire_nowait()
        return 1 + more

    async def _append_with_answer(self, under_way: UnderWay, finished: CallFinished, rider: Rider) -> None:
        """Where one good reply is all that a host call comes to, its record stands right behind it: there is nothing to
        be decided in between, and a crash leaves both or none."""
        if finished.outcome is not CallOutcome.OK:
            await self._record(finished, rider)
            return
        under_way.items[0] = AnswerRoom().item(finished.text, len(finished.text))
        under_way.place = await self._record(under_way.answered(finished.at), rider, ahead=(finished,))
        under_way.is_recorded = True

    async def _one(
        self, call: MeteredCall, hold: Hold | None, checked: CheckedSchema | None, append: Append
    ) -> HostCallItem:
        assert call.origin is not None
        finished = self._finished.get(call.origin) or await self._metered.call(
            call, self._standing.purse, append, hold=hold
        )
        item, complaint = await _judge(finished, checked)
        if complaint is None or not isinstance(finished, CallFinished):
            return item
        messages = (
            *call.messages,
            Message(role="assistant", content=finished.text),
            Message(role="user", content=f"That does not satisfy the JSON schema ({complaint}). Send only the JSON."),
        )
        repair_origin = replace(call.origin, function=f"{call.origin.function}/repair")
        repair = replace(
            call,
            stem=f"{call.stem}/repair",
            origin=repair_origin,
            messages=messages,
            input_tokens=await count_input_tokens(messages, call.schema),
        )
        repaired = self._finished.get(repair_origin) or await self._metered.call(repair, self._standing.purse, append)
        item, _ = await _judge(repaired, checked)
        return item

    async def _call(self, batch: _Batch, index: int, *, attempt_from: int) -> MeteredCall:
        """The call of one item. Its stem names the dispatch too: a hold that was given back cannot be made again."""
        standing = self._standing
        origin = replace(batch.key, item=index)
        place = f"{origin.function}/{origin.arguments_sha256}/{origin.ordinal}/{index}"
        instruction = () if batch.schema is None else (_schema_message(batch.schema),)
        messages = (*instruction, Message(role="user", content=batch.prompts[index]))
        return MeteredCall(
            stem=f"{origin.cell_id}/e{standing.epoch}/{place}/d{attempt_from}",
            purpose=Purpose.SUB_CALL,
            route=batch.route,
            messages=messages,
            input_tokens=await count_input_tokens(messages, batch.schema),
            max_output_tokens=min(self._max_output_tokens, batch.route.card.max_output_tokens),
            deadline_at=standing.submitted.deadline_at,
            lineage=standing.lineage,
            schema=batch.schema,
            cache_key=standing.lineage[-1],
            origin=origin,
        )

    def _route(self, model: Any) -> Route:
        standing = self._standing
        if model is None or model == standing.sub_route.name:
            return standing.sub_route
        if model == standing.root_route.name:
            return standing.root_route
        raise BadRequest(
            f"this run may call {standing.sub_route.name!r} and {standing.root_route.name!r}; leave `model` out"
        )


async def _judge(finished: CallFinished | Refused, checked: CheckedSchema | None) -> tuple[HostCallItem, str | None]:
    """The item that a call comes to, and what is wrong with its JSON, if that is all that is wrong."""
    if isinstance(finished, Refused):
        return HostCallItem(failure=finished.outcome, message=finished.message), None
    if finished.outcome is not CallOutcome.OK:
        return HostCallItem(failure=finished.outcome, message=finished.text), None
    if checked is None:
        return HostCallItem(value=finished.text), None
    try:
        return HostCallItem(value=await parse_checked(finished.text, checked)), None
    except ReplyBreaksSchema as exc:
        return HostCallItem(failure=CallOutcome.INVALID_REPLY, message=str(exc)), str(exc)


def _prompts(arguments: dict[str, Any]) -> list[str]:
    prompts = arguments.get("prompts")
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise BadRequest("prompts must be a list of strings")
    return prompts


async def _schema(arguments: dict[str, Any]) -> tuple[CheckedSchema | None, dict[str, Any] | None]:
    schema = arguments.get("schema")
    if schema is None:
        return None, None
    if not isinstance(schema, dict):
        raise BadRequest("schema must be a JSON Schema object (a dict)")
    return await check_schema_aside(schema), schema


def _schema_message(schema: dict[str, Any]) -> Message:
    text = json.dumps(schema, ensure_ascii=False, sort_keys=True)
    return Message(role="system", content=f"Answer with JSON only, satisfying this JSON Schema:\n{text}")
