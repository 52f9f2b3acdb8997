"""A run without the service: the real state machine, a plain `exec` as the REPL, scripted models for root and sub.

For strategies only. The code that runs here is the scripted model's own; the two cells that would end or hang the
interpreter (`os._exit`, an endless loop) are answered as the sandbox answers them, not executed.
"""

import contextlib
import hashlib
import io
import json
import traceback
from dataclasses import dataclass, field
from typing import Any

from service.ids import CallId, RunId, SandboxId, SessionId
from service.loop.commands import AskRoot, BindHistory, Command, Finish, ReadVariable, RebuildNamespace, RunCell
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    NamespaceRebuilt,
    RunFinished,
    RunSubmitted,
    SandboxAcquired,
    ValueRead,
)
from service.loop.machine import decide, evolve
from service.loop.values import (
    AnswerShown,
    BlobRef,
    CallOutcome,
    CapturedText,
    CellResult,
    CellStatus,
    ContextShown,
    Limits,
    Message,
    Purpose,
    Raised,
    RenderedPrompt,
    Usage,
    WrapUp,
)
from service.models.scripted.play import play
from service.models.scripted.script import Strategy
from service.money import NanoUSD

SYSTEM = "You work in a Python REPL. `context` is the data; `llm_query(prompt)` asks a language model."
CAPTURED_CHARS = 20_000
SUB_WINDOW_CHARS = 500_000


class Reply(str):
    """What a sub-call returns in the REPL."""

    __slots__ = ("ok",)
    ok: bool

    @classmethod
    def good(cls, text: str) -> "Reply":
        reply = cls(text)
        reply.ok = True
        return reply

    @classmethod
    def failed(cls, text: str) -> "Reply":
        reply = cls(f"Error: {text}")
        reply.ok = False
        return reply


@dataclass
class Rehearsal:
    """What happened."""

    finish: Finish | None = None
    answer: Any = None
    root_replies: list[str] = field(default_factory=list)
    purposes: list[Purpose] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)
    sub_prompts: list[str] = field(default_factory=list)
    children: int = 0

    @property
    def steps(self) -> list[str]:
        return [line[8:] for reply in self.root_replies for line in reply.splitlines() if line.startswith("# step: ")]


def rehearse(
    strategy: Strategy,
    question: str,
    context: object,
    *,
    limits: Limits | None = None,
    window_tokens: int = 128_000,
    schema: dict[str, Any] | None = None,
    sub_calls_allowed: int = 1_000_000,
    depth: int = 0,
) -> Rehearsal:
    """Run a strategy to its end."""
    shown = Rehearsal()
    limits = limits or Limits()
    stage = _Stage(shown, strategy, context, limits, sub_calls_allowed, depth)
    state = evolve(None, _submitted(question, context, limits, window_tokens, schema, depth))
    state = evolve(state, SandboxAcquired(at=0.0, sandbox_id=SandboxId("sbx"), generation=1, isolation="none"))
    for _ in range(1000):
        command = decide(state)
        if command is None:
            return shown
        state = evolve(state, stage.perform(command))
    raise AssertionError("the rehearsal does not end")


