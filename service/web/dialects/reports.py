"""What every dialect adds about the run behind an answer: its tokens, its money, and how it was answered."""

from typing import Any, Literal

from pydantic import Field

from service.loop.values import AnswerSource, StopReason
from service.money import NANO_PER_USD, NanoUSD, format_usd
from service.runs.answering.answering import Outcome
from service.runs.answering.deciding import Decision
from service.web.shapes import Money, Shown, money

SAVED = "x-rlm-saved-usd"

EXAMPLE_OF_REPORT: dict[str, Any] = {
    "run_id": "run_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "decision": {"way": "rlm", "tokens_bound": 1_048_576, "threshold": 0},
    "stop_reason": "answered",
    "answer_source": "submitted",
    "turns": 3,
    "cells": 3,
    "sub_calls": 12,
    "child_runs": 0,
    "spent": {"usd": "0.0123", "nano_usd": 12_300_000},
    "saving": None,
    "was_asked_before": False,
}


class ShownDecision(Shown):
    """How it was answered, and why."""

    way: Literal["direct", "rlm"]
    tokens_bound: int = Field(description="What was sent has at most so many tokens: its bytes of UTF-8.")
    threshold: int = Field(description="Below it a profile makes one direct call; 0 where it never does.")


class ShownSaving(Shown):
    """What a profile's direct call spared, measured against the tenant's own answered runs of that profile."""

    compared_runs: int = Field(description="Of the latest 100. With 0 there is no history, and nothing to say.")
    run_p50: Money | None
    saved_usd: str | None = Field(description="May be negative.")


class RlmReport(Shown):
    """The member `rlm` of an answer."""

    run_id: str
    decision: ShownDecision
    stop_reason: StopReason | None
    answer_source: AnswerSource | None
    turns: int
    cells: int
    sub_calls: int
    child_runs: int
    spent: Money
    saving: ShownSaving | None = Field(description="Of a profile's direct call; null otherwise.")
    was_asked_before: bool = Field(description="Whether this is the run of an earlier try of the same request.")


def report(decision: Decision, outcome: Outcome, *, was_asked_before: bool) -> RlmReport:
    view, saving = outcome.view, outcome.saving
    return RlmReport(
        run_id=view.run_id,
        decision=ShownDecision(way=decision.way, tokens_bound=decision.tokens_bound, threshold=decision.threshold),
        stop_reason=view.stop_reason,
        answer_source=view.answer_source,
        turns=view.turns,
        cells=view.cells,
        sub_calls=view.sub_calls,
        child_runs=view.child_runs,
        spent=money(view.spent),
        saving=None
        if saving is None
        else ShownSaving(
            compared_runs=saving.runs,
            run_p50=None if saving.median is None else money(saving.median),
            saved_usd=None if saving.saved is None else usd(saving.saved),
        ),
        was_asked_before=was_asked_before,
    )


def saved_header(outcome: Outcome) -> dict[str, str]:
    """The measured saving as a header, where one was measured."""
    saving = outcome.saving
    return {} if saving is None or saving.saved is None else {SAVED: usd(saving.saved)}


def usd(amount: NanoUSD) -> str:
    return format_usd(amount).replace("$", "", 1)


def usd_number(amount: NanoUSD) -> float:
    """For clients that expect a number; `rlm.spent` is exact."""
    return amount / NANO_PER_USD
