"""`rlm/auto`: one direct call for what is small, a run for what is not."""

from pathlib import Path

import httpx
import pytest

from service.models.port import ModelCard
from service.runs.answering.deciding import Decision, decide
from service.runs.answering.profiles import Profile
from tests.runs.playing import ROOT, SUB
from tests.web.serving import served

pytestmark = pytest.mark.anyio

DIRECT = {"rlm": {"root_model": SUB}}
"""The model that repeats what it is asked."""


def asks(text: str, **more: object) -> dict[str, object]:
    return {"model": "rlm/auto", "messages": [{"role": "user", "content": text}], **more}


async def ask(client: httpx.AsyncClient, body: dict[str, object]) -> httpx.Response:
    reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply


@pytest.mark.parametrize(
    ("size_bytes", "window", "way"), [(99, 9_000, "direct"), (100, 9_000, "rlm"), (50, 1_050, "rlm")]
)
def test_the_threshold_is_in_bytes_and_leaves_room_for_the_reply(size_bytes: int, window: int, way: str) -> None:
    """Below the profile's threshold, and only where the model's own window holds it with its reply."""
    card = ModelCard(name="m", window_tokens=window, max_output_tokens=100)
    assert decide(Profile(direct_below_tokens=100), card, size_bytes).way == way
    assert decide(Profile(), card, size_bytes).way == "rlm"


def test_a_model_can_have_a_threshold_of_its_own() -> None:
    """It counts where the profile makes direct calls at all."""
    card = ModelCard(name="m", window_tokens=9_000, max_output_tokens=100, direct_below_tokens=10)
    assert decide(Profile(direct_below_tokens=100), card, 50) == Decision(way="rlm", tokens_bound=50, threshold=10)
    assert decide(Profile(), card, 5) == Decision(way="rlm", tokens_bound=5, threshold=0)


async def test_a_small_question_is_one_call_and_a_large_one_a_run(tmp_path: Path) -> None:
    """Which way it went, and why, stands in the reply and in a header."""
    async with served(tmp_path) as it:
        small = await ask(it.client, asks("Which?", **DIRECT))
        assert small.json()["choices"][0]["message"]["content"] == "Which?"
        assert small.json()["rlm"]["decision"] == {"way": "direct", "tokens_bound": 6, "threshold": 16384}
        assert small.headers["x-rlm-decision"] == "direct; tokens<=6; threshold=16384"
        large = await ask(it.client, asks("ä" * 9_000))
        assert large.json()["rlm"]["decision"] == {"way": "rlm", "tokens_bound": 18_000, "threshold": 16384}
        assert large.json()["rlm"]["saving"] is None
        assert large.json()["choices"][0]["message"]["content"] == "9000"


async def test_the_saving_is_measured_against_the_tenants_own_runs(tmp_path: Path) -> None:
    """With no run of the profile there is nothing to compare with, and it says so; afterwards the median of what such
    runs cost this tenant is what a call spared."""
    async with served(tmp_path) as it:
        before = await ask(it.client, asks("Which?", **DIRECT))
        assert before.json()["rlm"]["saving"] == {"compared_runs": 0, "run_p50": None, "saved_usd": None}
        assert "x-rlm-saved-usd" not in before.headers
        runs = [await ask(it.client, asks("x" * size)) for size in (20_000, 21_000, 22_000)]
        costs = sorted(run.json()["rlm"]["spent"]["nano_usd"] for run in runs)
        after = await ask(it.client, asks("What?", **DIRECT))
        saving = after.json()["rlm"]["saving"]
        assert (saving["compared_runs"], saving["run_p50"]["nano_usd"]) == (3, costs[1])
        spent = after.json()["rlm"]["spent"]["nano_usd"]
        assert float(saving["saved_usd"]) == pytest.approx((costs[1] - spent) / 1e9)
        assert after.headers["x-rlm-saved-usd"] == saving["saved_usd"]
        async with it.as_other_tenant() as other:
            assert (await ask(other, asks("What?", **DIRECT))).json()["rlm"]["saving"]["compared_runs"] == 0
        assert {request.model for request in it.model.root_requests} == {ROOT.removeprefix("openai/")}