def _submitted(
    question: str, context: object, limits: Limits, window_tokens: int, schema: dict[str, Any] | None, depth: int
) -> RunSubmitted:
    text = context if isinstance(context, str) else json.dumps(context)
    return RunSubmitted(
        at=0.0,
        run_id=RunId("run"),
        session_id=SessionId("ses"),
        parent_run_id=None,
        depth=depth,
        question=question,
        contexts=(
            ContextShown(
                variable="context_0",
                type_name=type(context).__name__,
                length=len(text),
                unit="characters",
                preview=text[:200],
            ),
        ),
        root_model="scripted/root",
        sub_model="scripted/sub",
        root_window_tokens=window_tokens,
        root_max_output_tokens=min(4096, window_tokens // 4),
        limits=limits,
        prompt=RenderedPrompt(system=SYSTEM, pack="test@1", sha256="0" * 64),
        wrap_up=WrapUp(input_bytes=20_000, max_output_tokens=1000),
        deadline_at=1e9,
        answer_schema=schema,
    )


class _Stage:
    """Performs commands."""

    def __init__(
        self, shown: Rehearsal, strategy: Strategy, context: object, limits: Limits, sub_calls_allowed: int, depth: int
    ) -> None:
        self._shown = shown
        self._strategy = strategy
        self._context = context
        self._limits = limits
        self._sub_calls_allowed = sub_calls_allowed
        self._depth = depth
        self._namespace: dict[str, Any] = {}

    def perform(self, command: Command) -> Event:
        match command:
            case AskRoot():
                return self._ask(command)
            case RunCell():
                return CellFinished(at=0.0, result=self._cell(command))
            case ReadVariable():
                return self._read(command)
            case BindHistory():
                self._namespace["history"] = [message.content for message in command.messages]
                return CellFinished(at=0.0, result=CellResult(cell_id=command.cell_id, status=CellStatus.OK))
            case RebuildNamespace():
                return NamespaceRebuilt(at=0.0, cells=1)
            case Finish():
                return self._finish(command)

    def _ask(self, command: AskRoot) -> CallFinished:
        reply = play(self._strategy, command.messages, None)
        self._shown.root_replies.append(reply)
        self._shown.purposes.append(command.purpose)
        self._shown.observations.append(command.messages[-1].content)
        return CallFinished(
            at=0.0,
            call_id=CallId("call"),
            purpose=command.purpose,
            model="scripted/root",
            outcome=CallOutcome.OK,
            text=reply,
            usage=Usage(input_tokens=1, output_tokens=1),
            cost=NanoUSD(1),
        )

    def _cell(self, command: RunCell) -> CellResult:
        namespace = self._namespace
        namespace |= self._names()
        if "os._exit" in command.code:
            return CellResult(
                cell_id=command.cell_id, status=CellStatus.KILLED, detail="exited with status 1", namespace_lost=True
            )
        if "while True" in command.code:
            return CellResult(cell_id=command.cell_id, status=CellStatus.TIMED_OUT, detail="more than 120 s")
        printed = io.StringIO()
        raised = None
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(command.code, "<cell>", "exec"), namespace)
            except Exception as error:  # noqa: BLE001 - what a cell raises is its result
                lines = traceback.format_exception_only(error)
                raised = Raised(type_name=type(error).__name__, message=str(error), traceback="".join(lines))
        return CellResult(
            cell_id=command.cell_id,
            status=CellStatus.OK if raised is None else CellStatus.RAISED,
            stdout=_captured(printed.getvalue()),
            raised=raised,
            answer=self._answer_shown(),
        )

    def _names(self) -> dict[str, Any]:
        kept = self._namespace.get("answer")
        answer = kept if isinstance(kept, dict) else {"content": "", "ready": False}
        return {
            "context": self._context,
            "context_0": self._context,
            "answer": answer,
            "llm_query": self._llm_query,
            "llm_query_batched": lambda prompts, **options: [self._llm_query(prompt, **options) for prompt in prompts],
            "rlm_query_batched": lambda prompts: [self._rlm_query(prompt) for prompt in prompts],
        }

    def _llm_query(self, prompt: str, schema: dict[str, Any] | None = None) -> Any:
        self._shown.sub_prompts.append(prompt)
        if len(self._shown.sub_prompts) > self._sub_calls_allowed:
            return Reply.failed("budget: no money is left for this call")
        if len(prompt) > SUB_WINDOW_CHARS:
            return Reply.failed("too_long: the prompt does not fit the model's window")
        messages: tuple[Message, ...] = (Message(role="user", content=prompt),)
        if schema is None:
            return Reply.good(play(Strategy.SUB, messages, None))
        return json.loads(
            play(Strategy.SUB, (Message(role="system", content="Answer with JSON only"), *messages), schema)
        )

    def _rlm_query(self, prompt: str) -> Reply:
        if self._depth >= self._limits.depth:
            reply: Reply = self._llm_query(prompt)
            return reply
        question = "Your whole task, with its material, is in `context`: read it there and carry it out."
        child = rehearse(self._strategy, question, prompt, limits=self._limits, depth=self._depth + 1)
        self._shown.children += 1 + child.children
        self._shown.sub_prompts += child.sub_prompts
        return Reply.good(str(child.answer))

    def _answer_shown(self) -> AnswerShown | None:
        answer = self._namespace["answer"]
        if not isinstance(answer, dict) or answer == {"content": "", "ready": False}:
            return None
        text = str(answer["content"])
        digest = hashlib.sha256(text.encode()).hexdigest()
        kind = type(answer["content"]).__name__
        return AnswerShown(ready=bool(answer["ready"]), type_name=kind, size_bytes=len(text.encode()), sha256=digest)

    def _read(self, command: ReadVariable) -> ValueRead:
        if command.variable == "answer":
            value = self._namespace["answer"]["content"]
        elif command.variable in self._namespace:
            value = self._namespace[command.variable]
        else:
            return ValueRead(at=0.0, variable=command.variable, outcome="missing")
        self._shown.answer = value
        blob = BlobRef(sha256="0" * 64, size_bytes=len(str(value)))
        return ValueRead(at=0.0, variable=command.variable, outcome="read", blob=blob)

    def _finish(self, command: Finish) -> RunFinished:
        self._shown.finish = command
        if command.answer_text is not None:
            self._shown.answer = command.answer_text
        return RunFinished(
            at=0.0,
            stop_reason=command.stop_reason,
            answer_source=command.answer_source,
            answer=command.answer,
            spent=NanoUSD(0),
        )


def _captured(text: str) -> CapturedText:
    if len(text) <= CAPTURED_CHARS:
        return CapturedText(head=text, size_bytes=len(text.encode()))
    half = CAPTURED_CHARS // 2
    return CapturedText(head=text[:half], tail=text[-half:], size_bytes=len(text.encode()))
