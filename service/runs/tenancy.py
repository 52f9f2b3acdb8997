"""Tenancy: one `Runs` for each tenant on this replica, with rooms of its own over what all tenants share."""

from collections.abc import Callable, Iterator

import anyio
import anyio.abc

from service.ids import TenantId
from service.runs.driving.kept_sessions import KeptSessions
from service.runs.rooms import RunsRooms
from service.runs.runs import Runs


class Tenancy:
    """Opens a tenant's rooms when somebody first acts for it, and keeps them: they hold no resource of their own."""

    def __init__(self, rooms_of: Callable[[TenantId], RunsRooms], tasks: anyio.abc.TaskGroup) -> None:
        """`rooms_of` makes the rooms of one tenant; `tasks` is where runs of all tenants are driven."""
        self._rooms_of = rooms_of
        self._tasks = tasks
        self.kept = KeptSessions()
        """The idle sessions of all tenants."""
        self._opened: dict[TenantId, Runs] = {}

    def __repr__(self) -> str:
        return f"<Tenancy opened={len(self._opened)}>"

    def runs_of(self, tenant_id: TenantId) -> Runs:
        """Everything that can be done with this tenant's runs, and through `rooms` with whatever else is its own.

        Raises:
            BadRequest: this cannot be a tenant's id.
        """
        runs = self._opened.get(tenant_id)
        if runs is None:
            runs = self._opened[tenant_id] = Runs(self._rooms_of(tenant_id), self._tasks, self.kept)
        return runs

    def opened(self) -> Iterator[Runs]:
        """Those of every tenant that somebody has acted for since this replica started."""
        yield from list(self._opened.values())

    async def stop(self) -> None:
        """Stop every tenant's runs (`Runs.stop`), all at once. Called before closing, and by who lets go early."""
        async with anyio.create_task_group() as stopping:
            for runs in self.opened():
                stopping.start_soon(runs.stop)
