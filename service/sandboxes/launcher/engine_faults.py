"""What an engine's refusal or silence means, and what to do about it. Pure: no SDK type comes in, no call goes out.

The engine's API has statuses for a handful of these only; the rest it says in words, which have been the same since
version 20.10.
"""

import re
from enum import StrEnum

_TOO_LONG = 300


class EngineFault(StrEnum):
    """Why the engine did not do what it was asked."""

    ABSENT = "absent"
    """Nothing listens there."""
    DENIED = "denied"
    """Something may, and this user is not let in."""
    SILENT = "silent"
    """It is there and does not answer."""
    MISSING = "missing"
    """The container that was named is not there, or no more."""
    IMAGE_MISSING = "image_missing"
    RUNTIME_MISSING = "runtime_missing"
    OUT_OF_MEMORY = "out_of_memory"
    """The machine's, not the sandbox's."""
    NAME_TAKEN = "name_taken"
    FAILED = "failed"
    """Anything else; the engine's own words say what."""

    @property
    def is_of_engine(self) -> bool:
        """Whether nothing else can be asked of the engine either."""
        return self in (EngineFault.ABSENT, EngineFault.DENIED, EngineFault.SILENT)

    @property
    def is_of_machine(self) -> bool:
        """Whether asking again changes nothing before somebody has changed the machine."""
        return self.is_of_engine or self in (EngineFault.IMAGE_MISSING, EngineFault.RUNTIME_MISSING)


_WORDS = (
    (EngineFault.IMAGE_MISSING, re.compile(r"no such image|image .{1,300} not found", re.IGNORECASE)),
    (EngineFault.RUNTIME_MISSING, re.compile(r"unknown (or invalid )?runtime", re.IGNORECASE)),
    (EngineFault.OUT_OF_MEMORY, re.compile(r"cannot allocate memory|out of memory", re.IGNORECASE)),
    (EngineFault.NAME_TAKEN, re.compile(r"name .{1,300} is already in use", re.IGNORECASE)),
)
_NOT_FOUND = 404


def fault_of_answer(status: int, words: str) -> EngineFault:
    """What an error that the engine answered with means."""
    words = words[:4096]
    for fault, pattern in _WORDS:
        if pattern.search(words):
            return fault
    return EngineFault.MISSING if status == _NOT_FOUND else EngineFault.FAILED


def fault_of_silence(causes: tuple[BaseException, ...]) -> EngineFault:
    """What it means that there was no answer: by what the operating system said, among an exception's causes."""
    if any(isinstance(cause, PermissionError) for cause in causes):
        return EngineFault.DENIED
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return EngineFault.SILENT
    return EngineFault.ABSENT


def described(fault: EngineFault, *, host: str, said: str = "") -> str:
    """One line for people: what is wrong, and what to do."""
    words = " ".join(said.split())[:_TOO_LONG]
    match fault:
        case EngineFault.ABSENT:
            return (
                f"the Docker engine cannot be reached at {host}: start Docker, or say where it is "
                "(RLM_DOCKER_HOST; of a launcher that is started by hand, --docker-host)"
            )
        case EngineFault.DENIED:
            return (
                f"the Docker engine cannot be reached at {host}, because this user may not open its socket: run the "
                "launcher as a user who may (docs/docker.md), or add this one to the socket's group"
            )
        case EngineFault.SILENT:
            return f"the Docker engine at {host} does not answer: look into its log, and restart it if it hangs"
        case EngineFault.IMAGE_MISSING:
            return f"the engine has no such image ({words}): make it with `sh deploy/make_sandbox_image.sh`"
        case EngineFault.RUNTIME_MISSING:
            return f"the engine has no such runtime ({words}): install it (docs/docker.md), or ask for another"
        case EngineFault.OUT_OF_MEMORY:
            return f"the machine has no memory for another container ({words}): end some, or lower RLM_SANDBOX_SLOTS"
        case EngineFault.NAME_TAKEN:
            return f"a container of that name is there already ({words}): it is removed with its session, or by hand"
        case EngineFault.MISSING | EngineFault.FAILED:
            return words or "the engine failed without a word"
