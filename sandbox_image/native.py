"""System calls that the standard library has no name for."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38


def system_call(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """The raw call. Integers are passed as 64-bit words, buffers by address.

    Raises:
        OSError: it failed.
    """
    words = [
        ctypes.c_void_p(ctypes.addressof(argument))
        if isinstance(argument, ctypes.Array)
        else ctypes.c_long(argument or 0)
        for argument in arguments
    ]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def process_control(option: int, argument: int) -> int:
    """`prctl(option, argument, 0, 0, 0)`.

    Raises:
        OSError: it failed.
    """
    long = ctypes.c_ulong
    result: int = _libc.prctl(ctypes.c_int(option), long(argument), long(0), long(0), long(0))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
