"""What a call may cost: how often its prompt is gone through to tell."""

from collections.abc import Iterator

from service.ids import RunId
from service.ledger.values import Account, Level, Refusal, Unit
from service.loop.values import Message, Purpose
from service.models.prices import input_token_bound
from service.runs.calls.charges import bound_of, fitting_output_tokens
from service.runs.calls.values import MeteredCall
from tests.runs.doubles import StandInModel, route_to


class Prompt(tuple[Message, ...]):
    """Messages that count how often they are gone through."""

    times = 0

    def __iter__(self) -> Iterator[Message]:
        self.times += 1
        return super().__iter__()


def test_a_call_is_shrunk_without_a_look_at_its_prompt() -> None:
    """The largest reply that still fits is found without counting the prompt's tokens again."""
    prompt = Prompt([Message(role="user", content="How long?")])
    run_id = RunId("run_0198c2f0a7b87cc2b1a8f2c3d4e5f607")
    call = MeteredCall(
        stem="stem",
        purpose=Purpose.SUB_CALL,
        route=route_to(StandInModel()),
        messages=prompt,
        input_tokens=input_token_bound(prompt),
        max_output_tokens=8_000,
        deadline_at=0.0,
        lineage=(run_id,),
    )
    asked, left = bound_of(call, 8_000).tokens, bound_of(call, 1_234).tokens
    account = Account(level=Level.RUN, owner=run_id)
    refusal = Refusal(account=account, unit=Unit.TOKENS, asked=asked, limit=left, spent=0, held=0)
    prompt.times = 0
    assert fitting_output_tokens(call, 8_000, refusal) == 1_234
    assert prompt.times == 0
