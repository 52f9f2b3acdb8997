"""The stream of a response. Its numbers stand for places, so that it can be taken up anywhere.

    0, 1            created, in progress
    2, 3            the reasoning item and its part begin, when the run has anything to tell
    4 …             one for each thought of the run, which follow from its journal
    then            the ends of reasoning (3), the beginnings of the message (2)
    base + n        the piece of text that ends at character n of the answer
    behind it       the ends of the message (3), and of the response

So the same number stands for the same place on every replica, however the text was cut into pieces; whoever comes back
with the last number that they saw gets what follows it, to the character.
"""

import json
from collections.abc import Iterator
from typing import Any

from service.errors import RlmServiceError
from service.runs.answering.answering import Outcome
from service.web.dialects.openai.responses.shapes import ShownResponse
from service.web.dialects.openai.responses.showing import (
    Subject,
    answered,
    failed,
    in_progress,
    message_item,
    reasoning_item,
    text_part,
)
from service.web.dialects.telling import LARGEST_WHOLE_CHARS, Teller, too_long


class ResponseTeller(Teller):
    """Events behind `starting_after`; all of them with -1."""

    def __init__(self, subject: Subject, starting_after: int = -1) -> None:
        self._subject = subject
        self._starting_after = starting_after
        self._number = -1
        self._thoughts: list[str] = []
        self._texts: list[str] = []
        self._chars = 0
        self._has_text_begun = False

    def begin(self) -> bytes:
        shown = in_progress(self._subject).model_dump(mode="json")
        return self._next("response.created", response=shown) + self._next("response.in_progress", response=shown)

    def thought(self, text: str) -> bytes:
        begun = b"" if self._thoughts else b"".join(self._begin_reasoning())
        self._thoughts.append(text)
        return begun + self._next("response.reasoning_summary_text.delta", **self._summary, delta=text)

    def said(self, text: str) -> bytes:
        begun = b"".join(self._begin_text())
        self._chars += len(text)
        if self._chars > LARGEST_WHOLE_CHARS:  # it would have to be said again, whole, at the end
            raise too_long(self._subject.run_id)
        self._texts.append(text)
        # The number of a piece is where it ends; of one that was seen in part, the rest is told.
        self._number += len(text)
        unseen = min(self._number - self._starting_after, len(text))
        if unseen <= 0:
            return begun
        return begun + self._event("response.output_text.delta", **self._content, delta=text[-unseen:], logprobs=[])

    def end(self, outcome: Outcome) -> bytes:
        ended = b"".join([*self._begin_text(), *self._end_text()])
        return ended + self._last(answered(self._subject, self._output(), outcome))

    def failed(self, error: RlmServiceError) -> bytes:
        return self._last(failed(self._subject, error))

    def _begin_reasoning(self) -> Iterator[bytes]:
        item = reasoning_item(self._subject.run_id, None)
        part = {"type": "summary_text", "text": ""}
        yield self._next("response.output_item.added", output_index=0, item=item)
        yield self._next("response.reasoning_summary_part.added", **self._summary, part=part)

    def _end_reasoning(self) -> Iterator[bytes]:
        text = "".join(self._thoughts)
        part = {"type": "summary_text", "text": text}
        yield self._next("response.reasoning_summary_text.done", **self._summary, text=text)
        yield self._next("response.reasoning_summary_part.done", **self._summary, part=part)
        yield self._next("response.output_item.done", output_index=0, item=reasoning_item(self._subject.run_id, text))

    def _begin_text(self) -> Iterator[bytes]:
        if self._has_text_begun:
            return
        self._has_text_begun = True
        if self._thoughts:
            yield from self._end_reasoning()
        item = message_item(self._subject.run_id, "", "in_progress")
        yield self._next("response.output_item.added", output_index=self._index, item=item)
        yield self._next("response.content_part.added", **self._content, part=text_part(""))

    def _end_text(self) -> Iterator[bytes]:
        text = "".join(self._texts)
        yield self._next("response.output_text.done", **self._content, text=text, logprobs=[])
        yield self._next("response.content_part.done", **self._content, part=text_part(text))
        item = message_item(self._subject.run_id, text)
        yield self._next("response.output_item.done", output_index=self._index, item=item)

    def _last(self, shown: ShownResponse) -> bytes:
        # There is no event of this name for a cancelled response in OpenAI's API: it is told as one that failed.
        kind = "failed" if shown.status == "cancelled" else shown.status
        return self._next(f"response.{kind}", response=shown.model_dump(mode="json"))

    def _output(self) -> list[dict[str, Any]]:
        run_id = self._subject.run_id
        reasoning = [reasoning_item(run_id, "".join(self._thoughts))] if self._thoughts else []
        return [*reasoning, message_item(run_id, "".join(self._texts))]

    @property
    def _index(self) -> int:
        return 1 if self._thoughts else 0

    @property
    def _summary(self) -> dict[str, Any]:
        return {"item_id": reasoning_item(self._subject.run_id, None)["id"], "output_index": 0, "summary_index": 0}

    @property
    def _content(self) -> dict[str, Any]:
        item_id = message_item(self._subject.run_id, "")["id"]
        return {"item_id": item_id, "output_index": self._index, "content_index": 0}

    def _next(self, kind: str, **more: Any) -> bytes:
        self._number += 1
        return b"" if self._number <= self._starting_after else self._event(kind, **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._number, **more}
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), line)
