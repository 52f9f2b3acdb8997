"""What the command line has to say besides an error's own sentence: which of its commands and options help.

Errors of the service are told at several doors, so their sentences name no option and no command of this one.
"""

from service.contexts.values import ContextAbsent, NotInEncoding
from service.errors import RlmServiceError
from service.journal.values import RunAbsent
from service.sandboxes.port import TooManyLevels

NAME_ENCODING = "--encoding NAME"


def sentence_of(error: RlmServiceError) -> str:
    """The error's sentence, with what helps here behind it."""
    sentence, hint = str(error).removesuffix("."), _hint(error)
    return sentence if hint is None else f"{sentence} ({hint})"


def _hint(error: RlmServiceError) -> str | None:
    match error:
        case ContextAbsent():
            return "`rlm-service contexts ls` lists those there are"
        case RunAbsent():
            return "`rlm-service runs ls` lists those there are"
        case NotInEncoding():
            return f"or name its encoding: {NAME_ENCODING}"
        case TooManyLevels(data={"most": most}):
            return f"--max-depth {most}"
        case _:
            return None
