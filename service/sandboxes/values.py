"""What callers give a sandbox and get back from it besides cells, and what may go wrong with one value."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_image.protocol import Binding
from service.errors import Fault, RlmServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a namespace begins with; see `Sandbox.bind`."""

    bindings: Sequence[Binding]
    files: Mapping[str, Path]
    starts_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueStream:
    """A value on its way out of a sandbox. `chunks` is iterated once; its digest is verified at the end."""

    type_name: str
    size_bytes: int
    sha256: str
    """As the sandbox announced it; `chunks` raises `SandboxGone` where the bytes disagree."""
    chunks: AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStats:
    """What a sandbox says of itself. For people: nothing may depend on it."""

    kernel_lives: int
    running_cell: str | None
    host_calls_in_flight: int


class SandboxBusy(RlmServiceError):
    """A cell is running, or a value is being read; nothing was done."""

    code = "sandbox_busy"
    fault = Fault.POLICY
    may_be_retried = True


class ValueMissing(RlmServiceError):
    """The namespace has no variable of this name (any more)."""

    code = "value_missing"
    fault = Fault.CALLER


class ValueTooLarge(RlmServiceError):
    """The variable's value is larger than the caller is ready to read."""

    code = "value_too_large"
    fault = Fault.POLICY


class ValueUnserialisable(RlmServiceError):
    """The variable's value cannot be written in the form asked for."""

    code = "value_unserialisable"
    fault = Fault.CALLER


class BindRefused(RlmServiceError):
    """A context or a tool could not be bound: its content is not what its kind says, its code raised,
    or it does not fit the sandbox's memory."""

    code = "bind_refused"
    fault = Fault.CALLER
