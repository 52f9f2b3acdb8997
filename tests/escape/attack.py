"""What every attack begins with: words to try things and to say what came of it.

Sent as text in front of each attack's code, because an attack may have spoilt what stood in the namespace.
"""

import json
from collections.abc import Mapping

_WORDS = """
import ctypes as _c, errno as _e, os, sys

_libc = _c.CDLL(None, use_errno=True)
_said = []
tmp = TMP

def say(*found):
    _said.extend(str(word).replace(" ", "_")[:80] for word in found)

def attempt(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return _e.errorcode.get(error.errno, type(error).__name__)
    except BaseException as error:
        return type(error).__name__
    return "done"

def call(number, *arguments):
    _c.set_errno(0)
    found = _libc.syscall(_c.c_long(number), *[a if isinstance(a, (_c.Array, type(None))) else _c.c_long(a)
                                                for a in arguments])
    return "done" if found >= 0 else _e.errorcode.get(_c.get_errno(), "unknown")
"""
_END = '\nprint("\\n@@said " + " ".join(_said), flush=True)\n'


def armed(code: str, given: Mapping[str, object], *, ends_itself: bool = False) -> str:
    """The whole cell. `given` are values that the attack may use, as JSON; each becomes a variable. One that
    `ends_itself` has its own last expression, and says nothing."""
    values = "".join(f"{name} = _json.loads({json.dumps(value)!r})\n" for name, value in given.items())
    return f"import json as _json\n{values}{_WORDS}{code}{'' if ends_itself else _END}"


def said(stdout: str) -> list[str] | None:
    """The words of an attack that came to its end."""
    line = next((line for line in reversed(stdout.splitlines()) if line.startswith("@@said ")), None)
    return None if line is None else line.split()[1:]
