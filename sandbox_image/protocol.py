"""The wire format between a sandbox and its host. Both sides import this module; nothing else is shared.

Connections
-----------
The sandbox dials `<session directory>/sandbox.sock`; the host never connects into a sandbox. On each dialled
stream both sides exchange one line of JSON each way, at most `MAX_PREFACE_BYTES`, and then the *host* speaks
HTTP/1.1 as the client and the sandbox answers as the server:

    sandbox → host   {"protocol": 1, "lane": "cells" | "control"}
    host → sandbox   {"secret": HEX}                 on the very first stream, before any cell has run
                     {"nonce": HEX}                  on every later one
    sandbox → host   {"proof": HEX}                  HMAC-SHA-256(secret, "rlm-dial" ‖ nonce), after a nonce only

Lane `cells` carries the one long request of a running cell, lane `control` everything else. The supervisor keeps
one idle stream dialled on each lane and redials when one closes.

Requests (host → sandbox). Bodies are JSON of the dataclasses below unless said otherwise, encoding is identity,
every request carries `GENERATION_HEADER` (answered 409 when it is not the claimed one; not needed before the claim).
An error is a status of 4xx or 5xx with an `ErrorReply`.

    POST /claim              ClaimRequest → ClaimReply     once; the kernel that stands by begins, and binds
    POST /grant              GrantRequest → {}             replaces the grant (a session's next run)
    POST /bind               BindRequest → BindReply       contexts and tools into the namespace
    PUT  /cells/{cell_id}    CellRequest → CellReply       runs it; the same id again never runs twice but waits
    GET  /cells/{cell_id}    → CellReply                   404 when unknown; waits while it runs
    POST /interrupt          InterruptRequest → {}         no effect when that cell is not running
    POST /restart            {} → {}                       a fresh kernel with an empty namespace
    GET  /variables          → VariablesReply
    GET  /values/{name}?as=text|json&limit=N → raw bytes   `answer` is the content of `answer`; headers TYPE_HEADER,
                                                           DIGEST_HEADER; 404 missing, 413 over the limit
    GET  /stats              → StatsReply
    GET  /cells/{cell_id}/output?stdout=N&stderr=N → OutputReply    what the running or the last cell has printed from
                                                           these bytes on; 404 before it has begun
    GET  /files              → FilesReply                  of the working directory
    GET  /files/content?path=P&offset=N&limit=N&mark=M → raw bytes  a piece of at most FILE_PIECE_BYTES; headers
                                                           MARK_HEADER, SIZE_HEADER; 409 when it is not of that mark
    PUT  /files              PutFileRequest → {}           copies what the host linked into `contexts/`
    POST /files/delete       DeleteFileRequest → {}

Host calls (sandbox → gateway), over `<session directory>/gateway.sock`, `Authorization: Bearer <grant>`:

    POST /host-calls         HostCallRequest → HostCallReply
"""

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypedDict

from .json_counts import count_values as count_values  # noqa: PLC0414 - both sides count before they decode

PROTOCOL_VERSION = 1

SANDBOX_SOCKET = "sandbox.sock"
GATEWAY_SOCKET = "gateway.sock"
CONTEXTS_DIRECTORY = "contexts"

MAX_PREFACE_BYTES = 1024
MAX_CONTROL_BODY_BYTES = 8 << 20
"""Of every JSON body in either direction on the dialled streams. Values travel as raw streams instead."""
MAX_HOST_CALL_BODY_BYTES = 64 << 20
MAX_HOST_CALL_VALUES = 100_000
"""Of a host call's JSON: strings, numbers, lists, objects. A text may be as long as the body."""
MAX_SCHEMA_CHARS = 64_000
MAX_HOST_CALL_REPLY_BYTES = 256 << 20
MAX_CODE_BYTES = 2 << 20
MAX_BATCH_ITEMS = 10_000
MAX_REPLY_VALUES = 20_000
"""Of every JSON body that a sandbox answers with; the longest is what 4096 bindings have bound."""

