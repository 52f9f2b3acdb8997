"""Lua scripts: files beside the module that uses them, sent whole once and by their digest afterwards."""

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    name: str
    body: bytes
    sha1: str
    """What the server calls it by."""
    is_fenced: bool = False
    """Whether it begins by checking a fence (`fences`)."""


def load_script(package: str, name: str, *, leaves_keys: bool = False) -> Script:
    """The script `name` (such as `append.lua`) that ships inside `package`. One that `leaves_keys` where there were
    none does nothing for a tenant that is erased (`erasing`)."""
    return _script(name, _guard(leaves_keys) + _body(package, name))


def load_fenced_script(package: str, name: str, *, leaves_keys: bool = False) -> Script:
    """Likewise a script that does nothing and replies `fences.STALE` when the fence of its call does not stand."""
    body = _body("service.store", "fence.lua") + _guard(leaves_keys) + _body(package, name)
    return _script(name, body, is_fenced=True)


def _guard(leaves_keys: bool) -> bytes:
    return _body("service.store", "erased.lua") if leaves_keys else b""


def _body(package: str, name: str) -> bytes:
    return resources.files(package).joinpath(name).read_bytes()


def _script(name: str, body: bytes, *, is_fenced: bool = False) -> Script:
    sha1 = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    return Script(name=name, body=body, sha1=sha1, is_fenced=is_fenced)
