"""What is wrong with a request's fields, field by field: in the words of JSON, where pydantic's speak of Python.

Where and what, never the input itself: it may be large, and secret.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.web.patterns import CONTEXT_ID, GROUP_BY, KEY_ID, SESSION_ID, SHA256, USD, USD_IN_WORDS

MOST_COMPLAINTS = 20
MOST_LOOKED_AT = 100
LONGEST_PLACE = 300
LONGEST_NAME = 100
LONGEST_MESSAGE = 300
_AND_DIGITS = "and 32 hexadecimal digits"

_IN_JSON: Mapping[str, str] = {
    "bool_type": "expected true or false",
    "dict_type": "expected an object",
    "extra_forbidden": "there is no field of this name",
    "float_type": "expected a number",
    "int_type": "expected a whole number",
    "list_type": "expected a list",
    "missing": "is required",
    "model_attributes_type": "expected an object",
    "model_type": "expected an object",
    "none_required": "expected null",
    "string_type": "expected a string",
}
"""By pydantic's name for it."""
_OF_PATTERN: Mapping[str, str] = {
    USD: USD_IN_WORDS,
    GROUP_BY: "expected day, model, key, session, or several of them with commas between, such as day,model",
    SHA256: "expected a SHA-256: 64 hexadecimal digits in lower case",
    CONTEXT_ID: f"expected the id of a context: ctx_ {_AND_DIGITS}",
    SESSION_ID: f"expected the id of a session: ses_ {_AND_DIGITS}",
    KEY_ID: f"expected the id of an API key: key_ {_AND_DIGITS}",
}
"""What a string is to be that does not match: a regular expression is no answer to whoever wrote it."""
_OWN = "value_error"
_OWN_PREFIX = "Value error, "


def complaints(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """`at` and `message` of the first few."""
    told = [each for each in errors[:MOST_LOOKED_AT] if not _is_told_better(each, errors[:MOST_LOOKED_AT])]
    return [{"at": _place(each["loc"]), "message": _message(each)} for each in told[:MOST_COMPLAINTS]]


def _is_told_better(error: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> bool:
    """Of a field that may be a string or a list, and is a list with something wrong in it: that it is no string."""
    place = error["loc"]
    return place[-1:] == ("str",) and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place) - 1] == place[:-1] for other in errors
    )


def _place(location: Sequence[str | int]) -> str:
    # Names such as `list[InputItem]` say which form of a field was tried, and are nothing that a client has sent.
    sent = [str(part)[:LONGEST_NAME] for part in location if "[" not in str(part)]
    return ".".join(sent[:-1] if len(sent) > 1 and sent[-1] == "str" else sent)[:LONGEST_PLACE]


def _message(error: Mapping[str, Any]) -> str:
    told = _IN_JSON.get(error["type"], str(error["msg"]))
    if error["type"] == "string_pattern_mismatch":
        told = _OF_PATTERN.get(error["ctx"]["pattern"], told)
    return (told.removeprefix(_OWN_PREFIX) if error["type"] == _OWN else told)[:LONGEST_MESSAGE]