CAPTURE_HEAD_BYTES = 128 << 10
CAPTURE_TAIL_BYTES = 128 << 10
MAX_VARIABLES_REPORTED = 200
MAX_NAME_CHARS = 200
MAX_TRACEBACK_CHARS = 16_000

OUTPUT_PIECE_BYTES = 64 << 10
FILE_PIECE_BYTES = 1 << 20
MAX_FILES_LISTED = 1_000
MAX_PATH_BYTES = 1_024
MAX_PATH_PARTS = 32

GENERATION_HEADER = "x-rlm-generation"
TYPE_HEADER = "x-rlm-type"
DIGEST_HEADER = "x-rlm-sha256"
MARK_HEADER = "x-rlm-mark"
SIZE_HEADER = "x-rlm-size"

DIAL_PROOF_LABEL = b"rlm-dial"


class ErrorCode(StrEnum):
    """Everything a sandbox can answer instead of a result."""

    BAD_REQUEST = "bad_request"
    NOT_CLAIMED = "not_claimed"
    ALREADY_CLAIMED = "already_claimed"
    STALE_GENERATION = "stale_generation"
    BUSY = "busy"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    UNSERIALISABLE = "unserialisable"
    KERNEL_LOST = "kernel_lost"
    NOT_A_FILE = "not_a_file"
    """The path does not lead to a regular file, by directories alone."""
    CHANGED = "changed"
    """The file is not what it was when reading began."""
    NO_ROOM = "no_room"
    INTERNAL = "internal"


class _Closed(TypedDict):
    extra: Literal["forbid"]


class FromSandbox:
    """What a sandbox says has the fields named here and no others; the host's pydantic reads it from this."""

    __slots__ = ()
    __pydantic_config__: ClassVar[_Closed] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply(FromSandbox):
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """A warm sandbox becomes a session's. `memory_bytes` bounds the kernel's private data (RLIMIT_DATA)."""

    generation: int
    grant: str
    random_seed: int
    memory_bytes: int
    processes: int
    file_bytes: int
    bind: "BindRequest | None" = None
    """What the namespace begins with, so that it does not take a second exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimReply(FromSandbox):
    python: str
    confinement: list[str]
    """What the supervisor could put in force on itself and the kernel, such as `seccomp`, `landlock:7`, `uid`; and how
    large texts arrive, `texts:mapped` or `texts:decoded (why)`."""
    bound: "BindReply | None" = None
    refused: ErrorReply | None = None
    """Why what it was to begin with could not be bound. The sandbox is claimed all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRequest:
    grant: str


class BindingKind(StrEnum):
    TEXT = "text"
    """One file, UTF-8, becomes a `str` byte-exactly (no newline translation)."""
    JSON = "json"
    """One file of JSON becomes its value."""
    JSON_LINES = "json_lines"
    """One file of JSON values, one a line, becomes a list."""
    NAMED_TEXTS = "named_texts"
    """Many files become a `dict` from part name to `str`, in order."""
    CODE = "code"
    """`code` is executed once in the namespace (a custom tool); the name is for messages only."""


