"""Which names a key's allow-list lets through. What asks and what lists models judge by this one rule."""

import contextlib

from service.runs.answering.profiles import DIRECT_PREFIX, Profiles
from service.tenants.errors import ModelNotAllowed
from service.tenants.values import Caller


def require_name(caller: Caller, name: str, stands_for: tuple[str, ...]) -> None:
    """An allow-list holds what clients name (`rlm/deep`, `direct/…`), or else every model that this stands for.

    Raises:
        ModelNotAllowed: it has neither.
    """
    with contextlib.suppress(ModelNotAllowed):
        caller.require_model(name)
        return
    for model in stands_for:
        caller.require_model(model)


def may_name(caller: Caller, name: str, profiles: Profiles) -> bool:
    """Whether the caller can ask by this name alone. Raises `ProfileUnknown`."""
    try:
        require_name(caller, name, _least_of(name, profiles) or (name,))
    except ModelNotAllowed:
        return False
    return True


def _least_of(name: str, profiles: Profiles) -> tuple[str, ...]:
    """The models that a name stands for at the least: a profile that answers what is small by a direct call needs its
    root LM only. Empty where only the request can say."""
    if name.startswith(DIRECT_PREFIX):
        return (name.removeprefix(DIRECT_PREFIX),)
    profile = profiles.get(name)
    root = profiles.root_of(profile)
    if root is None:
        return ()
    return (root,) if profile.direct_below_tokens else (root, profiles.sub_of(profile, root))
