"""From a request to the first event: what is refused, and how the money is divided beforehand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest
from service.ids import ContextId
from service.loop.values import ContextBinding, Limits, Tool
from service.models.port import ModelCard
from service.models.prices import Price
from service.money import NanoUSD
from service.runs.submission.first_event import (
    WRAP_UP_SHARE,
    check_request,
    output_tokens,
    plan_wrap_up,
    wrap_up_amount,
)
from service.runs.values import RunRequest
from tests.runs.doubles import StandInModel, route_to

CONTEXT = ContextBinding(context_id=ContextId("ctx_" + "0" * 32))
REQUEST = RunRequest(question="Which?", contexts=(CONTEXT,), root_model="a", sub_model="b")

prices = st.builds(
    lambda i, o: Price(input=i, cached_input=i, cache_write=i, output=o),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
)
budgets = st.integers(1, 10**13).map(NanoUSD)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (replace(REQUEST, question="  "), "question is empty"),
        (replace(REQUEST, question="x" * 32_001), "put the long part into a context"),
        (replace(REQUEST, contexts=()), "1 to 1000 contexts"),
        (replace(REQUEST, contexts=(replace(CONTEXT, variable="two words"),)), "cannot be a variable name"),
        (replace(REQUEST, contexts=(replace(CONTEXT, variable="class"),)), "cannot be a variable name"),
        (replace(REQUEST, contexts=(replace(CONTEXT, variable="llm_query"),)), "own names"),
        (replace(REQUEST, contexts=(replace(CONTEXT, variable="context_7"),)), "own names"),
        (replace(REQUEST, contexts=(replace(CONTEXT, variable="print"),)), "Python's own names"),
        (replace(REQUEST, contexts=(replace(CONTEXT, variable="a"),) * 2), "given twice"),
        (replace(REQUEST, tools=(Tool(name="t"),)), "either code or a JSON value"),
        (replace(REQUEST, tools=(Tool(name="t", value_json="{"),)), "not valid JSON"),
        (replace(REQUEST, tools=(Tool(name="t", code="x" * (1 << 20) + "x"),)), "give it as a context"),
        (replace(REQUEST, answer_schema={"type": 5}), "not a valid JSON Schema"),
        (replace(REQUEST, limits=Limits(turns=0)), "turns"),
        (replace(REQUEST, limits=Limits(depth=-1)), "depth"),
        (replace(REQUEST, limits=Limits(wall_s=float("nan"))), "wall_s"),
        (replace(REQUEST, limits=Limits(wall_s=float("inf"))), "wall_s"),
        (replace(REQUEST, limits=Limits(tokens=2**53)), "tokens"),
        (replace(REQUEST, limits=Limits(cost=NanoUSD(0))), "budget must be above"),
        (replace(REQUEST, limits=Limits(cost=NanoUSD(2**53))), "budget must be above"),
    ],
)
def test_a_request_that_cannot_be_run_is_refused_with_a_sentence(request_: RunRequest, word: str) -> None:
    """Before anything is looked up, reserved or stored."""
    with pytest.raises(BadRequest, match=word):
        check_request(request_)


@given(price=prices, budget=budgets, tokens=st.integers(1, 10**7))
def test_the_wrap_up_never_takes_more_than_its_share(price: Price, budget: NanoUSD, tokens: int) -> None:
    """Whatever the price and the limits: the reserved call fits a third of each, or there is none."""
    plan = plan_wrap_up(route_to(StandInModel(), price=price), Limits(cost=budget, tokens=tokens))
    if plan is not None:
        amount = wrap_up_amount(price, plan)
        assert amount.nano_usd * WRAP_UP_SHARE <= budget
        assert amount.tokens * WRAP_UP_SHARE <= tokens


@given(price=prices, budget=budgets, window=st.integers(1_000, 10**6), ceiling=st.integers(1, 10**5))
def test_a_reply_limit_is_positive_and_within_what_the_model_can(
    price: Price, budget: NanoUSD, window: int, ceiling: int
) -> None:
    """A small budget shortens replies; it never asks for none, or for more than the model gives."""
    route = replace(
        route_to(StandInModel(), price=price),
        card=ModelCard(name="m", window_tokens=window, max_output_tokens=ceiling),
    )
    assert 1 <= output_tokens(route, budget, default=8_192, share=20) <= min(ceiling, 8_192)
