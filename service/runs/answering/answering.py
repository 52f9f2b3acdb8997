"""The use case: look up and decide what a conversation needs, begin it under an id, follow it to its end."""

import codecs
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

import anyio.to_thread
from pydantic_core import to_json

from service.contexts.values import Context, Life
from service.errors import BadRequest, RlmServiceError
from service.ids import RunId
from service.journal.values import RunIdTaken
from service.loop.events import CallFinished, RunSubmitted
from service.loop.values import BlobRef, CallOutcome, ContextBinding, Limits, Message, StopReason
from service.money import NanoUSD
from service.runs.answering.conversation import Conversation
from service.runs.answering.deciding import Decision, decide
from service.runs.answering.errors import no_answer
from service.runs.answering.live import Hearing, LiveAnswers
from service.runs.answering.planning import Plan, plan
from service.runs.answering.profiles import DIRECT_PREFIX, Profile, Profiles, RootModelMissing
from service.runs.answering.saving import LOOKED_AT, Saving, saving
from service.runs.answering.thoughts import thought_of
from service.runs.direct.direct_calls import DirectCalls
from service.runs.direct.values import DirectRequest
from service.runs.requests.repeats import Try
from service.runs.runs import Runs
from service.runs.submission.schemas import MAX_CHECKED_CHARS, ReplyBreaksSchema, check_schema_aside, parse_checked
from service.runs.values import DEFAULT_COST, RunRequest, RunView
from service.store.errors import BlobTooLarge

PATIENCE_S = 10.0
"""A follower hears something at least this often, so that nobody between takes the connection for dead."""
LARGEST_INLINE_BYTES = 8 << 20
"""Of stored contexts that a direct call reads."""
PIECE_CHARS = 1 << 20
LOOKED_THROUGH_CHARS = 64 << 10
"""A conversation that is longer is looked through in a thread."""
STANDS_S = {Try.FIRST: 120.0, Try.AGAIN: 3600.0, Try.UNKNOWN: 120.0}
"""How long after its end an answer still stands for the same request sent again, by what the client says of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A conversation with everything looked up: it can be begun."""

    conversation: Conversation
    profile: Profile | None
    """None for `direct/MODEL`."""
    root_model: str
    sub_model: str
    contexts: tuple[Context, ...]
    decision: Decision
    plan: Plan

    @property
    def profile_name(self) -> str | None:
        return None if self.profile is None else self.conversation.model


@dataclass(frozen=True, slots=True)
class Thought:
    """Something of how the run goes. Empty: nothing has happened for a while."""

    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an answer was come by. Its text was told before."""

    view: RunView
    finish_reason: Literal["stop", "length"]
    saving: Saving | None
    """Of a profile's direct call."""


Told = Thought | Said | Outcome


Count = Callable[[Context, float], Awaitable[object]]
"""Counts a context among what its caller keeps; one made since that time is deleted again if it does not fit."""


