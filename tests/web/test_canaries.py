"""What must stay where it is (code, contexts, keys, grants) is planted as canaries in whole runs, and looked for in all
that is written or told elsewhere: logs, refusals, the audit log, other tenants' pages."""

import re
import secrets
from pathlib import Path

import pytest

from service.tenants.audit import OPERATORS_CHAIN
from service.tenants.values import Scope
from tests.runs.playing import repl
from tests.web.serving import Served, served

pytestmark = [pytest.mark.anyio, pytest.mark.needs_bwrap]

CODE, CONTEXT, QUESTION, RAISED = (f"canary{name}7f3a" for name in ("code", "context", "ask", "raised"))
PROVIDER_KEY = "sk-canarykey7f3a"

GOOD = repl(f"mark = '{CODE}'; answer['content'] = context; answer['ready'] = True")
FAILING = repl(f"mark = '{CODE}'; raise ValueError('{RAISED}' + context)")
CRASHING = repl(f"mark = '{CODE}'; print(context); import os; os.abort()")


async def _refusals(it: Served, run_id: str, secret: str) -> str:
    """What is told to whoever asks wrongly, with canaries in what they send."""
    told = []
    strange = {"authorization": f"Bearer {secret[:-2]}zz"}
    told.append((await it.client.get(f"/v1/runs/{run_id}", headers=strange)).text)
    told.append((await it.client.post("/v1/contexts", json={"text": CONTEXT, "value": CONTEXT})).text)
    told.append((await it.client.post("/v1/runs", json={"question": [QUESTION], "code": CODE})).text)
    told.append((await it.client.post("/v1/contexts?kind=json", content=CONTEXT.encode())).text)
    async with it.as_other_tenant() as stranger:
        told.append((await stranger.get(f"/v1/runs/{run_id}")).text)
        told.append((await stranger.get("/v1/runs")).text)
        told.append((await stranger.get("/v1/contexts")).text)
    return "\n".join(told)


@pytest.mark.parametrize("turn", [GOOD, FAILING, CRASHING], ids=["good", "failing", "crashing"])
async def test_nothing_secret_shows_where_it_does_not_belong(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    turn: str,
) -> None:
    """Neither code, context, question, exception, answer, key nor grant of a run is in any log line, refusal, record of
    the audit log or other tenant's page, however the run goes."""
    grants: list[str] = []
    make = secrets.token_urlsafe

    def noted(size_bytes: int | None = None) -> str:
        grants.append(make(size_bytes))
        return grants[-1]

    monkeypatch.setattr(secrets, "token_urlsafe", noted)
    async with served(tmp_path, turn, settings={"OPENAI_API_KEY": PROVIDER_KEY}) as it:
        secret = await it.secret(Scope.RUNS, Scope.CONTEXTS)
        contexts = [{"context_id": await it.stored(CONTEXT)}]
        asked = await it.submission(contexts=contexts, question=QUESTION, limits={"turns": 3})
        async with it.client_with(secret) as client:
            run = (await client.post("/v1/runs", json=asked, headers={"prefer": "wait=60"})).json()
        assert run["status"] == "finished", run
        refusals = await _refusals(it, run["run_id"], secret)
        records = await it.stage.service.registry.logs.of(OPERATORS_CHAIN).page(limit=100)
        keys = [secret, secret.rpartition("_")[2], str(it.client.headers["authorization"]).removeprefix("Bearer ")]
    assert grants, "the run had a grant"
    out, err = capfd.readouterr()
    assert out + err + caplog.text, "nothing was logged, so nothing was looked through"
    told = "\n".join([refusals, repr(records), out, err, caplog.text])
    for canary in (CODE, CONTEXT, QUESTION, RAISED, PROVIDER_KEY, *keys, *grants):
        place = re.search(f".{{0,200}}{re.escape(canary)}", told)
        assert place is None, place
