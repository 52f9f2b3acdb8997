"""Events to write: a first one for a run of a given id, and any other."""

from typing import get_args

from hypothesis import strategies as st

from service.ids import RunId, SessionId, new_id
from service.loop.events import Event, RunFinished, RunSubmitted
from service.loop.values import AnswerSource, ContextShown, Limits, RenderedPrompt, StopReason
from service.money import NanoUSD


def submitted(run_id: RunId | None = None, *, parent: RunId | None = None, question: str = "why?") -> RunSubmitted:
    return RunSubmitted(
        at=1.0,
        run_id=run_id or RunId(new_id("run")),
        session_id=SessionId(new_id("ses")),
        parent_run_id=parent,
        depth=0 if parent is None else 1,
        question=question,
        contexts=(ContextShown(variable="context", type_name="str", length=3, unit="characters", preview="abc"),),
        root_model="scripted/root",
        sub_model="scripted/sub",
        root_window_tokens=8192,
        root_max_output_tokens=1024,
        limits=Limits(),
        prompt=RenderedPrompt(system="You answer.", pack="default@1", sha256="00"),
        wrap_up=None,
        deadline_at=1801.0,
    )


def finished(at: float = 9.0) -> RunFinished:
    return RunFinished(
        at=at, stop_reason=StopReason.ANSWERED, answer_source=AnswerSource.SUBMITTED, answer=None, spent=NanoUSD(5)
    )


def events() -> st.SearchStrategy[Event]:
    """Any event with any content."""
    schemas = st.none() | st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text())
    first = st.builds(RunSubmitted, answer_schema=schemas)
    return st.one_of([first if kind is RunSubmitted else st.from_type(kind) for kind in get_args(Event)])