class Answering:
    """Answers the conversations of one tenant."""

    def __init__(self, runs: Runs, profiles: Profiles, live: LiveAnswers, count: Count) -> None:
        """`count` is told each context that is stored here, before it is used."""
        self._count = count
        self._runs = runs
        self._rooms = runs.rooms
        self._profiles = profiles
        self._live = live

    async def prepare(self, conversation: Conversation) -> Prepared:
        """Look up what it names and decide how to answer it. Nothing is written.

        Raises:
            ProfileUnknown, RootModelMissing, UnknownModel, UnpricedModel, MissingApiKey: its model leads nowhere.
            NotFound: a context that it names.
            BadRequest: nothing is asked, or too much at once.
        """
        profile, root, sub = self._models_of(conversation)
        route = await self._rooms.route_to(root)
        contexts = tuple([await self._rooms.contexts.get(each) for each in conversation.context_ids])
        own_bytes, planned = await _looked_through(conversation)
        stored_bytes = sum(context.size_bytes for context in contexts)
        size_bytes = own_bytes + stored_bytes
        if profile is None:
            decision = Decision(way="direct", tokens_bound=size_bytes, threshold=0)
        else:
            decision = decide(profile, route.card, size_bytes)
        if decision.way == "rlm":
            await self._rooms.route_to(sub)
        if decision.way == "direct" and stored_bytes > LARGEST_INLINE_BYTES:
            raise BadRequest(
                f"a direct call can be given {LARGEST_INLINE_BYTES} bytes of contexts, found {stored_bytes}: name a "
                "profile such as rlm/default instead",
                data={"param": "model"},
            )
        return Prepared(
            conversation=conversation,
            profile=profile,
            root_model=root,
            sub_model=sub,
            contexts=contexts,
            decision=decision,
            plan=planned,
        )

    async def begin(self, prepared: Prepared, run_id: RunId) -> None:
        """Store what is a context, and start the run or the call under this id. Idempotent once it is there.

        Raises:
            QuotaExceeded: what would be stored does not fit.
            RlmServiceError: whatever `Runs.submit` and `DirectCalls.complete` raise before there is a run.
        """
        if await self._rooms.journal.exists(run_id):
            return  # an earlier try got this far and could not say so
        if prepared.decision.way == "direct":
            await self._begin_call(prepared, run_id)
            return
        try:
            await self._runs.submit(await self._run_request(prepared), run_id)
        except RunIdTaken:
            return
        self._runs.start(run_id)

    async def _begin_call(self, prepared: Prepared, run_id: RunId) -> None:
        journal, request = self._rooms.journal, await self._direct_request(prepared)
        try:
            await self._live.call(DirectCalls(self._rooms), journal, request, run_id)
        except RlmServiceError:
            # Another try of the same request may have got further meanwhile, whatever this one was refused for. To say
            # that it was refused would forget that run, and the next try would pay a second time.
            if not await journal.exists(run_id):
                raise

    async def still_stands(self, run_id: RunId, which: Try) -> bool:
        """Whether a run may answer the same request again: it is live, or has just ended with an answer. For a first
        try only one that was left (`note_left`), and only for the first that asks."""
        if not await self._rooms.journal.exists(run_id):
            return False
        view = await self._runs.show(run_id)
        if view.finished_at is None:
            stands = not await self._rooms.journal.cancel_requested(run_id)
        else:
            has_answer = view.stop_reason is StopReason.ANSWERED or view.answer is not None
            stands = has_answer and await self._complaint_about(view) is None
            stands = stands and self._rooms.now() < view.finished_at + STANDS_S[which]
        return stands and (which is not Try.FIRST or await self._rooms.journal.take_left(run_id))

    async def note_left(self, run_id: RunId) -> None:
        """The client that waited for the run has gone away without its answer, and is expected back."""
        await self._rooms.journal.note_left(run_id)

    async def has_ended(self, run_id: RunId) -> bool:
        """Raises `NotFound`."""
        return (await self._rooms.journal.last_seq(run_id))[1]

    def listening(self, run_id: RunId) -> AbstractContextManager[Hearing]:
        """Hold the run for a client that follows it: what everybody has left is cancelled after a grace, unless the
        last `may_leave`."""
        return self._live.listening(run_id, lambda: self._cancel_unless_elsewhere(run_id))

    async def follow(self, run_id: RunId) -> AsyncGenerator[Told, None]:
        """How it goes, then the answer, then its outcome.

        Raises:
            NotFound: no such run.
            NoAnswer, RunBudgetSpent, AnswerCancelled: it ended without an answer, or with one that it had so far and
                that breaks the schema which was asked for.
        """
        await self.has_ended(run_id)
        await self._rooms.journal.note_listener(run_id, self._rooms.leases.replica)
        text = self._live.text_of(run_id)
        if text is not None:
            async for piece in text.follow(PATIENCE_S):
                yield Said(piece) if piece else Thought("")
        pages = self._rooms.journal.pages(run_id, 0, patience_s=PATIENCE_S)
        async with aclosing(pages):
            async for page in pages:
                if not page:
                    yield Thought("")
                for recorded in page:
                    if thought := thought_of(recorded.event):
                        yield Thought(thought)
                page.clear()  # who waits for the next one holds nothing of this one
        view = await self._runs.show(run_id)
        if (complaint := await self._complaint_about(view)) is not None:
            raise no_answer(view, complaint)
        if text is None or view.stop_reason is not StopReason.ANSWERED:
            has_answer = False
            async for piece in self.answer_of(view):
                has_answer = True
                yield Said(piece)
            if not has_answer:
                raise no_answer(view, view.message or await self._last_failure(run_id))
        yield await self._outcome(view)

    async def answer_of(self, view: RunView) -> AsyncIterator[str]:
        """The answer's text, piece by piece; nothing when there is none."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for chunk in self._runs.answer_chunks(view.run_id):
            if piece := decoder.decode(chunk):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    async def _complaint_about(self, view: RunView) -> str | None:
        """How what a run had when it was ended breaks the schema of its answer. What was submitted was checked."""
        if view.answer is None or view.stop_reason is StopReason.ANSWERED:
            return None
        submitted = (await self._rooms.journal.read(view.run_id, limit=1))[0].event
        if not isinstance(submitted, RunSubmitted) or submitted.answer_schema is None:
            return None
        try:
            text = (await self._rooms.blobs.read(view.answer, MAX_CHECKED_CHARS)).decode("utf-8", "replace")
            await parse_checked(text, await check_schema_aside(submitted.answer_schema))
        except (BlobTooLarge, ReplyBreaksSchema) as exc:
            return f"what it had so far does not satisfy the JSON schema ({exc}); it is kept as the run's answer"
        return None

    async def _cancel_unless_elsewhere(self, run_id: RunId) -> None:
        """Nobody listens here any more: a client that came back to another replica is that one's to wait for."""
        if await self._rooms.journal.last_listener(run_id) in (None, self._rooms.leases.replica):
            await self._runs.cancel(run_id)

    async def _outcome(self, view: RunView) -> Outcome:
        is_whole = view.stop_reason is StopReason.ANSWERED
        if view.is_direct:
            replies = [each for each in await self._calls_of(view.run_id) if each.outcome is CallOutcome.OK]
            is_whole = is_whole and bool(replies) and replies[-1].finish_reason != "length"
        spared = None
        if view.is_direct and view.profile is not None:
            spared = saving(view, await self._runs.ls(LOOKED_AT))
        return Outcome(view=view, finish_reason="stop" if is_whole else "length", saving=spared)

    async def _last_failure(self, run_id: RunId) -> str:
        failed = [each.text for each in await self._calls_of(run_id) if each.outcome is not CallOutcome.OK]
        return failed[-1] if failed else ""

    async def _calls_of(self, run_id: RunId) -> list[CallFinished]:
        recorded = await self._rooms.events_of(run_id)
        return [entry.event for entry in recorded if isinstance(entry.event, CallFinished)]

    def _models_of(self, conversation: Conversation) -> tuple[Profile | None, str, str]:
        """The profile, the root LM and the model of sub-calls."""
        if conversation.model.startswith(DIRECT_PREFIX):
            model = conversation.model.removeprefix(DIRECT_PREFIX)
            return None, model, model
        profile = self._profiles.get(conversation.model)
        root = conversation.root_model or self._profiles.root_of(profile)
        if root is None:
            raise RootModelMissing(
                f"no root LM is set for {conversation.model}: send rlm.root_model, or let the operator name one in the "
                "profile or set RLM_ROOT_MODEL",
                data={"param": "rlm.root_model"},
            )
        return profile, root, conversation.sub_model or self._profiles.sub_of(profile, root)

    async def _run_request(self, prepared: Prepared) -> RunRequest:
        conversation, profile = prepared.conversation, prepared.profile
        assert profile is not None, "a run of the loop follows a profile"
        limits: dict[str, Any] = {"cost": DEFAULT_COST, **profile.limits}
        if conversation.cost_limit is not None:
            limits["cost"] = conversation.cost_limit
        return RunRequest(
            question=prepared.plan.question,
            contexts=await self._bindings(prepared),
            root_model=prepared.root_model,
            sub_model=prepared.sub_model,
            limits=replace(Limits(), **limits),
            answer_schema=conversation.schema,
            prompt_pack=profile.prompt_pack,
            key_id=conversation.key_id,
            key_ancestors=conversation.key_ancestors,
            profile=prepared.profile_name,
            keeps_contexts=False,
        )

    async def _bindings(self, prepared: Prepared) -> tuple[ContextBinding, ...]:
        """The stored contexts first, then what came with the conversation, which is stored here."""
        bindings = [ContextBinding(context_id=context.context_id) for context in prepared.contexts]
        contexts = self._rooms.contexts
        since = time.time()
        for text in prepared.plan.texts:
            stored = await contexts.put_text(text.variable, _pieces(text.text), life=Life.TRANSIENT)
            await self._count(stored, since)
            bindings.append(ContextBinding(context_id=stored.context_id, variable=text.variable))
        if prepared.plan.earlier:
            said = [{"role": message.role, "content": message.content} for message in prepared.plan.earlier]
            stored = await contexts.put_json("conversation", _pieces(to_json(said).decode()), life=Life.TRANSIENT)
            await self._count(stored, since)
            bindings.append(ContextBinding(context_id=stored.context_id, variable="conversation"))
        return tuple(bindings)

    async def _direct_request(self, prepared: Prepared) -> DirectRequest:
        conversation = prepared.conversation
        system = (Message(role="system", content=conversation.instructions),) if conversation.instructions else ()
        texts = [await self._text_of(context) for context in prepared.contexts]
        asking = Message(role="user", content="\n\n".join((*texts, *conversation.parts)))
        limits = {} if prepared.profile is None else prepared.profile.limits
        cost = limits.get("cost", DEFAULT_COST if prepared.profile is not None else None)
        return DirectRequest(
            model=prepared.root_model,
            messages=(*system, *conversation.earlier, asking),
            max_output_tokens=conversation.max_output_tokens,
            schema=conversation.schema,
            cost_limit=conversation.cost_limit or (None if cost is None else NanoUSD(int(cost))),
            key_id=conversation.key_id,
            key_ancestors=conversation.key_ancestors,
            profile=prepared.profile_name,
        )

    async def _text_of(self, context: Context) -> str:
        texts = []
        for part in context.parts:
            ref = BlobRef(sha256=part.sha256, size_bytes=part.size_bytes)
            texts.append((await self._rooms.blobs.read(ref, LARGEST_INLINE_BYTES)).decode("utf-8", "replace"))
        return "\n\n".join(texts)


async def _looked_through(conversation: Conversation) -> tuple[int, Plan]:
    """How many bytes its texts have, and what is to become of them; a long one is looked through in a thread."""

    def look() -> tuple[int, Plan]:
        return conversation.size_bytes, plan(conversation)

    if sum(map(len, conversation.texts)) <= LOOKED_THROUGH_CHARS:
        return look()
    return await anyio.to_thread.run_sync(look)


async def _pieces(text: str) -> AsyncIterator[bytes]:
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS].encode("utf-8", "replace")
