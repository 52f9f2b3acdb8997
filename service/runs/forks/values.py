"""What a fork is asked for with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.ids import KeyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What a fork has otherwise than its source; None and what is left out stay as they were."""

    root_model: str | None = None
    sub_model: str | None = None
    prompt_pack: str | None = None
    limits: Mapping[str, float | None] = field(default_factory=dict)
    """By the names of `Limits`. The time counts from the fork's own beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest:
    """A fork of one run."""

    from_turn: int
    """The first turn that is the fork's own; 1 asks everything anew."""
    overrides: Overrides = field(default_factory=Overrides)
    key_id: KeyId | None = None
    """Whose money pays for what the fork does itself."""
    key_ancestors: tuple[KeyId, ...] = ()
    """The keys that it descends from."""