ImageEncoding = Literal["ascii", "latin-1", "utf-16-le", "utf-32-le"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextImage:
    """A text in a file as CPython holds it in memory, so that it can be mapped instead of decoded (`shared_text`).

    The narrowest encoding that holds every character; `length` characters and nothing behind them. For ASCII the file
    is the original itself.
    """

    file: str
    """A bare file name, beside the original's."""
    encoding: ImageEncoding
    length: int


LIST_ENTRY = struct.Struct("<QQQ")
LIST_ENTRY_ENCODINGS: tuple[ImageEncoding, ...] = ("ascii", "latin-1", "utf-16-le", "utf-32-le")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextListImage:
    """The texts of a list in a file as CPython holds them in memory.

    First `count` times `LIST_ENTRY`: where the text begins, in bytes from the beginning of the file and divisible by
    8; its length in characters; which of `LIST_ENTRY_ENCODINGS` it has. Behind each text stands a NUL character.
    """

    file: str
    size_bytes: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundFile:
    """A file under `contexts/` of the session directory."""

    part: str
    file: str
    """A bare file name: no separators."""
    size_bytes: int
    image: TextImage | None = None
    """Of a text that is large enough for it. A sandbox that cannot map texts decodes the file instead."""
    list_image: TextListImage | None = None
    """Of JSON that is a large list of nothing but strings; likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    name: str
    kind: BindingKind
    files: list[BoundFile] = field(default_factory=list)
    code: str = ""
    aliases: list[str] = field(default_factory=list)
    """Further names for the same object (`context` for `context_0`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindRequest:
    bindings: list[Binding]
    starts_run: bool = False
    """A session's next run begins: `answer` is fresh, and what earlier runs bound are variables like any other."""
    as_variables: bool = False
    """What is bound are variables like any other from the beginning: not restored before every cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindReply(FromSandbox):
    variables: list["Variable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRequest:
    code: str
    active_limit_s: float
    """Bound on the cell's active time (see `clock`): waiting for a model does not count."""
    wall_limit_s: float
    """Bound on everything, waiting included."""
    grace_s: float
    """How long a `KeyboardInterrupt` may take before the kernel is killed."""
    answer_as: Literal["text", "json"] = "text"
    acknowledges: str | None = None
    """The id of the cell whose kept result may now be forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptRequest:
    cell_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured(FromSandbox):
    """One stream of output: `head` and `tail` decoded with backslashreplace, `size_bytes` as really written."""

    head: str
    tail: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedReply(FromSandbox):
    type_name: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReply(FromSandbox):
    ready: bool
    type_name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable(FromSandbox):
    """`size` is `len()` where the type has one, else None."""

    name: str
    type_name: str
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellReply(FromSandbox):
    cell_id: str
    status: Literal["ok", "raised", "timed_out", "killed"]
    stdout: Captured
    stderr: Captured
    raised: RaisedReply | None
    variables: list[str]
    """Names the cell bound or rebound, sorted, at most `MAX_VARIABLES_REPORTED`."""
    answer: AnswerReply | None
    """None while `answer` is as it was at the start of the session and nothing was submitted."""
    namespace_lost: bool
    detail: str
    wall_s: float
    active_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VariablesReply(FromSandbox):
    variables: list[Variable]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPiece(FromSandbox):
    """Some of a stream: `data` (base64, at most `OUTPUT_PIECE_BYTES`) begins at `from_byte`, which is later than asked
    for where what stood between is kept no more. `size_bytes` were written so far."""

    from_byte: int
    data: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReply(FromSandbox):
    """What a cell has printed. With `is_over` the cell has ended, and `size_bytes` will not grow any more."""

    stdout: OutputPiece
    stderr: OutputPiece
    is_over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFileRequest:
    """`source` is a bare file name under `contexts/`, `size_bytes` what it must have."""

    path: str
    source: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteFileRequest:
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileShown(FromSandbox):
    """A regular file; `path` is relative to the working directory."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesReply(FromSandbox):
    """At most `MAX_FILES_LISTED`, by path. Not complete: there are more, or some that no path can name."""

    files: list[FileShown]
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsReply(FromSandbox):
    """What the sandbox says of itself. For people; the host measures from outside."""

    kernel_lives: int
    running_cell: str | None
    host_calls_in_flight: int


HostFunction = Literal["llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched", "budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCallRequest(FromSandbox):
    """One call of a namespace function, whole batch included. It is recorded under its cell, its function, a digest of
    its arguments that the host makes itself, and its ordinal."""

    cell_id: str
    function: HostFunction
    ordinal: int
    """Counts equal calls of a cell from 0."""
    arguments: dict[str, Any]
    """`llm_*`: prompts (list), model (str | null), schema (object | null).
    `rlm_*`: prompts (list), model, contexts (list of str | JSON value, or null). `budget`: empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCallItem:
    """`value` when ok (a string, or a JSON value where a schema was given), else `message` and `kind`."""

    ok: bool
    value: Any = None
    kind: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCallReply:
    items: list[HostCallItem]
