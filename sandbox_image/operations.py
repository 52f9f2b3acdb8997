"""What a host can have done to the kernel of this sandbox: claim, bind, run a cell, read a value, restart.

One operation at a time; whoever comes second is told `busy`. The thread that brings a request drives the kernel until
the answer is there.
"""

import platform
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from .cell_book import CellBook, Verdict
from .cell_run import CellRun, Printed, describe_loss, describe_stop, status_of
from .clock import ActiveClock, Limits
from .decoding import NotThatShape, decode_value, learn_shape, parse_json
from .file_watch import make_new
from .frames import Frame
from .hang_up import HangUp
from .host_calls import HostCalls, OpenCell
from .http_stream import encode_json
from .kernel_birth import KernelBirth, KernelTerms
from .kernel_exit import KernelLost
from .kernel_life import KernelLife, Request
from .kernel_messages import CellOutcome, ValueOutcome, bound_outcome, bound_variables
from .kernel_seat import KernelSeat
from .protocol import (
    MAX_CODE_BYTES,
    BindReply,
    BindRequest,
    CellReply,
    CellRequest,
    ClaimReply,
    ClaimRequest,
    ErrorCode,
    ErrorReply,
    GrantRequest,
    InterruptRequest,
    OutputReply,
    StatsReply,
    VariablesReply,
)
from .request_checks import Refused, check_bindings, check_claim, check_grant, is_digest
from .value_stream import ValueStream
from .zygote import Zygote, ZygoteLost

_MAY_FAIL_WITH: dict[str, frozenset[ErrorCode]] = {
    "cell": frozenset(),
    "bind": frozenset({ErrorCode.BAD_REQUEST, ErrorCode.NOT_FOUND, ErrorCode.TOO_LARGE, ErrorCode.INTERNAL}),
    "variables": frozenset({ErrorCode.INTERNAL}),
    "value": frozenset({ErrorCode.NOT_FOUND, ErrorCode.TOO_LARGE, ErrorCode.UNSERIALISABLE}),
}
"""What a kernel may answer instead of a result. The other codes are the supervisor's own to give."""
_BIND_LIMITS = Limits(active_s=600.0, wall_s=600.0, grace_s=5.0)
_VALUE_LIMITS = Limits(active_s=300.0, wall_s=300.0, grace_s=5.0)
_VARIABLES_LIMITS = Limits(active_s=5.0, wall_s=5.0, grace_s=2.0)
"""Within what a host waits for: a kernel that does not answer is ended, and not its sandbox."""
_RESTART_PATIENCE_S = 30.0
_HANDOVER_PATIENCE_S = 2.0
"""An answer may be on its way to the host a moment before its thread has let go of the kernel."""
_MAX_LIMIT_S = 10_000_000
_THREADS_BESIDE_KERNEL = 96
"""Of the sandbox's own, which a limit on the uid's processes counts too. What a container allows is above it by as many
threads as host calls may have, so those can be started whatever the kernel has taken."""

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Where the sandbox stands: what its command line said and what was put in force."""

    gateway_socket: str
    contexts_directory: str
    tmp_directory: str
    has_own_tmp: bool
    """Whether that is this sandbox's alone, and so may be emptied."""
    confined: bool
    confinement: list[str]
    tasks_beside: int | None
    """How many tasks of others a limit on processes (RLIMIT_NPROC) has to leave room for; None when unknown."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the session that owns this sandbox asked for."""

    generation: int
    terms: KernelTerms


