"""What this room refuses with."""

from service.errors import Fault, RlmServiceError


class Unauthenticated(RlmServiceError):
    """There is no valid API key in the request. The same sentence whether it is malformed, unknown or wrong."""

    code = "unauthenticated"
    fault = Fault.CALLER


class TenantSuspended(RlmServiceError):
    """The operator has suspended the tenant: nothing may be asked for, and nothing more is spent."""

    code = "tenant_suspended"
    fault = Fault.POLICY


class NotPermitted(RlmServiceError):
    """The key is valid and lacks the scope, or would hand out more than it has itself."""

    code = "not_permitted"
    fault = Fault.POLICY


class ModelNotAllowed(RlmServiceError):
    """The model is not on the key's allow-list."""

    code = "model_not_allowed"
    fault = Fault.POLICY


class RateLimited(RlmServiceError):
    """Too much in too short a time. `data["retry_after_s"]` says when it fits; None when it never will."""

    code = "rate_limited"
    fault = Fault.POLICY
    may_be_retried = True


class ConcurrencyLimited(RlmServiceError):
    """Too many of something at once; it fits when one of them ends."""

    code = "concurrency_limited"
    fault = Fault.POLICY
    may_be_retried = True


class QuotaExceeded(RlmServiceError):
    """Too many of something that stays until it is deleted."""

    code = "quota_exceeded"
    fault = Fault.POLICY


class SoleTenantServed(RlmServiceError):
    """A replica serves the one tenant that there is, with sandboxes that do not keep tenants apart."""

    code = "sole_tenant_served"
    fault = Fault.POLICY


class ChangedMeanwhile(RlmServiceError):
    """Others kept changing the same record; ask again."""

    code = "changed_meanwhile"
    fault = Fault.PLATFORM
    may_be_retried = True
