"""Names of keys: one hash tag per tenant, so that a script may touch several keys of a tenant in a cluster too."""

import re
from dataclasses import dataclass

from service.errors import BadRequest
from service.ids import TenantId

_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one tenant: `keys("run", run_id)` is `rlm:{default}:run:run_0198…`."""

    tenant: TenantId

    def __post_init__(self) -> None:
        if _TENANT.fullmatch(self.tenant) is None:
            raise BadRequest("a tenant id must be 1 to 64 letters, digits, dashes or underscores")

    def __call__(self, *parts: str) -> str:
        return f"rlm:{{{self.tenant}}}:{':'.join(parts)}"
