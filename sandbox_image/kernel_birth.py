"""Everything a kernel is started with: at its fork, and once more when its sandbox is claimed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBirth:
    """Travels from the supervisor through the zygote to the kernel."""

    contexts_directory: str
    tmp_directory: str
    confined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTerms:
    """What the session that claims the sandbox wants of its kernels. A kernel that stands by is told them first."""

    memory_bytes: int
    processes: int | None
    """Limit on the uid's tasks (RLIMIT_NPROC); None where none can be set."""
    file_bytes: int
    random_seed: int
