"""A host call under way: what has come of it so far, and the two ways in which it is told to end."""

import anyio

from service.errors import RlmServiceError
from service.journal.values import Place
from service.loop.events import HostCallAnswered
from service.loop.values import HostCallKey
from service.runs.host_calls.values import NOT_STARTED, HostCallItem, encode_items


class UnderWay:
    """One call. Its maker fills `items`, one for each prompt; `HostCalls` answers with them."""

    def __init__(self, key: HostCallKey) -> None:
        self.key = key
        self.items: list[HostCallItem] = []
        self.scope = anyio.CancelScope()
        """All that is done for it; cancelled when the run is being stopped. What is done by then stands in `items`."""
        self.beginning = anyio.CancelScope()
        """What its maker begins, and waits for before it does; cancelled once the cell that asked has ended. What was
        begun by then is finished."""
        self.done = anyio.Event()
        self.answer: list[HostCallItem] | None = None
        """What the code gets; None while it is made, and where it was refused or its run ended before."""
        self.refusal: RlmServiceError | None = None
        self.is_recorded = False
        """Whether the journal has its record, as the items stand, behind the last call that was made for it."""
        self.place: Place | None = None
        """Where it has it; None where nothing keeps it."""

    def __repr__(self) -> str:
        return f"<UnderWay {self.key.function} of {self.key.cell_id} items={len(self.items)}>"

    def answered(self, at: float) -> HostCallAnswered:
        """The record of the call as its items stand now."""
        items = self.items or [NOT_STARTED]
        failures = tuple(item.failure.value for item in items if item.failure is not None)
        return HostCallAnswered(
            at=at, key=self.key, answer_json=encode_items(items), failures=failures, items=len(items)
        )
