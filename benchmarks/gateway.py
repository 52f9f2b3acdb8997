"""Our gateway against LiteLLM Proxy: single model calls, so many in flight, of a model that answers at once.

Ours are made by a cell as cells make them, one request over the gateway's socket each, and are reserved, journalled,
settled and forced to disk. Theirs are made by a bare client over TCP.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cpu import cpu_seconds
from benchmarks.listening import Listener
from benchmarks.model_server import IN_FLIGHT
from benchmarks.proxy import KEY, MODEL
from benchmarks.rows import Row, row_of
from benchmarks.service_side import Side, WrongAnswer
from benchmarks.worker import Worker, milliseconds

CONTEXT = "nothing"
QUESTION = "How many calls can you make?"
UPSTREAM = "echo-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayEffort:
    """How many windows of each side, and how long one is."""

    rounds: int
    window_s: int


FULL = GatewayEffort(rounds=3, window_s=10)
QUICK = GatewayEffort(rounds=1, window_s=2)
WARM_UP_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one side did in one window."""

    calls: int
    per_second: float
    cpu_ms: float
    """Of one call, in every process that takes part on the answering side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateways:
    """Ours, the proxy, and the client that asks the proxy."""

    side: Side
    proxy: Listener
    client: Worker
    effort: GatewayEffort

    async def row(self, name: str, unit: str) -> Row:
        """Measure one benchmark."""
        figures: dict[str, Callable[[Window], float]] = {
            "gateway_cpu_vs_litellm_proxy": lambda window: window.cpu_ms,
            "gateway_calls_per_second": lambda window: window.per_second,
        }
        ours, theirs = await self._windows()
        figure = figures[name]
        counted = sum(window.calls for window in ours)
        return row_of(name, unit, [figure(each) for each in ours], [figure(each) for each in theirs], n=counted)

    async def _windows(self) -> tuple[list[Window], list[Window]]:
        """Turn about, after a short window of each that is not counted."""
        await self._our_window(QUICK.window_s)
        await self._their_window(WARM_UP_S)
        ours, theirs = [], []
        for _ in range(self.effort.rounds):
            await self.side.calm()
            ours.append(await self._our_window(self.effort.window_s))
            await self.side.calm()
            theirs.append(await self._their_window(self.effort.window_s))
        return ours, theirs

    async def _our_window(self, window_s: int) -> Window:
        """A whole run, of which making calls is nearly all."""
        store = await self.side.store_pid()
        pids = (os.getpid(), store)
        before = sum(cpu_seconds(pid) for pid in pids)
        answer = await self.side.run_unwatched(f"calls-{window_s}", UPSTREAM, CONTEXT, QUESTION)
        used = sum(cpu_seconds(pid) for pid in pids) - before
        seconds, calls, wrong = answer.split()
        return _window(int(calls), int(wrong), float(seconds), used)

    async def _their_window(self, window_s: int) -> Window:
        before = cpu_seconds(self.proxy.pid)
        done = await self.client.call(
            "chat", port=self.proxy.port, key=KEY, model=MODEL, in_flight=IN_FLIGHT, window_s=window_s
        )
        used = cpu_seconds(self.proxy.pid) - before
        return _window(done["calls"], done["wrong"], done["seconds"], used)


def _window(calls: int, wrong: int, seconds: float, cpu_s: float) -> Window:
    if wrong or not calls:
        raise WrongAnswer(f"expected calls without a wrong reply, found {calls} of which {wrong} are wrong")
    return Window(calls=calls, per_second=calls / seconds, cpu_ms=milliseconds(cpu_s) / calls)
