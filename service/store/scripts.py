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


def load_script(package: str, name: str) -> Script:
    """The script `name` (such as `append.lua`) that ships inside `package`."""
    body = resources.files(package).joinpath(name).read_bytes()
    return Script(name=name, body=body, sha1=hashlib.sha1(body, usedforsecurity=False).hexdigest())
