"""The last word: what is written into the journal of a run whose driver broke off."""

import contextlib
from dataclasses import replace

import anyio
import structlog

from service.errors import NotFound, RlmServiceError
from service.ids import CallId, RunId
from service.journal.values import Recorded, RunAbsent, RunAlreadyFinished, RunKept
from service.loop.commands import Finish
from service.loop.events import RunFinished
from service.loop.machine import decide
from service.loop.values import AnswerSource, StopReason
from service.money import NanoUSD
from service.runs.calls.purse import run_account
from service.runs.driving.folding import folded
from service.runs.driving.wrap_up import is_wrap_up, wrap_up_hold_id
from service.runs.holdings.holdings import count_answer
from service.runs.recovery.settling import Settles
from service.runs.rooms import RunsRooms
from service.sandboxes.port import NoSandboxSlot, SandboxGone, SandboxRefused, SandboxStartFailed
from service.store.errors import BlobMissing, StaleEpoch, StoreFailed
from service.store.fences import NO_FENCE, Fence
from service.tenants.errors import TenantSuspended

LAST_WORD_S = 5.0
TRY_AGAIN_AFTER_S = 0.5

log = structlog.get_logger(__name__)


async def say_last_word(rooms: RunsRooms, run_id: RunId, failure: BaseException | None, within: Fence | None) -> bool:
    """End the run in its journal, if the store lets us within `LAST_WORD_S`; otherwise it stays unfinished. Whether it
    has ended, by this or before, or is not there any more.

    `failure` is None for a run that nobody wants any more; a cancellation counts as that too. `within` is what fences
    a child run, None for a root run. Nothing is written for a run that another replica has taken over. It raises
    nothing: what broke the run off may well break its last word off, too, and must not end the other runs.
    """
    reason, message = _reason(failure)
    if reason not in (StopReason.CANCELLED, StopReason.SUSPENDED):
        log.error("run_broke_off", run_id=run_id, stop_reason=reason.value, exc_info=failure)
    with anyio.move_on_after(LAST_WORD_S, shield=True):
        while True:
            try:
                await _append(rooms, run_id, reason, message, within)
            except StoreFailed:
                await anyio.sleep(TRY_AGAIN_AFTER_S)
                continue
            except (RunAlreadyFinished, RunAbsent):
                return True  # it has said its last word itself, perhaps long ago
            except (StaleEpoch, RunKept):
                log.info("run_lost", run_id=run_id)
            except RlmServiceError as exc:
                log.warning("last_word_refused", run_id=run_id, code=exc.code)
            except Exception:  # a boundary, like the one around the run itself
                log.exception("last_word_broke_off", run_id=run_id)
            else:
                return True
            return False
    return False


def _reason(failure: BaseException | None) -> tuple[StopReason, str]:
    match failure:
        case TenantSuspended():
            return StopReason.SUSPENDED, str(failure)
        case StoreFailed():
            return StopReason.STORE_FAILED, str(failure)
        case SandboxRefused() | SandboxStartFailed() | SandboxGone() | NoSandboxSlot():
            return StopReason.SANDBOX_LOST, str(failure)
        case RlmServiceError():
            return StopReason.INTERNAL_ERROR, str(failure)
        case Exception():
            return StopReason.INTERNAL_ERROR, "a defect of the service ended this run; its log has the details"
        case _:
            return StopReason.CANCELLED, ""


async def _append(rooms: RunsRooms, run_id: RunId, reason: StopReason, message: str, within: Fence | None) -> None:
    # A new epoch, because nobody here knows what has become of the last append under the old one.
    if within is None:
        epoch = (await rooms.journal.claim(run_id, rooms.leases.replica, for_s=rooms.leases.for_s)).epoch
        fence = rooms.journal.fence(run_id, epoch)
    else:
        epoch, fence = await rooms.journal.take_over(run_id, within=within), within
    state = folded(run_id, await _history(rooms, run_id))
    due = None if state is None else decide(state)
    await _resolve_holds(rooms, run_id, epoch, fence, wrap_up_is_unused=state is not None and not is_wrap_up(due))
    (balance,) = await rooms.ledger.balances([run_account(run_id)])
    finished = RunFinished(
        at=rooms.now(),
        stop_reason=reason,
        answer_source=AnswerSource.PARTIAL,
        answer=None if state is None else state.partial,
        spent=NanoUSD(balance.spent),
        message=message,
    )
    if isinstance(due, Finish):
        # The run had its answer and was about to end: what broke off then does not take the answer away.
        answer = due.answer
        if due.answer_text is not None:
            answer = await rooms.blobs.put(due.answer_text.encode("utf-8", "backslashreplace"))
        finished = replace(finished, stop_reason=due.stop_reason, answer_source=due.answer_source, answer=answer)
    if state is not None and finished.answer is not None:
        await count_answer(rooms, state.submitted, finished.answer)
    await rooms.journal.append(run_id, epoch, finished, within=within or NO_FENCE)


async def _history(rooms: RunsRooms, run_id: RunId) -> list[Recorded]:
    """What the run has done so far; nothing where a blob of its journal is gone: it ends without an answer then."""
    try:
        return await rooms.events_of(run_id)
    except BlobMissing as exc:
        log.error("journal_incomplete", run_id=run_id, why=str(exc))
        return []


async def _resolve_holds(rooms: RunsRooms, run_id: RunId, epoch: int, fence: Fence, *, wrap_up_is_unused: bool) -> None:
    """Nothing of the run is in flight any more: a hold that is left is of a call whose end could not be journalled, and
    which may have been billed."""
    unused = frozenset({wrap_up_hold_id(run_id)}) if wrap_up_is_unused else frozenset[CallId]()
    settles = Settles(rooms.journal, rooms.ledger, rooms.metered)
    await settles.settle(await settles.left_open(run_id, unused=unused, at=rooms.now()), run_id, epoch, fence)
    for call_id in unused:
        with contextlib.suppress(NotFound):
            await rooms.ledger.release([call_id], within=fence)
