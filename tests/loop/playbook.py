"""A small language for playbooks: a run is fed events and asked which command is due.

play = Playbook()
play.reply("```repl\\nx = 1\\n```").cell(variables=("x",)).reply("FINAL_VAR(x)").read()
assert play.due == Finish(...)
"""

from dataclasses import replace
from typing import Any, Literal

from service.ids import CallId, CellId, RunId, SessionId
from service.loop.commands import AskRoot, BindHistory, Command, Finish, ReadVariable, RunCell
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    HostCallAnswered,
    NamespaceRebuilt,
    RootUnavailable,
    RunFinished,
    RunSubmitted,
    ValueRead,
)
from service.loop.machine import decide, evolve, replay
from service.loop.state import RunState
from service.loop.values import (
    AnswerShown,
    BlobRef,
    CallOutcome,
    CapturedText,
    CellResult,
    CellStatus,
    ContextShown,
    HostCallKey,
    Limits,
    Message,
    Purpose,
    Raised,
    RenderedPrompt,
    Usage,
    WrapUp,
)
from service.money import NanoUSD

RUN = RunId("run_" + "0" * 32)
BLOB = BlobRef(sha256="b" * 64, size_bytes=12)


def context_shown(**changes: Any) -> ContextShown:
    shown = ContextShown(variable="context_0", type_name="str", length=1_000, unit="characters", preview="Once upon")
    return replace(shown, **changes)


def submitted(**changes: Any) -> RunSubmitted:
    event = RunSubmitted(
        at=0.0,
        run_id=RUN,
        session_id=SessionId("ses_" + "0" * 32),
        parent_run_id=None,
        depth=0,
        question="How many whales are there?",
        contexts=(context_shown(),),
        root_model="scripted/root",
        sub_model="scripted/sub",
        root_window_tokens=200_000,
        root_max_output_tokens=4_000,
        limits=Limits(),
        prompt=RenderedPrompt(system="You work in a REPL.", pack="default@1", sha256="0" * 64),
        wrap_up=WrapUp(input_bytes=6_000, max_output_tokens=300),
        deadline_at=1_800.0,
    )
    return replace(event, **changes)


def answer_shown(content: str, *, ready: bool = False) -> AnswerShown:
    return AnswerShown(ready=ready, type_name="str", size_bytes=len(content), sha256=f"sha of {content}")


class Playbook:
    """One run. Every verb appends the event that answers the due command, or one on the side."""

    def __init__(self, **changes: Any) -> None:
        self.events: list[Event] = [submitted(**changes)]
        self.clock = 0.0

    @property
    def state(self) -> RunState:
        return replay(self.events)

    @property
    def due(self) -> Command | None:
        return decide(self.state)

    @property
    def asked(self) -> AskRoot:
        command = self.due
        assert isinstance(command, AskRoot), command
        return command

    @property
    def running(self) -> RunCell:
        command = self.due
        assert isinstance(command, RunCell), command
        return command

    @property
    def finish(self) -> Finish:
        command = self.due
        assert isinstance(command, Finish), command
        return command

    @property
    def told(self) -> str:
        """The newest message to the root LM."""
        return self.asked.messages[-1].content

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.asked.messages

    def then(self, event: Event) -> "Playbook":
        self.events.append(event)
        return self

    def tick(self) -> float:
        self.clock += 1.0
        return self.clock

    def call(self, outcome: CallOutcome, text: str, *, cost: int = 10, purpose: Purpose | None = None) -> "Playbook":
        return self.then(
            CallFinished(
                at=self.tick(),
                call_id=CallId(f"call{len(self.events)}"),
                purpose=purpose or self.asked.purpose,
                model="scripted/root",
                outcome=outcome,
                text=text,
                usage=Usage(input_tokens=100, output_tokens=10),
                cost=NanoUSD(cost),
            )
        )

    def reply(self, text: str) -> "Playbook":
        return self.call(CallOutcome.OK, text)

    def code(self, code: str = "print(context[:9])", after: str = "") -> "Playbook":
        return self.reply(f"```repl\n{code}\n```\n{after}")

    def unavailable(self, outcome: CallOutcome, message: str = "no") -> "Playbook":
        return self.then(RootUnavailable(at=self.tick(), purpose=self.asked.purpose, outcome=outcome, message=message))

    def cell(self, status: CellStatus = CellStatus.OK, stdout: str = "", **changes: Any) -> "Playbook":
        command = self.due
        assert isinstance(command, RunCell | BindHistory), command
        raised = Raised(type_name="ValueError", message="no", traceback="ValueError: no")
        result = CellResult(
            cell_id=command.cell_id,
            status=status,
            stdout=CapturedText(head=stdout, size_bytes=len(stdout)),
            raised=raised if status is CellStatus.RAISED else None,
        )
        return self.then(CellFinished(at=self.tick(), result=replace(result, **changes)))

    def read(
        self, outcome: Literal["read", "missing", "too_large", "failed"] = "read", message: str = ""
    ) -> "Playbook":
        command = self.due
        assert isinstance(command, ReadVariable), command
        event = ValueRead(at=self.tick(), variable=command.variable, outcome="read", blob=BLOB)
        if outcome != "read":
            event = replace(event, outcome=outcome, blob=None, message=message)
        return self.then(event)

    def rebuilt(self, *missing: str, diverged: tuple[CellId, ...] = ()) -> "Playbook":
        return self.then(NamespaceRebuilt(at=self.tick(), cells=1, missing=missing, diverged=diverged))

    def host_call(self, *failures: str, items: int = 1, function: str = "llm_query_batched") -> "Playbook":
        key = HostCallKey(cell_id=CellId(self.running.cell_id), function=function, arguments_sha256="0", ordinal=0)
        return self.then(HostCallAnswered(at=self.tick(), key=key, answer_json="{}", failures=failures, items=items))

    def finished(self) -> "Playbook":
        finish = self.finish
        return self.then(
            RunFinished(
                at=self.tick(),
                stop_reason=finish.stop_reason,
                answer_source=finish.answer_source,
                answer=finish.answer,
                spent=self.state.spent.nano_usd,
            )
        )


def folded(events: list[Event]) -> RunState:
    """As `replay`, but one event at a time, as a driver does."""
    state: RunState | None = None
    for event in events:
        state = evolve(state, event)
    assert state is not None
    return state
