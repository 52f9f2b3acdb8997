"""From a conversation to a run's question and contexts. Pure.

A root LM is told a question of bounded size and sees nothing else: whatever is long, or only background, becomes a
context that it can look into. The last text of the last message asks. The texts before it are what it is about, each a
context of its own; what was said earlier is one more. A last text that is itself long is a context too, and its
beginning and end stand in the question, because that is where people ask.
"""

from dataclasses import dataclass

from service.errors import BadRequest
from service.loop.values import Message
from service.runs.answering.conversation import Conversation

LONGEST_ASKING_CHARS = 8_000
"""A last text up to this length is the question as it stands."""
LONGEST_INSTRUCTIONS_CHARS = 16_000
SHOWN_HEAD_CHARS = 1_500
SHOWN_TAIL_CHARS = 3_000
MOST_PARTS = 500

_INSTRUCTIONS, _MESSAGE, _CONVERSATION = "instructions", "message", "conversation"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextContext:
    """A text that is to be stored, and the name of its variable."""

    variable: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the root LM is asked, and what it can look into besides the stored contexts."""

    question: str
    texts: tuple[TextContext, ...] = ()
    earlier: tuple[Message, ...] = ()
    """To be stored as one list, under the variable `conversation`."""


def plan(conversation: Conversation) -> Plan:
    """The same conversation gives the same plan.

    Raises:
        BadRequest: nothing is asked, or it has too many texts.
    """
    *about, asking = conversation.parts or ("",)
    if not asking.strip():
        raise BadRequest("the last message is empty: it is the question", data={"param": "messages"})
    if len(about) > MOST_PARTS:
        raise BadRequest(
            f"the last message has {len(about)} texts before its question, at most {MOST_PARTS} are allowed: join them",
            data={"param": "messages"},
        )
    about = [text for text in about if text]
    texts = [TextContext(variable=f"part_{number}", text=text) for number, text in enumerate(about, 1)]
    said: list[str] = []
    if len(conversation.instructions) > LONGEST_INSTRUCTIONS_CHARS:
        texts.append(TextContext(variable=_INSTRUCTIONS, text=conversation.instructions))
        said.append(f"Follow the instructions in the variable `{_INSTRUCTIONS}`: read all of it first.")
    elif conversation.instructions.strip():
        said.append(f"Instructions:\n{conversation.instructions}")
    if conversation.earlier:
        said.append(
            f"What was said before is in the variable `{_CONVERSATION}`, a list of dicts with role and content."
        )
    if len(asking) > LONGEST_ASKING_CHARS:
        texts.insert(0, TextContext(variable=_MESSAGE, text=asking))
        said.append(_of_long_message(asking))
    else:
        said.append(asking if not said else f"Now answer this:\n{asking}")
        if not texts and not conversation.context_ids and not conversation.earlier:
            texts.append(TextContext(variable=_MESSAGE, text=asking))
    return Plan(question="\n\n".join(said), texts=tuple(texts), earlier=conversation.earlier)


def _of_long_message(text: str) -> str:
    return (
        f"The message to answer has {len(text)} characters and is in the variable `{_MESSAGE}`: do what it asks. It "
        f"begins with:\n{text[:SHOWN_HEAD_CHARS]}\n[…]\nand ends with:\n{text[-SHOWN_TAIL_CHARS:]}"
    )
