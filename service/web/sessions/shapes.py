"""What sessions, cells, variables and files look like on their way in and out."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from sandbox_image.protocol import MAX_CODE_BYTES
from service.errors import BadRequest
from service.ids import ContextId
from service.loop.values import CapturedText, CellResult, CellStatus, ContextBinding, StopReason
from service.money import NanoUSD, parse_usd
from service.runs.session_use.values import (
    MAX_METADATA,
    MAX_METADATA_KEY_CHARS,
    MAX_METADATA_VALUE_CHARS,
    MAX_NAME_CHARS,
    CellAsked,
    CellDone,
    SessionChange,
    SessionState,
    SessionView,
)
from service.runs.submission.first_event import MAX_CONTEXTS
from service.runs.values import LIMIT_RANGES
from service.tenants.values import Caller
from service.web.runs.shapes import GivenContext, ModelName
from service.web.shapes import Money, Shape, Shown, UsdText, example, money

Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_METADATA_KEY_CHARS)],
        Annotated[str, StringConstraints(max_length=MAX_METADATA_VALUE_CHARS)],
    ],
    Field(max_length=MAX_METADATA),
]

EXAMPLE_OF_SESSION: dict[str, Any] = {
    "session_id": "ses_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "name": "notebook",
    "metadata": {"team": "claims"},
    "state": "idle",
    "sub_model": "openai/gpt-5-nano",
    "budget": {"usd": "5.00", "nano_usd": 5_000_000_000},
    "run_id": None,
    "generation": 1,
    "isolation": None,
    "created_at": 1763640000.0,
    "closed_at": None,
}
EXAMPLE_OF_FILES: dict[str, Any] = {"files": [{"path": "out/table.csv", "size_bytes": 4}], "is_complete": True}


class SessionGiven(Shape):
    """A session to be opened, or what is to be different about one. What is left out, or null, stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "notebook", "metadata": {"team": "claims"}, "sub_model": "openai/gpt-5-nano"}]
        }
    )

    name: Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)] | None = None
    metadata: Metadata | None = Field(default=None, description="Replaces what there is, whole.")
    budget_usd: UsdText | None = Field(default=None, description="Decimal USD, for everything done in the session.")
    sub_model: ModelName | None = Field(default=None, description="What `llm_query` in direct cells calls.")

    def change(self) -> SessionChange:
        """Raises `BadRequest` for an amount that cannot be one."""
        return SessionChange(
            name=self.name,
            metadata=self.metadata,
            budget=_usd(self.budget_usd, "budget_usd"),
            sub_model=self.sub_model,
        )


class ShownSession(Shown):
    """A session as it stands."""

    model_config = example(EXAMPLE_OF_SESSION)

    session_id: str
    name: str
    metadata: dict[str, str]
    state: SessionState = Field(
        description="`idle`: without a sandbox; the next use brings one up with everything in it. `ready`: its sandbox "
        "waits. `busy`: a run is in it."
    )
    sub_model: str | None
    budget: Money | None
    run_id: str | None = Field(description="The run that is in it.")
    generation: int = Field(description="How many sandboxes it has had.")
    isolation: str | None = Field(description="In force in its sandbox (`docker/runsc`); null while it has none.")
    created_at: float
    closed_at: float | None


class SessionPage(Shown):
    """Sessions, newest first."""

    model_config = example({"sessions": [EXAMPLE_OF_SESSION], "next_cursor": None})

    sessions: list[ShownSession]
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


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
    sub_model: ModelName | None = Field(default=None, description="The session's if left out.")
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
            cost=_usd(self.cost_usd, "cost_usd"),
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
    message: str
    active_s: float
    wall_s: float
    spent: Money


class ShownVariable(Shown):
    """A variable that cells or callers made."""

    name: str
    type: str
    size: int | None = Field(description="`len()`, where the type has one.")


class Variables(Shown):
    """At most 200, by name."""

    model_config = example({"variables": [{"name": "x", "type": "int", "size": None}]})

    variables: list[ShownVariable]


class ShownFile(Shown):
    """A regular file of the working directory."""

    path: str
    size_bytes: int


class Files(Shown):
    """At most 1000, by path."""

    model_config = example(EXAMPLE_OF_FILES)

    files: list[ShownFile]
    is_complete: bool = Field(description="False: there are more, or some whose names no path can say.")


class StoredFile(Shown):
    """A file that was put."""

    model_config = example(
        {
            "path": "out/table.csv",
            "size_bytes": 4,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    )

    path: str
    size_bytes: int
    sha256: str


class PrintedShown(Shown):
    """Data of an event `stdout` or `stderr`."""

    text: str
    missed_bytes: int = Field(description="How much before it came faster than it was read, and was not kept.")


class ElsewhereShown(Shown):
    """Data of an event `elsewhere`."""

    message: str


def shown_session(view: SessionView) -> ShownSession:
    return ShownSession(
        session_id=view.session_id,
        name=view.name,
        metadata=dict(view.metadata),
        state=view.state,
        sub_model=view.sub_model,
        budget=None if view.budget is None else money(view.budget),
        run_id=view.run_id,
        generation=view.generation,
        isolation=view.isolation,
        created_at=view.created_at,
        closed_at=view.closed_at,
    )


def shown_cell(done: CellDone) -> ShownCell:
    result = done.result
    return ShownCell(
        run_id=done.run_id,
        stop_reason=done.stop_reason,
        status=None if result is None else result.status,
        stdout=_output(None if result is None else result.stdout),
        stderr=_output(None if result is None else result.stderr),
        raised=_raised(result),
        variables=[] if result is None else list(result.variables),
        namespace_lost=result is not None and result.namespace_lost,
        message=done.message or ("" if result is None else result.detail),
        active_s=0.0 if result is None else result.active_s,
        wall_s=0.0 if result is None else result.wall_s,
        spent=money(done.spent),
    )


def _output(captured: CapturedText | None) -> ShownOutput:
    if captured is None:
        return ShownOutput(head="", tail="", size_bytes=0)
    return ShownOutput(head=captured.head, tail=captured.tail, size_bytes=captured.size_bytes)


def _raised(result: CellResult | None) -> ShownRaised | None:
    if result is None or result.raised is None:
        return None
    raised = result.raised
    return ShownRaised(type=raised.type_name, message=raised.message, traceback=raised.traceback)


def _usd(text: str | None, where: str) -> NanoUSD | None:
    try:
        return None if text is None else parse_usd(text)
    except ValueError as error:
        raise BadRequest(f"{where}: {error}", data={"param": where}) from None


ValueForm = Literal["text", "json"]
