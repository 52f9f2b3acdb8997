"""What is wrong with a request's fields, field by field: in the words of JSON, where pydantic's speak of Python.

Where and what, never the input itself: it may be large, and secret.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_COMPLAINTS = 20
LONGEST_PLACE = 300
LONGEST_NAME = 100
LONGEST_MESSAGE = 300

_IN_JSON: Mapping[str, str] = {
    "bool_type": "expected true or false",
    "dict_type": "expected an object",
    "extra_forbidden": "there is no field of this name",
    "list_type": "expected a list",
    "missing": "is required",
    "model_attributes_type": "expected an object",
    "model_type": "expected an object",
    "none_required": "expected null",
}
"""By pydantic's name for it."""
_OWN = "value_error"
_OWN_PREFIX = "Value error, "


def complaints(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """`at` and `message` of the first few."""
    return [{"at": _place(each["loc"]), "message": _message(each)} for each in errors[:MOST_COMPLAINTS]]


def _place(location: Sequence[str | int]) -> str:
    # A name such as `list[InputItem]` says which form of a field was tried, and is nothing that a client has sent.
    return ".".join(str(part)[:LONGEST_NAME] for part in location if "[" not in str(part))[:LONGEST_PLACE]


def _message(error: Mapping[str, Any]) -> str:
    told = _IN_JSON.get(error["type"], str(error["msg"]))
    return (told.removeprefix(_OWN_PREFIX) if error["type"] == _OWN else told)[:LONGEST_MESSAGE]
