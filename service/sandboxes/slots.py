"""Sandbox slots: who may have a sandbox now, so that parents and children never wait for each other for ever.

A run of depth *d* needs at most *d + 1* sandboxes at once along one chain: its own, a child's, a grandchild's. While a
parent waits for its child it keeps its sandbox; so if every slot went to parents, no child could ever start. Hence:

- A root run is admitted only when one slot for every level of its chain can be set aside (`Shares.guaranteed`).
- A sandbox takes a *spare* slot, one that no guarantee stands for, when there is one; else its chain's own slot of
  that level, for which it waits in line with its siblings. Batches of children run one at a time on a full service.

The guarantee of a level in use is not counted twice: slots in use = spare ones + own ones in use, and always
spare in use + Σ levels of the admitted chains ≤ total. So an own slot that is free can be taken without asking
anybody, and the deepest sandbox of a chain never waits: there is no deadlock.

The decisions are pure functions over `Shares`; `Slots` is the thin shell that waits.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio

from service.sandboxes.port import NoSandboxSlot, TooManyLevels

SlotKind = Literal["spare", "own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How the slots are divided right now."""

    total: int
    guaranteed: int = 0
    """Slots set aside for admitted chains, used or not."""
    spare_in_use: int = 0

    @property
    def spare(self) -> int:
        """Slots that no guarantee stands for and nobody uses."""
        return self.total - self.guaranteed - self.spare_in_use


def admitted(shares: Shares, levels: int) -> Shares | None:
    """The shares with one more chain; None while it does not fit."""
    return replace(shares, guaranteed=shares.guaranteed + levels) if levels <= shares.spare else None


def left(shares: Shares, levels: int) -> Shares:
    """The shares once a chain has gone."""
    return replace(shares, guaranteed=shares.guaranteed - levels)


def kind_to_take(shares: Shares, *, own_is_free: bool, may_be_spare: bool) -> SlotKind | None:
    """Which slot a sandbox gets; None: it waits.

    Its own slot first, because it costs nobody anything; a spare one only for a further sibling, and not while a chain
    waits to be admitted: whoever is in must not keep the next one out for ever.
    """
    if own_is_free:
        return "own"
    return "spare" if shares.spare > 0 and may_be_spare else None


def taken(shares: Shares, kind: SlotKind) -> Shares:
    return replace(shares, spare_in_use=shares.spare_in_use + 1) if kind == "spare" else shares


def returned(shares: Shares, kind: SlotKind) -> Shares:
    return replace(shares, spare_in_use=shares.spare_in_use - 1) if kind == "spare" else shares


@dataclass(slots=True, eq=False)
class _Waiter:
    levels: int
    granted: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True, eq=False)
class _Sibling:
    chain: "Chain"
    level: int
    may_be_spare: bool
    kind: SlotKind | None = None
    granted: anyio.Event = field(default_factory=anyio.Event)


class Chain:
    """An admitted run's guarantee: one slot for each level of its depth, from 0."""

    def __init__(self, slots: "Slots", levels: int) -> None:
        self._slots = slots
        self.levels = levels
        self._own_in_use = [False] * levels

    @asynccontextmanager
    async def take(self, level: int, *, may_be_spare: bool = True) -> AsyncIterator[SlotKind]:
        """Hold a slot for one sandbox of this level inside the block, waiting in line for it.

        `may_be_spare` is whether it may be one beside the chain's own; yields which it is.
        """
        if not 0 <= level < self.levels:
            raise NoSandboxSlot(f"this run was admitted with {self.levels} sandbox levels, found one of level {level}")
        kind = await self._slots._take(self, level, may_be_spare=may_be_spare)  # noqa: SLF001 - two halves of one object
        try:
            yield kind
        finally:
            self._slots._give_back(self, level, kind)  # noqa: SLF001

    def own_is_free(self, level: int) -> bool:
        return not self._own_in_use[level]

    def mark_own(self, level: int, *, in_use: bool) -> None:
        """Called by `Slots` only."""
        self._own_in_use[level] = in_use

    def __repr__(self) -> str:
        return f"<Chain {sum(self._own_in_use)} of {self.levels} own slots in use>"


