"""What can be asked of the launcher, and what it answers. Closed: unknown fields, other types and strange values are
refused before anything is done.

One request a connection, one reply; `start` and `attach` answer `started` and keep the connection as a *lease*: when
the sandbox ends the launcher sends `ended`, and when the caller goes away the launcher ends the sandbox.

A sandbox belongs to the owner that started it, who is known by a key of its own. To everybody else it is not there:
nothing that names it, but `reap` once its owner is dead, is answered differently than for a sandbox that never was.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MAX_LINE_BYTES = 64 << 10
LONGEST_LIFE_S = 7 * 24 * 3600

Runtime = Literal["runc", "runsc"]
SandboxName = Annotated[str, Field(pattern=r"^sbx_[0-9a-f]{32}$")]
OwnerKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
"""256 random bits that one owner of sandboxes makes up and shows to nobody but the launcher, which keeps a digest."""
ImageName = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9_./:@-]{0,255}$")]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StartRequest(_Closed):
    """Everything that may differ between two sandboxes. The session directory follows from the id."""

    op: Literal["start"] = "start"
    sandbox_id: SandboxName
    owner_key: OwnerKey
    image: ImageName
    """One of those that the launcher was started with."""
    runtime: Runtime
    memory_bytes: int = Field(ge=32 << 20, le=1 << 44)
    tmp_bytes: int = Field(ge=1 << 20, le=1 << 40)
    processes: int = Field(ge=1, le=4096)
    open_files: int = Field(ge=16, le=65536)
    file_bytes: int = Field(ge=0, le=1 << 40)
    hash_seed: int = Field(ge=0, lt=1 << 32)
    life_s: int = Field(ge=1, le=LONGEST_LIFE_S)
    """No sandbox lives longer than this, whatever anybody does."""


class _OfSandbox(_Closed):
    sandbox_id: SandboxName
    owner_key: OwnerKey


class AttachRequest(_OfSandbox):
    """Hold the lease of a sandbox that runs already: after the launcher was started anew."""

    op: Literal["attach"] = "attach"


class KillRequest(_OfSandbox):
    """End it; `done` when its owner has it no more, also if it was gone already."""

    op: Literal["kill"] = "kill"


class PauseRequest(_OfSandbox):
    op: Literal["pause"] = "pause"


class UnpauseRequest(_OfSandbox):
    op: Literal["unpause"] = "unpause"


class StatsRequest(_OfSandbox):
    op: Literal["stats"] = "stats"


class ReapRequest(_Closed):
    """End what a dead owner left; `done` when it is gone. Whether its owner is dead, the launcher sees for itself."""

    op: Literal["reap"] = "reap"
    sandbox_id: SandboxName


class CapabilitiesRequest(_Closed):
    op: Literal["capabilities"] = "capabilities"


Request = Annotated[
    StartRequest
    | AttachRequest
    | KillRequest
    | PauseRequest
    | UnpauseRequest
    | StatsRequest
    | ReapRequest
    | CapabilitiesRequest,
    Field(discriminator="op"),
]


class StartedReply(_Closed):
    kind: Literal["started"] = "started"
    pid: int
    """Of the first process inside, as this machine counts."""


class EndedReply(_Closed):
    kind: Literal["ended"] = "ended"
    exit_status: int


class DoneReply(_Closed):
    kind: Literal["done"] = "done"


class StatsReply(_Closed):
    """Measured by the engine, not told by the sandbox."""

    kind: Literal["stats"] = "stats"
    memory_bytes: int
    """The mapped pages of contexts among them."""
    memory_peak_bytes: int
    """The most so far; where the engine keeps no such figure (cgroup v2), what it is now."""
    cpu_s: float
    processes: int


class OfferedImage(_Closed):
    name: str
    present: bool
    protocol: str = ""
    """Which wire format it was made for and from what sources, by its labels; empty where it does not say."""
    sources: str = ""


class CapabilitiesReply(_Closed):
    kind: Literal["capabilities"] = "capabilities"
    engine_version: str
    runtimes: list[str]
    """All that the engine has, by name."""
    seccomp: bool
    images: list[OfferedImage]


class RefusedReply(_Closed):
    """`unusable`: the request. `refused`: this machine cannot, the message says what to do. `failed`: it should have
    worked."""

    kind: Literal["refused_reply"] = "refused_reply"
    why: Literal["unusable", "refused", "failed"]
    message: str


Reply = Annotated[
    StartedReply | EndedReply | DoneReply | StatsReply | CapabilitiesReply | RefusedReply,
    Field(discriminator="kind"),
]

REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
