"""Chooses: looks first, then picks the strategy that question and size call for, and stays with it."""

from service.models.scripted import cells
from service.models.scripted.keywords import read_wish
from service.models.scripted.strategies import grep, long_output, mapping, peek, summarise
from service.models.scripted.transcript import Shown

READ_WHOLE_CHARS = 20_000
"""A context up to this size is read by one sub-call."""


def next_reply(shown: Shown) -> str:
    if not shown.steps or (shown.last_step == "peek" and shown.has_failed):
        return cells.peek()
    wish = read_wish(shown.question)
    characters = shown.number("characters")
    if long_output.is_asked_for(shown.question):
        return long_output.next_reply(shown)
    if wish.summary:
        return summarise.next_reply(shown)
    if characters <= READ_WHOLE_CHARS and "grep" not in shown.steps:
        return peek.next_reply(shown)
    if wish.count or not wish.words or shown.is_task_in_context:
        return mapping.next_reply(shown)
    return grep.next_reply(shown)
