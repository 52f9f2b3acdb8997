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


def load_script(package: str, name: str) -> Script:
    """The script `name` (such as `append.lua`) that ships inside `package`."""
    return _script(name, _body(package, name))


def load_fenced_script(package: str, name: str) -> Script:
    """The script `name`, which does nothing and replies `fences.STALE` when the fence of its call does not stand."""
    return _script(name, _body("service.store", "fence.lua") + _body(package, name), is_fenced=True)


def _body(package: str, name: str) -> bytes:
    return resources.files(package).joinpath(name).read_bytes()


def _script(name: str, body: bytes, *, is_fenced: bool = False) -> Script:
    sha1 = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    return Script(name=name, body=body, sha1=sha1, is_fenced=is_fenced)
