"""Summaries: a run's view, folded from its events once and kept beside it when it has finished.

The events stay the truth. A summary that this version cannot read is folded anew.
"""

import contextlib
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from service.errors import NotFound
from service.ids import RunId
from service.runs.rooms import RunsRooms
from service.runs.values import RunView
from service.runs.views import view_of
from service.store.errors import StoreFailed

_VIEW = TypeAdapter(RunView)


class Summaries:
    """The views of one tenant's runs."""

    def __init__(self, rooms: RunsRooms) -> None:
        self._rooms = rooms

    async def view(self, run_id: RunId) -> RunView:
        """Raises `NotFound`."""
        kept = (await self._rooms.journal.summaries([run_id]))[0]
        return _parsed(kept) or await self._fold(run_id)

    async def views(self, run_ids: Sequence[RunId]) -> list[RunView]:
        """In the same order, without those that are gone meanwhile."""
        views = []
        for run_id, kept in zip(run_ids, await self._rooms.journal.summaries(run_ids), strict=True):
            with contextlib.suppress(NotFound):
                views.append(_parsed(kept) or await self._fold(run_id))
        return views

    async def _fold(self, run_id: RunId) -> RunView:
        view = view_of(run_id, await self._rooms.events_of(run_id))
        if view.stop_reason is not None:
            with contextlib.suppress(StoreFailed):  # whoever asks next folds it again
                await self._rooms.journal.keep_summary(run_id, _VIEW.dump_json(view))
        return view


def _parsed(kept: bytes | None) -> RunView | None:
    if kept is None:
        return None
    try:
        return _VIEW.validate_json(kept)
    except ValidationError:
        return None
