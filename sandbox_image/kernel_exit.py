"""How a kernel ended."""

import signal


class KernelLost(Exception):
    """The kernel has died, or broke the protocol and was killed. The message says how, in one line."""


_SIGNAL_HINTS = {
    signal.SIGKILL: "most likely out of memory",
    signal.SIGSEGV: "a crash in native code, or too deep a recursion",
    signal.SIGABRT: "aborted",
    signal.SIGSYS: "it made a forbidden system call",
}


def describe_exit(code: int) -> str:
    """One line for the model about how its kernel ended."""
    if code >= 0:
        return f"the interpreter exited with code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"the interpreter was ended by signal {-code}"
    hint = _SIGNAL_HINTS.get(number)
    return f"the interpreter was ended by {number.name}" + (f" ({hint})" if hint else "")
