"""The port: what starts a sandbox and ends it. What one *does* with a sandbox is `sandbox.Sandbox`, the same
for every provider.

Implemented by the process and the Docker provider, later by Kubernetes; all pass `tests/sandboxes/contract.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.errors import Fault, RlmServiceError
from service.ids import SandboxId


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The closed description a sandbox is started from. No free-form option ever reaches a provider."""

    memory_bytes: int = 1 << 30
    """Of the kernel's private memory; a context mapping does not count."""
    tmp_bytes: int = 256 << 20
    processes: int = 64
    open_files: int = 256
    file_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What a provider can put in force here, found by trying it, not by looking for a program."""

    provider: str
    level: str
    """`namespaces`, `landlock`, `seatbelt`, `none` (process); `runc`, `runsc` (docker)."""
    multi_tenant: bool
    """Whether this level may serve tenants who do not trust each other."""
    details: tuple[str, ...] = ()
    """One line each, for people: versions, what is missing and what to do about it."""
    warning: str = ""
    """One sentence that whoever starts something here has to hear each time; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What all of a sandbox has used so far, seen from outside: nothing in it has a say in these."""

    cpu_s: float
    """Where processes have ended that nobody counts any more, less than before."""
    memory_peak_bytes: int
    """Docker: the most that its cgroup held, or holds where Linux keeps no peak for the engine (cgroup v2). Process
    sandbox: the most that any one of its processes has held. Pages of contexts that it has read are among them."""


class Process(Protocol):
    """A started sandbox as its provider holds it: the handle to end it and to measure it from outside."""

    @property
    def is_running(self) -> bool: ...

    @property
    def dialler_uid(self) -> int | None:
        """Whose dials the host may take for the sandbox's, in the host's user namespace; None when that is not known,
        and only the session directory keeps others away."""
        ...

    async def kill(self) -> None:
        """End it with everything in it, and wait until it is gone. Idempotent; never raises for a dead one."""
        ...

    async def pause(self) -> bool:
        """Stop all of it where it stands, so that it takes no processor time and answers nothing; False where the
        provider has no such thing, or did not do it. Where that cannot be told it is True: to unpause it does no harm
        then. Called when nothing is asked of it; bounded, and never cancelled. Never raises."""
        ...

    async def unpause(self) -> None:
        """Let it go on, once for each `pause` that was True. Bounded, and never cancelled. Raises `SandboxRefused`,
        `SandboxStartFailed` when that cannot be done."""
        ...

    async def measure(self) -> Measured | None:
        """What it has used; None when that cannot be told, as of one that has ended. Called while its cell runs long,
        and at the end of each run. Never raises."""
        ...

    async def wait(self) -> str:
        """Until it is gone by itself or killed; how it ended, in one bounded printable line for people."""
        ...


class Provider(Protocol):
    """Starts sandboxes of one kind on this machine."""

    name: str

    async def isolation(self) -> Isolation:
        """What is in force. Probed once, then remembered. Raises `SandboxRefused` with the one-line fix."""
        ...

    async def start(self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int) -> Process:
        """Start the sandbox; it will dial `directory/sandbox.sock` when it is up.

        Called by the pool. Cancelling it leaves nothing behind.

        Raises:
            SandboxRefused: this machine cannot isolate code at a permitted level.
            SandboxStartFailed: it should have worked.
        """
        ...

    async def reap(self, directory: Path) -> None:
        """End whatever a dead replica left running for the session directory. Idempotent."""
        ...


class SandboxRefused(RlmServiceError):
    """No permitted isolation level works here; the message names the one thing to do."""

    code = "sandbox_refused"
    fault = Fault.POLICY


class SandboxStartFailed(RlmServiceError):
    """A sandbox did not come up."""

    code = "sandbox_start_failed"
    fault = Fault.PLATFORM
    may_be_retried = True


class SandboxGone(RlmServiceError):
    """The sandbox died or broke the protocol; it has been killed, and its variables are lost."""

    code = "sandbox_gone"
    fault = Fault.PLATFORM
    may_be_retried = True


class KernelGone(SandboxGone):
    """The interpreter ended between cells and another one is there, which knows no variable. The sandbox lives, and its
    next cell is told instead of being run, so that the namespace is rebuilt."""


class NoSandboxSlot(RlmServiceError):
    """All sandbox slots are taken for longer than the caller wants to wait."""

    code = "no_sandbox_slot"
    fault = Fault.POLICY
    may_be_retried = True


class TooManyLevels(NoSandboxSlot):
    """A run of this depth needs more sandboxes at once than this replica ever has."""

    code = "too_many_levels"
    may_be_retried = False
