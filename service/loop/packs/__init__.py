"""The prompt packs that are shipped, as TOML files beside this module, and how they are read.

Reading one is not I/O of the loop: the files are part of the program, as its constants are, and the state machine never
reads them. A run carries its rendered prompt in its first event, so an old journal replays under newer packs.

`wiring` and `runs` read packs at start; nobody else needs to. A pack of the operator's own goes through
`prompts.parse_pack` just the same.
"""

from functools import cache
from importlib.resources import files

from service.errors import BadRequest
from service.loop.prompts import PromptPack, base_of, parse_pack

PACKS: tuple[str, ...] = ("default", "small", "frugal")
"""`default`: capable models. `small`: weak ones, with smaller chunks and no child runs. `frugal`: capable models that
make a sub-call for every line unless told what it costs."""


@cache
def read_pack(name: str) -> PromptPack:
    """A shipped pack.

    Raises:
        BadRequest: there is none of this name.
    """
    if name not in PACKS:
        raise BadRequest(f"expected a prompt pack out of {', '.join(PACKS)}, found {name[:80]!r}")
    text = (files(__package__) / f"{name}.toml").read_text(encoding="utf-8")
    base = base_of(text)
    return parse_pack(text, base=None if base is None else read_pack(base))
