"""Mutants: a replica with one defect put in on purpose, to see that the figures can be other than zero.

    python -m tests.chaos --mutant NAME       is a campaign against two of them, which has to find the defect
    python -m tests.chaos --mutants           tries them all, one after the other
    python -m tests.chaos.mutants NAME        is `rlm-service serve` with that defect

Each replaces one decision of the service by a wrong one, in its own process. Nothing of the service is imported here
before the defect is in: scripts, and what a module takes from another by name, are read as modules are imported.
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect, the figures one of which it must turn, and the faults that bring it out."""

    figures: tuple[str, ...]
    faults: tuple[str, ...]
    put_in: Callable[[], None]


def _replace(owner: Any, name: str, defect: Callable[..., Any]) -> None:
    """A name that is not there any more would make the defect none at all."""
    assert name in vars(owner), f"{owner.__name__} has no {name} any more: put the defect in where it went"
    setattr(owner, name, defect)


def _skip_uncertain() -> None:
    """The holds of what was in flight when a replica was lost are given back, as if it had cost nothing."""
    from service.runs.recovery import settling

    async def forget(self: Any, run_id: str, **_: object) -> list[Any]:
        held = [each for each in await self._ledger.open_holds() if each.startswith(run_id) and "wrap_up" not in each]
        await self._ledger.release(held)
        return []

    _replace(settling.Settles, "left_open", forget)


def _forget_holds() -> None:
    """The holds of what was in flight stay."""
    from service.runs.recovery import settling

    _replace(settling, "open_calls", lambda *_, **__: [])


def _forget_answers() -> None:
    """What a host call was answered before the replica was lost is asked for again."""
    from service.runs.host_calls.host_calls import HostCalls

    _replace(HostCalls, "remember", lambda self, event: None)


def _lose_runs() -> None:
    """Nobody looks for runs that have lost their replica."""
    from service.journal.redis_journal import Journal

    async def nobody(self: Journal, limit: int = 100) -> list[Any]:
        return []

    _replace(Journal, "abandoned", nobody)


def _lose_variables() -> None:
    """Earlier cells are not run again, and nobody is told."""
    from service.runs.sessions.open_session import OpenSession

    async def pretend(self: Any, record: Any, host_calls: Any) -> str:
        return "same"

    _replace(OpenSession, "_rerun", pretend)


def _lose_sandboxes() -> None:
    """Every second sandbox is gone as its run begins."""
    from service.runs.sessions.open_session import OpenSession
    from service.sandboxes.port import SandboxGone

    prepare = OpenSession.prepare
    times = itertools.count(1)

    async def fail(self: Any, *arguments: Any, **others: Any) -> Any:
        if next(times) % 2 == 0:
            raise SandboxGone("a defect")
        return await prepare(self, *arguments, **others)

    _replace(OpenSession, "prepare", fail)


def _keep_places() -> None:
    """What was counted is given back by nobody."""
    from service.tenants.quotas import Quotas

    async def keep(self: Any, *_: Any, **__: Any) -> None:
        pass

    _replace(Quotas, "release", keep)


_FENCES = {
    "fence.lua": (b"~= ARGV[i + 1]", b"== 'never'"),
    "append.lua": (b"state[1] ~= ARGV[1]", b"state[1] == 'never'"),
    "lease.lua": (b"state[1] ~= ARGV[1]", b"state[1] == 'never'"),
}


def _drop_fences() -> None:
    """Whoever believes that a run is its own writes for it."""
    from service.store import scripts

    read = scripts._body

    def unfenced(package: str, name: str) -> bytes:
        body = read(package, name)
        if name in _FENCES:
            fence, gap = _FENCES[name]
            assert fence in body, f"{name} fences in other words now: put the defect in there"
            body = body.replace(fence, gap)
        return body

    _replace(scripts, "_body", unfenced)


_KILLED = ("gateway killed with a call in it", "orchestrator killed")
_PAUSED = ("orchestrator paused with a call in it",)

NONE = "none"
"""No defect at all: the same campaign must turn nothing then, or what the others turn says nothing."""

MUTANTS: Mapping[str, Mutant] = {
    "skip_uncertain": Mutant(("ledger_off_nano_usd", "paid_twice"), _KILLED, _skip_uncertain),
    "drop_fences": Mutant(("paid_twice", "ledger_off_nano_usd", "lost"), _PAUSED, _drop_fences),
    "forget_holds": Mutant(("ledger_off_nano_usd", "leaked"), _KILLED, _forget_holds),
    "forget_answers": Mutant(("paid_twice",), _KILLED, _forget_answers),
    "lose_runs": Mutant(("lost",), _KILLED, _lose_runs),
    "lose_variables": Mutant(("lost",), ("kernel killed", *_KILLED), _lose_variables),
    "lose_sandboxes": Mutant(("lost",), ("kernel killed", *_KILLED), _lose_sandboxes),
    "keep_places": Mutant(("leaked",), ("kernel killed",), _keep_places),
    NONE: Mutant((), (*_KILLED, *_PAUSED), lambda: None),
}


def command(name: str) -> Sequence[str]:
    """What starts a replica with that defect."""
    return (sys.executable, "-P", "-m", "tests.chaos.mutants", name)


if __name__ == "__main__":
    MUTANTS[sys.argv[1]].put_in()
    from service.cli.entry import main

    sys.argv = ["rlm-service", "serve"]
    main()
