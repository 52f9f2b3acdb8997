"""A response as it stands, from its record and its run."""

from dataclasses import dataclass
from typing import Any

from service.errors import RlmServiceError
from service.ids import RunId
from service.runs.answering.answering import Outcome
from service.runs.answering.errors import AnswerCancelled
from service.runs.answering.records import AskedRecord
from service.web.dialects.openai.responses.shapes import (
    Incomplete,
    ResponseError,
    ResponseUsage,
    ShownResponse,
    Status,
    response_id,
)
from service.web.dialects.reports import report, usd_number
from service.web.problems import openai_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Which response it is."""

    run_id: RunId
    record: AskedRecord
    is_stored: bool
    was_asked_before: bool = False


def in_progress(subject: Subject) -> ShownResponse:
    return _shown(subject, "in_progress")


def answered(subject: Subject, output: list[dict[str, Any]], outcome: Outcome) -> ShownResponse:
    view, is_whole = outcome.view, outcome.finish_reason == "stop"
    usage = ResponseUsage(
        input_tokens=view.input_tokens,
        output_tokens=view.output_tokens,
        total_tokens=view.input_tokens + view.output_tokens,
        cost=usd_number(view.spent),
    )
    rlm = report(subject.record.decision, outcome, was_asked_before=subject.was_asked_before)
    shown = _shown(subject, "completed" if is_whole else "incomplete")
    return shown.model_copy(
        update={
            "output": output,
            "usage": usage,
            "rlm": rlm,
            "incomplete_details": None if is_whole else Incomplete(),
        }
    )


def failed(subject: Subject, error: RlmServiceError) -> ShownResponse:
    if isinstance(error, AnswerCancelled):
        return _shown(subject, "cancelled")
    told = openai_error(error)
    return _shown(subject, "failed").model_copy(update={"error": ResponseError(code=told.code, message=told.message)})


def message_item(run_id: RunId, text: str, status: Status = "completed") -> dict[str, Any]:
    content = [] if status == "in_progress" else [text_part(text)]
    return {"id": _item_id("msg", run_id), "type": "message", "status": status, "role": "assistant", "content": content}


def reasoning_item(run_id: RunId, summary: str | None) -> dict[str, Any]:
    """None while it is being written."""
    parts = [] if summary is None else [{"type": "summary_text", "text": summary}]
    return {"id": _item_id("rs", run_id), "type": "reasoning", "summary": parts}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _shown(subject: Subject, status: Status) -> ShownResponse:
    record = subject.record
    return ShownResponse(
        id=response_id(subject.run_id),
        created_at=int(record.asked_at),
        status=status,
        background=record.is_background,
        instructions=record.instructions,
        metadata=record.metadata,
        model=record.model,
        output=[],
        previous_response_id=None if record.previous is None else response_id(record.previous),
        store=subject.is_stored,
        text={"format": record.text_format or {"type": "text"}},
        usage=None,
        rlm=None,
    )


def _item_id(prefix: str, run_id: RunId) -> str:
    return f"{prefix}_{run_id.removeprefix('run_')}"