class KernelOperations:
    """Owns the kernel (in its seat), the record of its cells, and who pays for its host calls."""

    def __init__(self, station: Station, zygote: Zygote) -> None:
        self._station = station
        self._claim: Claim | None = None
        self._host_calls = HostCalls(station.gateway_socket)
        birth = KernelBirth(
            contexts_directory=station.contexts_directory,
            tmp_directory=station.tmp_directory,
            confined=station.confined,
        )
        self._seat = KernelSeat(zygote, birth, self._host_calls)
        self._book = CellBook()
        self._printed: Printed | None = None
        self._cells = 0
        self._interrupt_lock = threading.Lock()  # keeps `_interrupted_cell` the one that is running, or None
        self._interrupted_cell: str | None = None

    def stand_by(self) -> None:
        """Have a kernel ready before anybody claims the sandbox. One that does not come up is tried again then.

        Raises:
            ZygoteLost: no kernel can come up any more.
        """
        for shape in (ClaimRequest, CellRequest, CellOutcome, BindReply):
            learn_shape(shape)
        self._seat.stand_by()

    def claim(self, request: ClaimRequest, hang_up: HangUp) -> ClaimReply:
        """The claim stands also where its bindings are refused."""
        confinement = self._take_claim(request)
        bound, refused = None, None
        if request.bind is not None:
            try:
                bound = self.bind(request.bind, hang_up)
            except Refused as error:
                refused = error.reply
        return ClaimReply(python=platform.python_version(), confinement=confinement, bound=bound, refused=refused)

    def _take_claim(self, request: ClaimRequest) -> list[str]:
        """What is in force."""
        check_claim(request)
        if not self._seat.acquire(0.0):
            raise Refused(ErrorCode.BUSY, "the sandbox is being claimed")
        try:
            if self._claim is not None:
                raise Refused(ErrorCode.ALREADY_CLAIMED, f"claimed as generation {self._claim.generation}")
            terms = self._terms(request)
            try:
                life = self._seat.begin(terms)
            except KernelLost as error:
                raise Refused(ErrorCode.KERNEL_LOST, str(error)) from None
            self._host_calls.replace_grant(request.grant)
            self._claim = Claim(request.generation, terms)
            return [*self._station.confinement, *life.confinement]
        finally:
            self._seat.release()

    def _terms(self, request: ClaimRequest) -> KernelTerms:
        beside = self._station.tasks_beside
        return KernelTerms(
            memory_bytes=request.memory_bytes,
            processes=None if beside is None else request.processes + _THREADS_BESIDE_KERNEL + beside,
            file_bytes=request.file_bytes,
            random_seed=request.random_seed,
        )

    def check_generation(self, generation: str | None) -> None:
        if self._claim is None:
            raise Refused(ErrorCode.NOT_CLAIMED, "the sandbox has not been claimed")
        claimed = self._claim.generation
        if generation != str(claimed):
            raise Refused(ErrorCode.STALE_GENERATION, f"this sandbox is of generation {claimed}")

    def replace_grant(self, request: GrantRequest) -> None:
        check_grant(request.grant)
        self._host_calls.replace_grant(request.grant)

    def stats(self) -> StatsReply:
        return StatsReply(
            kernel_lives=self._seat.lives,
            running_cell=self._book.running,
            host_calls_in_flight=self._host_calls.in_flight,
        )

    def bind(self, request: BindRequest, hang_up: HangUp) -> BindReply:
        check_bindings(request)
        reply = self._ask(
            self._take_kernel(), BindReply, {"do": "bind"}, (encode_json(asdict(request)), _BIND_LIMITS), hang_up
        )
        return BindReply(variables=bound_variables(reply.variables))

    def list_variables(self, hang_up: HangUp) -> VariablesReply:
        reply = self._ask(
            self._take_known_kernel(), VariablesReply, {"do": "variables"}, (b"", _VARIABLES_LIMITS), hang_up
        )
        return VariablesReply(variables=bound_variables(reply.variables))

    def open_value(self, name: str, form: str, limit: int, hang_up: HangUp) -> ValueStream:
        """The caller must `close` what it gets: until then the kernel is busy sending."""
        life = self._take_known_kernel()
        header = {"do": "value", "name": name, "as": form, "limit": limit}
        try:
            request = Request(header, b"", _VALUE_LIMITS, life.new_clock())
            outcome = self._decode_answer(ValueOutcome, "value", self._converse(life, request, hang_up))
            if not 0 <= outcome.size_bytes <= limit or not is_digest(outcome.sha256):
                raise life.bury("the kernel broke the protocol: an impossible value")
        except KernelLost as error:
            self._seat.release()
            raise Refused(ErrorCode.KERNEL_LOST, str(error)) from None
        except BaseException:
            self._seat.release()
            raise
        return ValueStream(life, outcome, self._seat.release)

    def run_cell(self, cell_id: str, request: CellRequest, hang_up: HangUp) -> bytes:
        """The encoded `CellReply`, from running it or from having run it."""
        code = request.code.encode("utf-8", "surrogatepass")
        if len(code) > MAX_CODE_BYTES:
            raise Refused(ErrorCode.TOO_LARGE, f"a cell may have {MAX_CODE_BYTES} bytes, this one has {len(code)}")
        limits = Limits(active_s=request.active_limit_s, wall_s=request.wall_limit_s, grace_s=request.grace_s)
        if not all(0 < limit <= _MAX_LIMIT_S for limit in (limits.active_s, limits.wall_s, limits.grace_s)):
            raise Refused(ErrorCode.BAD_REQUEST, "the limits of a cell must be positive numbers of seconds")
        if self._book.begin(cell_id, request.acknowledges).verdict is not Verdict.RUN:
            return self.await_cell(cell_id, hang_up)
        if not self._seat.acquire(_HANDOVER_PATIENCE_S):
            self._let_go_of_cell(cell_id)
            raise Refused(ErrorCode.BUSY, "the kernel is busy with another request")
        reported = False
        try:
            reply = self._run(CellRun(cell_id, code, request.answer_as, limits), hang_up)
            encoded = encode_json(asdict(reply))
            with self._interrupt_lock:
                self._book.finish(cell_id, encoded, namespace_lost=reply.namespace_lost)
            reported = True
        except ZygoteLost:
            raise
        except Exception as error:
            self._lose_kernel(error)  # else the cell could run in it twice
            raise
        finally:
            self._let_go_of_cell(cell_id)
            self._seat.release(reported=reported)
        return encoded

    def _let_go_of_cell(self, cell_id: str) -> None:
        """The next one may have been asked for, and interrupted, before this one's thread comes here."""
        with self._interrupt_lock:
            self._book.withdraw(cell_id)  # only if it did not finish
            if self._interrupted_cell == cell_id:
                self._interrupted_cell = None

    def await_cell(self, cell_id: str, hang_up: HangUp) -> bytes:
        """The result of a cell that has run or is running."""
        while True:
            looked = self._book.look(cell_id)
            match looked.verdict:
                case Verdict.KEPT:
                    return looked.result
                case Verdict.WAIT:
                    if not self._book.wait(cell_id, 0.5):
                        hang_up.check()
                case Verdict.FORGOTTEN:
                    raise Refused(ErrorCode.NOT_FOUND, "this cell has run and its result was acknowledged")
                case Verdict.BUSY:
                    raise Refused(ErrorCode.BUSY, "another cell is running")
                case Verdict.RUN:
                    raise Refused(ErrorCode.NOT_FOUND, "no such cell has run here")

    def output(self, cell_id: str, stdout_from: int, stderr_from: int) -> OutputReply:
        """What the cell has printed from these bytes on; never waits. Of the running cell, or the one that ran last."""
        printed = self._printed
        if printed is None or printed.cell_id != cell_id:
            raise Refused(ErrorCode.NOT_FOUND, "this cell neither runs nor was the last that did")
        is_over = self._book.running != cell_id  # looked at first: what is read after the end is all there will be
        return OutputReply(
            stdout=printed.stdout.piece(stdout_from), stderr=printed.stderr.piece(stderr_from), is_over=is_over
        )

    def interrupt(self, request: InterruptRequest) -> None:
        """The thread that drives the cell sends the signal, so that it cannot strike a later one."""
        with self._interrupt_lock:
            if self._book.running == request.cell_id:
                self._interrupted_cell = request.cell_id
                self._seat.waker.wake()

    def restart(self, *, empties_files: bool = False) -> None:
        """Also ends what is running: a cell's result is `killed`. With `empties_files` the next kernel finds the places
        that cells may write to as the first one did."""
        if not self._seat.clear("it was restarted", _RESTART_PATIENCE_S):
            raise Refused(ErrorCode.BUSY, "the kernel could not be stopped in time")
        try:
            self._book.start_life()
            if empties_files and not (self._station.has_own_tmp and make_new(self._station.tmp_directory)):
                raise Refused(ErrorCode.INTERNAL, "its working directory could not be emptied")
        finally:
            self._seat.release(reported=True)

    def look_at_idle_kernel(self) -> None:
        """To be called now and then, by a thread that has nothing else to do. Raises `ZygoteLost`."""
        self._seat.look_at_idle()

    def _run(self, cell: CellRun, hang_up: HangUp) -> CellReply:
        life = self._seat.life
        self._printed = Printed(cell.cell_id, life.stdout.ring, life.stderr.ring)
        life.begin_ladder()  # what stopped an earlier request must not be told of this one
        clock = life.new_clock()
        try:
            if self._seat.unreported_loss is not None:
                raise KernelLost(f"{self._seat.unreported_loss}, between cells; this cell was not run")
            life.check_alive()
            outcome, how = self._run_in(life, cell, clock, hang_up)
            detail, lost = how, False
        except KernelLost as error:
            outcome, lost = None, True
            detail = describe_loss(life.ladder_reason, cell.limits) or str(error)
        finally:
            self._host_calls.close_cell()
        if not lost:
            for pipe in (life.stdout, life.stderr):
                pipe.drain_what_is_written()
        wall_s, active_s, cpu_s = clock.wall_s(), clock.active_s(), clock.cpu_s()
        return CellReply(
            cell_id=cell.cell_id,
            status=status_of(outcome, life.ladder_reason),
            stdout=life.stdout.take_ring().captured(),
            stderr=life.stderr.take_ring().captured(),
            raised=outcome.raised if outcome else None,
            variables=outcome.variables if outcome else [],
            answer=outcome.answer if outcome else None,
            namespace_lost=lost,
            detail=detail,
            wall_s=wall_s,
            active_s=active_s,
            cpu_s=cpu_s,
        )

    def _run_in(self, life: KernelLife, cell: CellRun, clock: ActiveClock, hang_up: HangUp) -> tuple[CellOutcome, str]:
        self._cells += 1
        self._host_calls.open_cell(
            OpenCell(
                cell_id=cell.cell_id,
                number=self._cells,
                deadline=time.monotonic() + cell.limits.wall_s + cell.limits.grace_s,
                begin_wait=clock.begin_wait,
                end_wait=clock.end_wait,
            )
        )
        header = {"do": "cell", "number": self._cells, "answer_as": cell.answer_as}
        frame = self._converse(life, Request(header, cell.code, cell.limits, clock), hang_up, cell.cell_id)
        outcome = bound_outcome(self._decode_answer(CellOutcome, "cell", frame))
        if (outcome.status == "raised") != (outcome.raised is not None):
            raise life.bury("the kernel broke the protocol: an impossible outcome")
        reason = life.ladder_reason
        return outcome, "" if reason is None or outcome.status == "ok" else describe_stop(reason, cell.limits)

    def _converse(self, life: KernelLife, request: Request, hang_up: HangUp, cell_id: str | None = None) -> Frame:
        """What fails unforeseen costs the kernel its life: its answer could come later, to somebody else's request."""
        try:
            return life.ask(
                request,
                asked_to_stop=lambda: cell_id is not None and self._interrupted_cell == cell_id,
                host_calls=self._host_calls,
                hang_up=hang_up,
            )
        except (KernelLost, ZygoteLost):
            raise
        except Exception as error:
            raise self._lose_kernel(error) from error

    def _lose_kernel(self, error: Exception) -> KernelLost:
        return self._seat.life.bury(f"the interpreter was ended: the sandbox failed beside it ({type(error).__name__})")

    def _take_known_kernel(self) -> KernelLife:
        """One that has the variables which the host thinks it has."""
        life = self._take_kernel()
        if (loss := self._seat.unreported_loss) is not None:
            self._seat.release()
            raise Refused(ErrorCode.KERNEL_LOST, loss)
        return life

    def _ask(
        self, life: KernelLife, cls: type[Reply], header: dict[str, Any], sent: tuple[bytes, Limits], hang_up: HangUp
    ) -> Reply:
        """Of the kernel that was taken, which is released."""
        try:
            request = Request(header, *sent, life.new_clock())
            return self._decode_answer(cls, header["do"], self._converse(life, request, hang_up))
        except KernelLost as error:
            raise Refused(ErrorCode.KERNEL_LOST, str(error)) from None
        finally:
            self._seat.release()

    def _decode_answer(self, cls: type[Reply], asked: str, frame: Frame) -> Reply:
        """What the kernel answered to a request of this word, or its refusal; else the kernel is buried."""
        did = frame.header.get("did")
        try:
            if did == asked:
                return decode_value(cls, parse_json(frame.body))
            if did != "failed":
                raise NotThatShape(f"it was asked for {asked} and answered something else")
            failure = decode_value(ErrorReply, parse_json(frame.body))
            if failure.code not in _MAY_FAIL_WITH[asked]:
                raise NotThatShape(f"{asked} cannot fail with {failure.code}")
            raise Refused(failure.code, failure.message[:2000])
        except NotThatShape as error:
            raise self._seat.life.bury(f"the kernel broke the protocol: {error}") from None

    def _take_kernel(self) -> KernelLife:
        patience_s = _HANDOVER_PATIENCE_S if self._book.running is None else 0.0
        if not self._seat.acquire(patience_s):
            raise Refused(ErrorCode.BUSY, "the kernel is busy with another request")
        try:
            return self._seat.living()
        except KernelLost as error:
            self._seat.release()
            raise Refused(ErrorCode.KERNEL_LOST, str(error)) from None
