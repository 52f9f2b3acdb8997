"""What cells that are run in a session directly look like on their way in and out."""

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from sandbox_image.protocol import MAX_CODE_BYTES
from service.ids import ContextId
from service.loop.values import CapturedText, CellResult, CellStatus, ContextBinding, StopReason
from service.runs.session_use.values import CellAsked, CellDone
from service.runs.submission.first_event import MAX_CONTEXTS
from service.runs.values import LIMIT_RANGES
from service.tenants.values import Caller
from service.web.runs.shapes import GivenContext, ModelName
from service.web.sessions.shapes import usd_of
from service.web.shapes import Money, Shape, Shown, UsdText, example, money


class CellGiven(Shape):
    """Code to be run in the session."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"code": "x = 6 * 7\nx"},
                {"code": "len(context_0)", "contexts": [{"context_id": "ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"}]},
            ]
        }
    )

    code: Annotated[str, StringConstraints(max_length=MAX_CODE_BYTES)]
    wall_s: Annotated[float, Field(strict=False, ge=LIMIT_RANGES["wall_s"][0], le=LIMIT_RANGES["wall_s"][1])] = Field(
        default=300.0, description="Seconds for everything, the wait for the session included."
    )
    active_s: Annotated[
        float, Field(strict=False, ge=LIMIT_RANGES["cell_active_s"][0], le=LIMIT_RANGES["cell_active_s"][1])
    ] = Field(default=120.0, description="Seconds in which it waits for no model.")
    cost_usd: UsdText | None = Field(default="1.00", description="For the sub-calls it makes.")
    sub_model: ModelName | None = Field(
        default=None, description="The session's if left out, or else the operator's default."
    )
    contexts: Annotated[list[GivenContext], Field(fail_fast=True, max_length=MAX_CONTEXTS)] = Field(
        default_factory=list, description="To be attached to the session first; they stay."
    )

    def asked(self, caller: Caller) -> CellAsked:
        """Raises `BadRequest` for an amount that cannot be one."""
        contexts = (ContextBinding(context_id=ContextId(c.context_id), variable=c.variable) for c in self.contexts)
        return CellAsked(
            code=self.code,
            wall_s=self.wall_s,
            active_s=self.active_s,
            cost=usd_of(self.cost_usd, "cost_usd"),
            sub_model=self.sub_model,
            contexts=tuple(contexts),
            key_id=caller.key.id,
            key_ancestors=caller.key.ancestors,
        )


class ShownOutput(Shown):
    """One stream of a cell: its beginning, and its end where the middle was too long to keep."""

    head: str
    tail: str
    size_bytes: int = Field(description="As really written.")


class ShownRaised(Shown):
    """What the code raised."""

    type: str
    message: str
    traceback: str


class ShownCell(Shown):
    """How a cell ended."""

    model_config = example(
        {
            "run_id": "run_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
            "stop_reason": "cell_done",
            "status": "ok",
            "stdout": {"head": "42\n", "tail": "", "size_bytes": 3},
            "stderr": {"head": "", "tail": "", "size_bytes": 0},
            "raised": None,
            "variables": ["x"],
            "namespace_lost": False,
            "missing": [],
            "diverged": [],
            "missing_files": [],
            "message": "",
            "active_s": 0.002,
            "wall_s": 0.003,
            "spent": {"usd": "0.00", "nano_usd": 0},
        }
    )

    run_id: str = Field(description="The direct cell's run: its events, its sub-calls, what it cost.")
    stop_reason: StopReason
    status: CellStatus | None = Field(description="Null where the cell never ran; `message` says why.")
    stdout: ShownOutput
    stderr: ShownOutput
    raised: ShownRaised | None
    variables: list[str] = Field(description="What it bound or rebound.")
    namespace_lost: bool = Field(description="The interpreter ended; the session was rebuilt without this cell.")
    missing: list[str] = Field(description="Variables that a rebuild of the session could not bring back.")
    diverged: list[str] = Field(
        description="Earlier cells that did not end as they had when the rebuild ran them again."
    )
    missing_files: list[str] = Field(description="Files that had been put there and could not be put back.")
    message: str = Field(description="Why it ended as it did, and what a rebuild could not bring back.")
    active_s: float
    wall_s: float
    spent: Money


class PrintedShown(Shown):
    """Data of an event `stdout` or `stderr`."""

    text: str
    missed_bytes: int = Field(description="How much before it came faster than it was read, and was not kept.")


class ElsewhereShown(Shown):
    """Data of an event `elsewhere`."""

    message: str


def shown_cell(done: CellDone) -> ShownCell:
    result, rebuilt = done.result, done.rebuilt
    return ShownCell(
        run_id=done.run_id,
        stop_reason=done.stop_reason,
        status=None if result is None else result.status,
        stdout=_output(None if result is None else result.stdout),
        stderr=_output(None if result is None else result.stderr),
        raised=_raised(result),
        variables=[] if result is None else list(result.variables),
        namespace_lost=result is not None and result.namespace_lost,
        missing=[] if rebuilt is None else list(rebuilt.missing),
        diverged=[] if rebuilt is None else list(rebuilt.diverged),
        missing_files=[] if rebuilt is None else list(rebuilt.missing_files),
        message=_message(done),
        active_s=0.0 if result is None else result.active_s,
        wall_s=0.0 if result is None else result.wall_s,
        spent=money(done.spent),
    )


def _message(done: CellDone) -> str:
    """With a sentence on what is gone; which exactly stands in fields of its own."""
    why = done.message or ("" if done.result is None else done.result.detail)
    rebuilt = done.rebuilt
    if rebuilt is None or not rebuilt.lost_something:
        return why
    counted = (
        (len(rebuilt.missing), "variables are missing"),
        (len(rebuilt.diverged), "earlier cells did not end as before"),
        (len(rebuilt.missing_files), "files could not be put back"),
    )
    lost = f"the session was rebuilt: {', '.join(f'{count} {what}' for count, what in counted if count)}"
    return f"{why}; {lost}" if why else lost


def _output(captured: CapturedText | None) -> ShownOutput:
    if captured is None:
        return ShownOutput(head="", tail="", size_bytes=0)
    return ShownOutput(head=captured.head, tail=captured.tail, size_bytes=captured.size_bytes)


def _raised(result: CellResult | None) -> ShownRaised | None:
    if result is None or result.raised is None:
        return None
    raised = result.raised
    return ShownRaised(type=raised.type_name, message=raised.message, traceback=raised.traceback)
