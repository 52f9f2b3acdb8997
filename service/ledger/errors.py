"""What the ledger raises. A refused reservation is not here: it is a value (`Refusal`)."""

from service.errors import Fault, RlmServiceError


class ReservationConflict(RlmServiceError):
    """The id was used before: with other amounts, or for a reservation that is resolved."""

    code = "reservation_conflict"
    fault = Fault.PLATFORM
