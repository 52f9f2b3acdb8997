"""Runs and contexts as people and scripts get to see them on stdout."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from service.cli.counts import counted, refused_text
from service.cli.streams import is_terminal, write_out
from service.cli.visible import visible_line
from service.contexts.values import Context
from service.loop.values import SandboxUse
from service.money import NanoUSD, format_usd
from service.runs.values import RunView

QUESTION_WIDTH = 60

ABANDONED = "unfinished, and nobody drives it: start `rlm-service serve` over this store, which goes on with it"


def describe_run(view: RunView) -> dict[str, Any]:
    """A run as JSON: amounts as decimal USD in a string *and* as whole nano-USD, never as a float."""
    return {
        "run_id": view.run_id,
        "session_id": view.session_id,
        "parent_run_id": view.parent_run_id,
        "depth": view.depth,
        "question": view.question,
        "root_model": view.root_model,
        "sub_model": view.sub_model,
        "submitted_at": view.submitted_at,
        "finished_at": view.finished_at,
        "stop_reason": view.stop_reason,
        "answer_source": view.answer_source,
        "answer_size_bytes": view.answer.size_bytes if view.answer else None,
        "answer_sha256": view.answer.sha256 if view.answer else None,
        "turns": view.turns,
        "cells": view.cells,
        "sub_calls": view.sub_calls,
        "refused_sub_calls": dict(view.refused_sub_calls),
        "child_runs": view.child_runs,
        "input_tokens": view.input_tokens,
        "output_tokens": view.output_tokens,
        "spent_usd": plain_usd(view.spent),
        "spent_nano_usd": view.spent,
        "cost_limit_usd": None if view.cost_limit is None else plain_usd(view.cost_limit),
        "cost_limit_nano_usd": view.cost_limit,
        "message": view.message,
        "sandboxes": [asdict(use) for use in view.sandboxes],
        "forked_from": None
        if view.forked_from is None
        else {"run_id": view.forked_from.run_id, "from_turn": view.forked_from.from_turn},
        "imported_from": view.imported_from,
        "take_overs": view.take_overs,
        "uncertain_calls": view.uncertain_calls,
    }


def print_json(value: Any) -> None:
    """One JSON value on stdout. ASCII only, so nothing in it can drive a terminal."""
    write_out(json.dumps(value, ensure_ascii=True, indent=2 if is_terminal() else None) + "\n")


def plain_usd(amount: NanoUSD) -> str:
    return format_usd(amount).replace("$", "", 1)


def describe_context(context: Context) -> dict[str, Any]:
    """A stored context as JSON."""
    return {
        "context_id": context.context_id,
        "name": context.name,
        "kind": context.kind,
        "type": context.type_name,
        "length": context.length,
        "unit": context.unit,
        "parts": len(context.parts),
        "size_bytes": context.size_bytes,
        "created_at": context.created_at,
    }


def run_row(view: RunView, *, is_abandoned: bool) -> str:
    """A run on one line."""
    state = view.stop_reason or ("not driven" if is_abandoned else "running")
    question = visible_line(view.question, QUESTION_WIDTH)
    return f"{view.run_id}  {day(view.submitted_at)}  {state:<16}  {format_usd(view.spent):>12}  {question}"


def run_page(view: RunView, *, is_abandoned: bool) -> str:
    """A run on several lines."""
    unfinished = ABANDONED if is_abandoned else "running"
    took = "" if view.finished_at is None else f" in {view.finished_at - view.submitted_at:.1f} s"
    limit = "" if view.cost_limit is None else f" of {format_usd(view.cost_limit)}"
    rows: list[tuple[str, str]] = [
        ("run", view.run_id),
        ("session", view.session_id),
        ("question", visible_line(view.question, 1000)),
        ("models", f"root LM {visible_line(view.root_model)}, sub-calls {visible_line(view.sub_model)}"),
        ("submitted", day(view.submitted_at)),
        ("state", unfinished if view.stop_reason is None else f"{view.stop_reason}{took}"),
        (
            "counted",
            f"{counted(view.turns, 'turn')}, {counted(view.cells, 'cell')}, {counted(view.sub_calls, 'sub-call')}"
            f"{refused_text(view.refused_sub_calls)}, {counted(view.child_runs, 'child run')}",
        ),
        ("tokens", f"{view.input_tokens:,} in, {view.output_tokens:,} out"),
        ("spent", format_usd(view.spent) + limit),
    ]
    if view.forked_from is not None:
        rows.append(("forked", f"from {view.forked_from.run_id}, turn {view.forked_from.from_turn}"))
    if view.imported_from is not None:
        rows.append(("imported", f"from {view.imported_from}"))
    if view.take_overs:
        lost = f", {counted(view.uncertain_calls, 'call')} charged though lost" if view.uncertain_calls else ""
        rows.append(("taken over", f"{counted(view.take_overs, 'time')}{lost}"))
    rows += [("sandbox", _sandbox_line(use)) for use in view.sandboxes]
    if view.answer is not None:
        rows.append(("answer", f"{view.answer_source}, {counted(view.answer.size_bytes, 'byte')}"))
    if view.message:
        rows.append(("message", visible_line(view.message, 1000)))
    return "".join(f"{name:<10} {value}\n" for name, value in rows)


def _sandbox_line(use: SandboxUse) -> str:
    if use.cpu_s is None or use.memory_peak_bytes is None:
        return f"held for {use.held_s:.1f} s, ended before it was measured"
    return f"{use.cpu_s:.2f} s of CPU, at most {use.memory_peak_bytes / (1 << 20):.0f} MiB, held for {use.held_s:.1f} s"


def context_row(context: Context) -> str:
    """A stored context on one line."""
    what = f"{context.kind}, {counted(context.length, context.unit.removesuffix('s'))}"
    name = visible_line(context.name, QUESTION_WIDTH)
    return f"{context.context_id}  {day(context.created_at)}  {what:<36}  {name}"


def day(at: float) -> str:
    """A moment for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
