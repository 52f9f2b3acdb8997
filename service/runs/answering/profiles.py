"""API profiles: named ways to answer, and the models that a client's name for one stands for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.errors import Fault, NotFound, RlmServiceError

DEFAULT_PACK = "default"
DIRECT_PREFIX = "direct/"
SHOWN_NAME_CHARS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named way to answer."""

    root: str | None = None
    """None: whoever uses the profile says."""
    sub: str | None = None
    """None: whatever the root LM is."""
    prompt_pack: str = DEFAULT_PACK
    limits: Mapping[str, int | float] = field(default_factory=dict)
    """Fields of `Limits`, as far as the profile says."""
    direct_below_tokens: int = 0
    """What surely has fewer tokens is answered by one direct call of the root LM; 0: nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """What a client can name as its model."""

    named: Mapping[str, Profile]
    root_model: str | None = None
    """For profiles that name none."""
    sub_model: str | None = None
    direct_models: tuple[str, ...] = ()
    """The operator's own models, which a list of models shows; any other that has a price may be named too."""

    @property
    def default_sub_model(self) -> str | None:
        """Of sub-calls that nobody has named a model for."""
        return self.sub_model or self.root_model

    @property
    def names(self) -> list[str]:
        """Everything that a list of models shows."""
        return [*sorted(self.named), *(f"{DIRECT_PREFIX}{model}" for model in self.direct_models)]

    def get(self, name: str) -> Profile:
        """Raises `ProfileUnknown`."""
        found = self.named.get(name)
        if found is None:
            known = ", ".join(sorted(self.named))
            raise ProfileUnknown(
                f"there is no model {name[:SHOWN_NAME_CHARS]!r}: name a profile ({known}) or direct/MODEL",
                data={"param": "model"},
            )
        return found

    def root_of(self, profile: Profile) -> str | None:
        """Its root LM; None where whoever uses it says."""
        return profile.root or self.root_model

    def sub_of(self, profile: Profile, root: str) -> str:
        """The model of its sub-calls, beside this root LM."""
        return profile.sub or self.sub_model or root


class ProfileUnknown(NotFound):
    """The model that a client names is neither a profile nor a direct call."""

    code = "model_not_found"


class RootModelMissing(RlmServiceError):
    """The profile names no root LM, and nobody else does."""

    code = "root_model_missing"
    fault = Fault.CALLER
