"""Landlock: which files exist for this process, where no mount namespace hides the host's.

Reading beneath the Python installation, the system's libraries, this package and the session directory; writing
beneath one private directory; nothing else. Where the machine can: no TCP, no abstract sockets and no signals outside.
"""

import ctypes
import os
import struct
import sys
from contextlib import suppress

from . import native
from .syscalls import this_architecture

_READ_FILE = 1 << 2
_READ_DIRECTORY = 1 << 3
_TRUNCATE = 1 << 14
_ALL_OF_ABI_4 = (1 << 15) - 1
_IOCTL_DEVICE = 1 << 15  # ABI 5
_MAKE_DEVICES = 1 << 6 | 1 << 11
_EXECUTE = 1 << 0
_FILE_RIGHTS = _EXECUTE | 1 << 1 | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE

_NET_BIND_AND_CONNECT = 0b11
_SCOPE_ABSTRACT_AND_SIGNALS = 0b11  # ABI 6

LEAST_ABI = 4
"""Since Linux 6.7. Before 3 a file that may only be read can be opened with O_TRUNC; before 4 TCP is open. What the
filters of `seccomp` close anyway (signals, abstract sockets, attributes of files) may be lacking."""

_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1

_SYSTEM_PATHS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime",
    "/usr/share/zoneinfo", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random",
)  # fmt: skip


def abi() -> int:
    """The version this machine offers; 0 when it has none."""
    try:
        return native.system_call(this_architecture().numbers["landlock_create_ruleset"], None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def check_version(version: int) -> None:
    """Raises `OSError` where the machine's Landlock is not enough to confine a sandbox by it."""
    if version < LEAST_ABI:
        found = f"ABI {version}" if version else "none"
        raise OSError(f"expected Landlock of ABI {LEAST_ABI} or newer (Linux 6.7), found {found}")


def restrict(*, session_directory: str, tmp_directory: str) -> int:
    """Confine this process and all that it forks; returns the ABI in force. Needs no-new-privs.

    Raises:
        OSError: the machine's Landlock is none or too old, or a directory cannot be opened.
    """
    version = abi()
    check_version(version)
    numbers = this_architecture().numbers
    handled = _ALL_OF_ABI_4 | (_IOCTL_DEVICE if version >= 5 else 0)
    attributes = struct.pack("=QQ", handled, _NET_BIND_AND_CONNECT)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPE_ABSTRACT_AND_SIGNALS)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = native.system_call(numbers["landlock_create_ruleset"], buffer, len(attributes), 0)
    try:
        package = os.path.dirname(os.path.abspath(__file__))
        installation = os.path.dirname(os.path.abspath(os.__file__))
        libraries = os.path.join(sys.base_prefix, "lib")
        reading = handled & (_READ_FILE | _READ_DIRECTORY)
        for path in (package, installation, session_directory):
            _allow(ruleset, path, reading)
        for path in (*_SYSTEM_PATHS, libraries):
            with suppress(FileNotFoundError):
                _allow(ruleset, path, reading)
        _allow(ruleset, tmp_directory, handled & ~(_EXECUTE | _MAKE_DEVICES))
        native.system_call(numbers["landlock_restrict_self"], ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, descriptor)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        add_rule = this_architecture().numbers["landlock_add_rule"]
        native.system_call(add_rule, ruleset, _RULE_PATH_BENEATH, buffer, 0)
    finally:
        os.close(descriptor)
