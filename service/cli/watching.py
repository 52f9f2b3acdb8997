"""Follow a run on a screen to its end. Ctrl-C cancels the run and still waits for what it has."""

import signal
from dataclasses import dataclass

import anyio

from service.cli.lines import Line, Style
from service.cli.progress import Progress, advance, status_line
from service.cli.screen import Screen
from service.ids import RunId
from service.loop.events import RunFinished
from service.runs.runs import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was seen. `finished` is None when the person left before the run ended."""

    finished: RunFinished | None


async def watch(runs: Runs, run_id: RunId, screen: Screen, *, show_code: bool, may_cancel: bool) -> Watched:
    """Show a run from its first event. `may_cancel`: whether Ctrl-C cancels it, or only stops looking."""
    progress = Progress(show_code=show_code)
    finished: RunFinished | None = None
    async with anyio.create_task_group() as tasks:
        if may_cancel:
            tasks.start_soon(_cancel_on_interrupt, runs, run_id, screen, tasks.cancel_scope)
        async for recorded in runs.follow(run_id):
            progress, lines = advance(progress, recorded.event)
            if isinstance(recorded.event, RunFinished):
                screen.tell(lines)
            else:
                screen.show(lines)
            screen.update(status_line(progress))
            if isinstance(recorded.event, RunFinished):
                finished = recorded.event
        tasks.cancel_scope.cancel()
    return Watched(finished=finished)


async def _cancel_on_interrupt(runs: Runs, run_id: RunId, screen: Screen, watching: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
        pressed = 0
        async for _ in interrupts:
            pressed += 1
            if pressed > 1:
                watching.cancel()
                return
            screen.show([Line("cancelling; Ctrl-C again leaves at once", Style.WARNING)])
            await runs.cancel(run_id)
