"""The log format of the reference implementation, which its visualizer opens: a line about the run, then one a turn.

What that format asks for and events do not tell is left empty: the prompts of sub-calls, and the values of variables.
"""

from datetime import UTC, datetime
from typing import Any

from service.loop.events import CallFinished, CellFinished, ChildRunFinished, Event, RunFinished, RunSubmitted
from service.loop.machine import evolve
from service.loop.state import RunState
from service.loop.values import CallOutcome, CapturedText, CellResult, ChildShown, Purpose

_CUT = "\n[… {} bytes, of which the middle is left out …]\n"


class VisualizerLog:
    """Made of a run's events one after the other: `feed` each, and `end` with the answer."""

    def __init__(self) -> None:
        self._state: RunState | None = None
        self._turn: dict[str, Any] | None = None
        self._turn_began_at = 0.0
        self._turns = 0
        self._calls: list[dict[str, Any]] = []
        """Of the cell that is running."""

    def feed(self, event: Event) -> list[dict[str, Any]]:
        """The lines that are complete with this event."""
        lines: list[dict[str, Any]] = []
        before = self._state
        self._state = evolve(before, event)
        match event:
            case RunSubmitted():
                lines.append(_about(event))
                self._turn_began_at = event.at
            case CallFinished(purpose=Purpose.TURN, outcome=CallOutcome.OK):
                assert before is not None, "a run begins by being submitted"
                lines += self._end_turn(event.at - event.duration_s)
                self._begin_turn(before, event)
            case CallFinished(purpose=Purpose.SUB_CALL):
                self._calls.append(_call(event))
            case ChildRunFinished():
                self._calls.append(_child(event.child))
            case CellFinished():
                assert before is not None, "a run begins by being submitted"
                self._add_cell(before, event.result)
            case _:
                pass
        return lines

    def end(self, finished: RunFinished, answer: str | None) -> list[dict[str, Any]]:
        """The last turn, with the answer in it."""
        if self._turn is not None:
            self._turn["final_answer"] = answer
        return self._end_turn(finished.at)

    def _begin_turn(self, before: RunState, reply: CallFinished) -> None:
        self._turns += 1
        self._turn_began_at = reply.at - reply.duration_s
        self._turn = {
            "type": "iteration",
            "iteration": self._turns,
            "timestamp": _time(reply.at),
            "prompt": [{"role": each.role, "content": each.content} for each in before.messages],
            "response": reply.text,
            "code_blocks": [],
            "final_answer": None,
        }

    def _end_turn(self, at: float) -> list[dict[str, Any]]:
        if self._turn is None:
            return []
        turn, self._turn = self._turn, None
        return [turn | {"iteration_time": round(max(0.0, at - self._turn_began_at), 3)}]

    def _add_cell(self, before: RunState, result: CellResult) -> None:
        calls, self._calls = self._calls, []
        if self._turn is not None:
            self._turn["code_blocks"].append({"code": _code_of(before, result), "result": _result(result, calls)})


def _about(submitted: RunSubmitted) -> dict[str, Any]:
    return {
        "type": "metadata",
        "timestamp": _time(submitted.at),
        "root_model": submitted.root_model,
        "max_depth": submitted.limits.depth,
        "max_iterations": submitted.limits.turns,
        "backend": "rlm-service",
        "backend_kwargs": {"model_name": submitted.root_model},
        "environment_type": "rlm-service",
        "environment_kwargs": {"run_id": submitted.run_id, "question": submitted.question},
        "other_backends": [submitted.sub_model],
    }


def _code_of(state: RunState, result: CellResult) -> str:
    """The block that a cell's id names; empty for a cell that is none (history that was bound)."""
    number = result.cell_id.rpartition(".b")[2]
    blocks = () if state.turn.reply is None else state.turn.reply.blocks
    return blocks[int(number)] if number.isdecimal() and int(number) < len(blocks) else ""


def _result(result: CellResult, calls: list[dict[str, Any]]) -> dict[str, Any]:
    stderr = _text(result.stderr)
    if result.raised is not None:
        stderr += result.raised.traceback or f"{result.raised.type_name}: {result.raised.message}"
    elif result.detail:
        stderr += result.detail
    return {
        "stdout": _text(result.stdout),
        "stderr": stderr,
        "locals": dict.fromkeys(result.variables, ""),
        "execution_time": result.wall_s,
        "rlm_calls": calls,
    }


def _text(stream: CapturedText) -> str:
    if not stream.tail:
        return stream.head
    return stream.head + _CUT.format(stream.size_bytes) + stream.tail


def _call(call: CallFinished) -> dict[str, Any]:
    used = {
        "total_calls": 1,
        "total_input_tokens": call.usage.input_tokens,
        "total_output_tokens": call.usage.output_tokens,
    }
    return {
        "root_model": call.model,
        "prompt": "",
        "response": call.text,
        "prompt_tokens": call.usage.input_tokens,
        "completion_tokens": call.usage.output_tokens,
        "usage_summary": {"model_usage_summaries": {call.model: used}},
        "execution_time": call.duration_s,
    }


def _child(child: ChildShown) -> dict[str, Any]:
    read, written = child.tokens - child.output_tokens, child.output_tokens
    return {
        "root_model": "rlm_query",
        "prompt": "",
        "response": f"child run {child.run_id} ({child.stop_reason})",
        "prompt_tokens": read,
        "completion_tokens": written,
        "usage_summary": {"model_usage_summaries": {}},
        "execution_time": 0.0,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
