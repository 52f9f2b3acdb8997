"""How refusals look: one table, one body."""

import re
from pathlib import Path

import pytest

from service.errors import Fault, RlmServiceError
from service.web.problems import STATUS_OF_CODE
from tests.cli.test_exit_codes import every_error_class
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio


def errors_of_the_service() -> list[type[RlmServiceError]]:
    """All but the command line's own, which never meet a client."""
    return [error for error in every_error_class() if not error.__module__.startswith("service.cli.")]


def test_every_error_has_a_status_and_the_table_has_nothing_else() -> None:
    """The table and the tree agree, code by code, so that no error becomes a 500 because somebody forgot it."""
    codes = {error.code for error in errors_of_the_service()}
    of_http = {"method_not_allowed"}
    assert set(STATUS_OF_CODE) - of_http == codes


def test_whose_fault_it_is_decides_between_4xx_and_5xx() -> None:
    """No error of the caller is told as a failure of the service, and no failure of the service as the caller's."""
    internal = {"body_too_large", "grant_refused", "host_call_refused"}
    for error in errors_of_the_service():
        status = STATUS_OF_CODE[error.code]
        if error.fault is Fault.CALLER and error.code not in internal:
            assert 400 <= status < 500, error
        if error.fault is Fault.PLATFORM:
            assert status >= 500, error


async def test_a_method_that_a_route_lacks_is_told_with_all_that_it_has(it: Served) -> None:
    """On every path of the API, `allow` lists each of its methods, whichever route of it was declared first."""
    paths = (await it.client.get("/openapi.json")).json()["paths"]
    assert len(paths) > 50
    for path, methods in paths.items():
        reply = await it.client.request("TRACE", re.sub(r"\{[^}]*\}", "x", path))
        assert reply.status_code == 405, path
        assert reply.headers.get_list("allow") == [", ".join(sorted(method.upper() for method in methods))], path


async def test_every_refusal_has_one_body_for_both_kinds_of_client(tmp_path: Path) -> None:
    """RFC 9457's members and OpenAI's `error` object say the same, with the request's id, whatever refused it."""
    async with served(tmp_path) as it:
        replies = [
            await it.client.get("/v1/nothing"),
            await it.client.put("/v1/runs"),
            await it.client.get("/v1/runs/run_" + "0" * 32),
            await it.client.get("/v1/runs/nonsense"),
            await it.client.post("/v1/runs", json={"question": 7}),
            await it.client.post("/v1/runs", content=b"{", headers={"content-type": "application/json"}),
            await it.client.post("/v1/runs", content=b"{}"),
            await it.client.get("/v1/runs/nonsense", headers={"authorization": "Bearer rlm_nobody"}),
        ]
        assert [reply.status_code for reply in replies] == [404, 405, 404, 404, 422, 400, 415, 401]
        for reply in replies:
            body = reply.json()
            assert reply.headers["content-type"] == "application/problem+json"
            assert body["status"] == reply.status_code
            assert body["request_id"] == reply.headers["x-request-id"]
            assert body["error"]["message"] == body["detail"]
            assert body["error"]["code"] == body["code"]
            assert body["type"].endswith(body["code"])


async def test_a_client_may_name_its_request(tmp_path: Path) -> None:
    """A plain `x-request-id` comes back; one that could break a log line does not."""
    async with served(tmp_path) as it:
        named = await it.client.get("/livez", headers={"x-request-id": "mine-1.2_3"})
        hostile = await it.client.get("/livez", headers={"x-request-id": 'a" b'})
        assert named.headers["x-request-id"] == "mine-1.2_3"
        assert hostile.headers["x-request-id"].startswith("req_")
