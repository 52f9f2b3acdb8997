"""Everything a kernel is started with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBirth:
    """Travels from the supervisor through the zygote to the kernel."""

    memory_bytes: int
    processes: int | None
    file_bytes: int
    random_seed: int
    contexts_directory: str
    tmp_directory: str
    confined: bool
