"""The one exception tree.

An exception here answers three questions: whose `fault` it is, whether the same request `may_be_retried`,
and with what `data`. What the model's code does wrong is a cell result, reaching a limit is a stop reason:
neither is an exception. Each room defines its own subclasses; HTTP status codes live in `web`, exit codes
in `cli`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Who has to act so that the request can succeed."""

    CALLER = "caller"
    """The request is wrong: change it."""
    POLICY = "policy"
    """The request is understood and not allowed (budget, quota, isolation policy)."""
    PLATFORM = "platform"
    """This service or what it stands on (store, sandboxes, disk) failed."""
    PROVIDER = "provider"
    """A language model's provider failed."""


class RlmServiceError(Exception):
    """Base of everything this service raises on purpose.

    `str(error)` is one sentence for a person: what was expected, what was found, what to do.
    It never contains a secret or a payload.
    """

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = Fault.PLATFORM
    may_be_retried: ClassVar[bool] = False

    def __init__(self, message: str, *, data: Mapping[str, str | int | None] | None = None) -> None:
        super().__init__(message)
        self.data: Mapping[str, str | int | None] = dict(data or {})


class BadRequest(RlmServiceError):
    """The caller's input cannot be used; the message says what to change."""

    code = "bad_request"
    fault = Fault.CALLER


class NotFound(RlmServiceError):
    """Nothing of this id exists for this tenant."""

    code = "not_found"
    fault = Fault.CALLER


def sole_failure(failure: BaseException) -> BaseException:
    """What a nest of exception groups is about: its one exception, or the first of ours among several.

    Task groups wrap whatever leaves them, so an error that crosses a few rooms arrives wrapped as often, and one
    cause (a store that is gone) arrives once for every task that met it. Several defects stay a group.
    """
    leaves = failures_in(failure)
    ours = [leaf for leaf in leaves if isinstance(leaf, RlmServiceError)]
    if ours:
        return ours[0]
    return leaves[0] if len(leaves) == 1 else failure


def failures_in(failure: BaseException) -> list[BaseException]:
    """Every exception in a nest of exception groups; of one that is no group, itself."""
    if not isinstance(failure, BaseExceptionGroup):
        return [failure]
    return [leaf for inner in failure.exceptions for leaf in failures_in(inner)]