class Slots:
    """All sandbox slots of this replica."""

    def __init__(self, total: int) -> None:
        self._shares = Shares(total=total)
        self._chains: deque[_Waiter] = deque()
        self._siblings: deque[_Sibling] = deque()

    @property
    def shares(self) -> Shares:
        return self._shares

    @property
    def is_contended(self) -> bool:
        """Whether some chain waits to be admitted."""
        return bool(self._chains)

    def check(self, levels: int) -> None:
        """Raises `TooManyLevels` when a chain of so many levels can never be admitted here."""
        if not 1 <= levels <= self._shares.total:
            raise TooManyLevels(
                f"a run of depth {levels - 1} needs {levels} sandboxes at once, one for each level of child runs, and "
                f"this service has {self._shares.total}: lower its depth to {self._shares.total - 1} or raise "
                "RLM_SANDBOX_SLOTS",
                data={"param": "limits.depth", "most": self._shares.total - 1},
            )

    @asynccontextmanager
    async def admit(self, levels: int, *, deadline_s: float) -> AsyncIterator[Chain]:
        """Guarantee one slot for each level inside the block; first come, first served.

        Raises:
            TooManyLevels: it can never be guaranteed here.
            NoSandboxSlot: it was not in time.
        """
        chain = await self.guarantee(levels, deadline_s=deadline_s)
        try:
            yield chain
        finally:
            self.give_up(chain)

    async def guarantee(self, levels: int, *, deadline_s: float) -> Chain:
        """Like `admit`, for a guarantee that does not end with a block: whoever gets it calls `give_up`."""
        self.check(levels)
        await self._wait_for_admission(levels, deadline_s)
        return Chain(self, levels)

    def guarantee_now(self, levels: int) -> Chain | None:
        """A guarantee that needs no waiting, and passes nobody who waits; None if there is none."""
        shares = None if self._chains else admitted(self._shares, levels)
        if shares is None:
            return None
        self._shares = shares
        return Chain(self, levels)

    def split(self, chain: Chain, levels: int) -> tuple[Chain, Chain]:
        """The chain's first levels, and the rest, each to be given up on its own. Nothing of it may be in use."""
        return Chain(self, levels), Chain(self, chain.levels - levels)

    def give_up(self, chain: Chain) -> None:
        """Let others have what the chain was guaranteed. Its sandboxes are gone already."""
        self._shares = left(self._shares, chain.levels)
        self._grant()

    async def _wait_for_admission(self, levels: int, deadline_s: float) -> None:
        waiter = _Waiter(levels)
        self._chains.append(waiter)
        self._grant()
        try:
            with anyio.move_on_after(deadline_s):
                await waiter.granted.wait()
        except BaseException:
            self._withdraw(waiter)
            raise
        if not waiter.granted.is_set():
            self._withdraw(waiter)
            raise NoSandboxSlot(
                f"no {levels} of {self._shares.total} sandbox slots became free within {deadline_s:g} s: "
                "try again later, or raise RLM_SANDBOX_SLOTS"
            )

    def _withdraw(self, waiter: _Waiter) -> None:
        """A waiter goes away; what it may have been granted meanwhile goes back."""
        if waiter.granted.is_set():
            self._shares = left(self._shares, waiter.levels)
        else:
            self._chains.remove(waiter)
        self._grant()

    async def _take(self, chain: Chain, level: int, *, may_be_spare: bool) -> SlotKind:
        sibling = _Sibling(chain, level, may_be_spare)
        self._siblings.append(sibling)
        self._grant()
        try:
            await sibling.granted.wait()
        except BaseException:
            if sibling.kind is None:
                self._siblings.remove(sibling)
            else:
                self._give_back(chain, level, sibling.kind)
            raise
        assert sibling.kind is not None
        return sibling.kind

    def _give_back(self, chain: Chain, level: int, kind: SlotKind) -> None:
        if kind == "own":
            chain.mark_own(level, in_use=False)
        self._shares = returned(self._shares, kind)
        self._grant()

    def _grant(self) -> None:
        """Give out what can be given: chains in order, then siblings in order (one may pass another of a chain whose
        own slot is taken)."""
        while self._chains and (shares := admitted(self._shares, self._chains[0].levels)) is not None:
            self._shares = shares
            self._chains.popleft().granted.set()
        for sibling in list(self._siblings):
            own_is_free = sibling.chain.own_is_free(sibling.level)
            may_be_spare = sibling.may_be_spare and not self._chains
            kind = kind_to_take(self._shares, own_is_free=own_is_free, may_be_spare=may_be_spare)
            if kind is None:
                continue
            self._siblings.remove(sibling)
            self._shares = taken(self._shares, kind)
            if kind == "own":
                sibling.chain.mark_own(sibling.level, in_use=True)
            sibling.kind = kind
            sibling.granted.set()

    def __repr__(self) -> str:
        shares = self._shares
        return (
            f"<Slots {shares.total}: {shares.guaranteed} guaranteed, {shares.spare_in_use} spare in use, "
            f"{shares.spare} spare free; {len(self._chains)} runs and {len(self._siblings)} sandboxes wait>"
        )
