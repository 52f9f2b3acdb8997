"""Compaction: what happens when the conversation no longer fits the root LM's window.

The root LM is asked for a summary of its progress; the turns so far, all but the newest, move into the REPL variable
`history` in full, where code can still read them; and the conversation becomes: system message, first user message,
summary, a note that says where the rest is, newest turn. If the summary cannot be had, the turns move all the same.

Tokens are estimated as a third of the bytes, which is above what tokenizers make of prose and code in any script.
It need not be exact: a provider that finds the prompt too long after all sets off a compaction as well.
"""

from collections.abc import Sequence
from dataclasses import replace

from service.ids import CellId
from service.loop import notices, transcript
from service.loop.events import RunSubmitted
from service.loop.observation import clip
from service.loop.state import Binding, RunState
from service.loop.values import Message

_BYTES_PER_TOKEN = 3
_FILL = 0.75
_KEPT_MESSAGES = 2
"""The newest reply and its observation."""
_SUMMARY_CHARS = 6_000
_SUMMARY_TOKENS = 2_048
_LEAST_OUTPUT_TOKENS = 256


def estimated_tokens(messages: Sequence[Message]) -> int:
    """An upper estimate of what the messages take up in a window."""
    return -(-transcript.size_bytes(messages) // _BYTES_PER_TOKEN)


def output_tokens(submitted: RunSubmitted, messages: Sequence[Message]) -> int:
    """How much a reply may be: the model's own limit, or what remains of the window. The estimate errs on the
    large side, so a floor of an eighth of the window stays even when it says that nothing remains."""
    remaining = submitted.root_window_tokens - estimated_tokens(messages)
    floor = max(_LEAST_OUTPUT_TOKENS, submitted.root_window_tokens // 8)
    return max(1, min(submitted.root_max_output_tokens, max(remaining, floor)))


def summary_tokens(submitted: RunSubmitted) -> int:
    """How much a summary may be."""
    return max(1, min(submitted.root_max_output_tokens, _SUMMARY_TOKENS, max(256, submitted.root_window_tokens // 8)))


def observation_limit(submitted: RunSubmitted) -> int:
    """Characters an observation may have: the run's limit, and at most about an eighth of a small window."""
    input_tokens = max(submitted.root_window_tokens - submitted.root_max_output_tokens, 0)
    return min(submitted.limits.observation_chars, max(1_000, input_tokens * _BYTES_PER_TOKEN // 8))


def is_due(state: RunState) -> bool:
    """Whether the conversation should be compacted before the next turn is asked for."""
    submitted = state.submitted
    room = max(submitted.root_window_tokens - submitted.root_max_output_tokens, submitted.root_window_tokens // 4)
    return is_possible(state) and estimated_tokens(state.messages) > _FILL * room


def is_possible(state: RunState) -> bool:
    """Whether there is something to move, and it was not just done."""
    has_older_turns = len(state.messages) - state.turns_from > _KEPT_MESSAGES
    return has_older_turns and state.compacted_before_turn != state.turn.number


def request(state: RunState) -> tuple[Message, ...]:
    """The messages that ask for the summary."""
    return transcript.with_request(state.messages, notices.COMPACTION_REQUEST)


def compact(state: RunState, summary: str) -> RunState:
    """Move the older turns out of the conversation; binding them to `history` is due next."""
    older = state.messages[state.turns_from : -_KEPT_MESSAGES]
    opening = state.messages[:2]
    told = (
        transcript.reply_message(clip(summary.strip(), _SUMMARY_CHARS) or notices.NO_SUMMARY),
        transcript.message("user", notices.HISTORY_MOVED),
    )
    number = state.compactions + 1
    return replace(
        state,
        messages=(*opening, *told, *state.messages[-_KEPT_MESSAGES:]),
        turns_from=len(opening) + len(told),
        offloaded=state.offloaded + older,
        compactions=number,
        compacted_before_turn=state.turn.number,
        phase=Binding(cell_id=CellId(f"{state.submitted.run_id}.h{number}")),
    )
