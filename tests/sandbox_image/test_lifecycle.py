"""Dialling, claiming, asking again: the protocol on the wire."""

import http.client
import json
import os
import signal
import socket
from typing import Any

import pytest

from tests.sandbox_image.host import Answered, Host, children, start_host


def refused(answered: Answered) -> tuple[int, str]:
    return answered.status, answered.json["code"]


def test_nothing_works_before_the_claim() -> None:
    """Every request but the claim is refused until there is one; the second claim is refused too."""
    with start_host() as host:
        for method, path in (
            ("GET", "/stats"),
            ("GET", "/variables"),
            ("POST", "/bind"),
            ("PUT", "/cells/c"),
            ("POST", "/restart"),
        ):
            assert refused(host.request(method, path, {})) == (409, "not_claimed")
        reply = host.claim()
        assert reply["python"].startswith("3.")
        assert refused(
            host.request(
                "POST",
                "/claim",
                {
                    "generation": 1,
                    "grant": "x",
                    "random_seed": 0,
                    "memory_bytes": 1 << 30,
                    "processes": 9,
                    "file_bytes": 9,
                },
            )
        ) == (409, "already_claimed")


def test_a_claim_can_begin_the_namespace() -> None:
    """Bindings that come with the claim are bound when it is answered, whatever the first cell does."""
    with start_host() as host:
        text = {"name": "context", "kind": "text", "files": [host.place("a", "dé".encode())], "aliases": ["c"]}
        reply = host.claim(bind={"bindings": [text], "starts_run": True})
        assert reply["refused"] is None
        assert [variable["name"] for variable in reply["bound"]["variables"]] == ["context", "c"]
        assert host.evaluate("[context, c]") == ["dé", "dé"]


def test_a_claim_stands_where_its_bindings_are_refused() -> None:
    """What cannot be bound is told in the answer; the sandbox is claimed and runs cells."""
    with start_host() as host:
        tool = {"name": "tool", "kind": "code", "code": "1/0"}
        reply = host.claim(bind={"bindings": [tool]})
        assert (reply["bound"], reply["refused"]["code"]) == (None, "bad_request")
        assert "ZeroDivisionError" in reply["refused"]["message"]
        assert host.evaluate("6 * 7") == 42


def test_a_kernel_stands_by_before_the_claim() -> None:
    """It is there, confined, before anybody claims the sandbox; one that has died by then is replaced."""
    with start_host() as host:
        host.stream("control")
        (zygote,) = children(host.process.pid)
        (kernel,) = children(zygote)
        os.kill(kernel, signal.SIGKILL)
        while kernel in children(zygote):
            pass
        host.claim()
        assert host.evaluate("6 * 7") == 42
        assert host.request("GET", "/stats").json["kernel_lives"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes": 1},
        {"processes": 0},
        {"grant": "a b"},
        {"grant": "é"},
        {"generation": -1},
        {"random_seed": 1 << 70},
    ],
)
def test_an_impossible_claim_is_refused_and_can_be_mended(change: dict[str, Any]) -> None:
    """A claim out of range is a bad request, and leaves the sandbox unclaimed."""
    with start_host() as host:
        wanted = {
            "generation": 1,
            "grant": "x",
            "random_seed": 0,
            "memory_bytes": 1 << 30,
            "processes": 9,
            "file_bytes": 9,
        }
        assert refused(host.request("POST", "/claim", wanted | change)) == (400, "bad_request")
        host.claim()


def test_another_generation_is_refused(host: Host) -> None:
    """A host that thinks of another life of the session is told so."""
    assert refused(host.request("GET", "/stats", generation=8)) == (409, "stale_generation")
    assert host.request("GET", "/stats").status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "answer"),
    [
        ("GET", "/", None, (404, "not_found")),
        ("DELETE", "/stats", None, (404, "not_found")),
        ("GET", "/cells/unknown", None, (404, "not_found")),
        ("PUT", "/cells/c", b"{", (400, "bad_request")),
        ("PUT", "/cells/c", {"code": "1"}, (400, "bad_request")),
        ("PUT", "/cells/c", {"code": "1", "active_limit_s": -1, "wall_limit_s": 1, "grace_s": 1}, (400, "bad_request")),
        (
            "PUT",
            "/cells/c",
            {"code": "1", "active_limit_s": 1e300, "wall_limit_s": 1, "grace_s": 1},
            (400, "bad_request"),
        ),
        (
            "PUT",
            "/cells/c",
            {"code": "#" * (2 << 20) + "#", "active_limit_s": 1, "wall_limit_s": 1, "grace_s": 1},
            (413, "too_large"),
        ),
        ("GET", "/values/x?as=text&limit=-1", None, (400, "bad_request")),
        ("GET", "/values/x?depth=3", None, (400, "bad_request")),
        ("POST", "/interrupt", {}, (400, "bad_request")),
        ("POST", "/interrupt", [1] * 10, (400, "bad_request")),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    host: Host, method: str, path: str, body: Any, answer: tuple[int, str]
) -> None:
    """A wrong request gets a closed code, and the stream goes on."""
    assert refused(host.request(method, path, body)) == answer
    assert host.run("print(1)", cell_id="c")["stdout"]["head"] == "1\n"


def test_a_body_above_the_cap_is_refused_before_it_is_sent(host: Host) -> None:
    """The announced length is enough to refuse; the stream is closed, and the lane redials."""
    host.stream("control").sendall(b"PUT /cells/c HTTP/1.1\r\nx-rlm-generation: 7\r\ncontent-length: 9000000\r\n\r\n")
    assert refused(host.receive("control")) == (413, "too_large")
    assert host.stream("control").recv(1) == b""
    host.drop("control")
    assert host.request("GET", "/stats").status == 200


def test_a_cell_runs_once(host: Host) -> None:
    """The same id again returns the kept result, until a later cell acknowledges it; it never runs again."""
    code = "n = globals().get('n', 0) + 1\nprint(n)"
    first = host.run(code, cell_id="a")
    assert host.run(code, cell_id="a") == first
    assert host.request("GET", "/cells/a").json == first
    host.run("pass", cell_id="b", acknowledges="a")
    assert refused(host.request("GET", "/cells/a")) == (404, "not_found")
    assert refused(host.request("PUT", "/cells/a", host.cell_body(code), lane="cells")) == (404, "not_found")
    assert host.evaluate("n") == 1


def test_one_cell_at_a_time(host: Host) -> None:
    """Another id, a value, a binding, while a cell runs: busy. The same id waits for the result."""
    host.send("cells", "PUT", "/cells/long", host.cell_body("while True: pass"))
    host.wait_stat("running_cell", "long")
    for method, path, body in (
        ("PUT", "/cells/other", host.cell_body("1")),
        ("GET", "/values/x", None),
        ("GET", "/variables", None),
        ("POST", "/bind", {"bindings": []}),
        ("GET", "/cells/other", None),
    ):
        assert refused(host.request(method, path, body)) == (409, "busy")
    host.request("POST", "/interrupt", {"cell_id": "long"})
    reply = host.receive("cells").json
    assert host.request("PUT", "/cells/long", host.cell_body("while True: pass")).json == reply


def test_a_lost_connection_does_not_lose_the_cell(host: Host) -> None:
    """When the stream breaks under a running cell, both lanes are dialled again, and the result can be waited for."""
    flag = host.directory / "contexts" / "go"
    host.send(
        "cells",
        "PUT",
        "/cells/lost",
        host.cell_body(f"import os\nwhile not os.path.exists({str(flag)!r}): pass\nprint('done')"),
    )
    host.wait_stat("running_cell", "lost")
    host.drop("cells")
    host.send("cells", "GET", "/cells/lost")
    assert host.request("GET", "/stats").json["running_cell"] == "lost"
    host.drop("cells")
    host.drop("control")
    host.stream("cells")
    host.stream("control")
    flag.touch()
    assert host.request("GET", "/cells/lost", lane="cells").json["stdout"]["head"] == "done\n"
    assert host.run("print(1)")["stdout"]["head"] == "1\n"


def test_ids_run_again_in_a_new_kernel(host: Host) -> None:
    """After a kernel's death its cells may run again under their ids, and the dead cell's result is kept."""
    host.run("x = 1", cell_id="a")
    died = host.run("import os; os._exit(1)", cell_id="b", acknowledges="a")
    assert host.request("GET", "/cells/b").json == died
    assert host.run("x = 2\nprint('again')", cell_id="a")["stdout"]["head"] == "again\n"
    assert host.evaluate("x") == 2


def test_a_reader_that_goes_away_costs_nothing(host: Host) -> None:
    """A host that drops the stream in the middle of a value leaves the kernel and its variables as they were."""
    host.run("big = 'x' * 50_000_000")
    host.send("control", "GET", "/values/big?as=text")
    host.stream("control").recv(1000)
    host.drop("control")
    assert host.run("print(len(big))")["stdout"]["head"] == "50000000\n"
    assert host.request("GET", "/stats").json["kernel_lives"] == 1


def test_a_wrong_proof_opens_nothing(host: Host) -> None:
    """A host that expects another secret refuses every stream; the sandbox goes on trying and changes nothing."""
    host.run("1")
    host.secret = os.urandom(32).hex()
    host.drop("control")
    connection = host.stream("cells")
    host.send("cells", "GET", "/stats")
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert json.loads(response.read())["kernel_lives"] == 1


def test_a_preface_that_is_none_ends_the_sandbox() -> None:
    """A host that answers the first dial with something else is not one to work for."""
    with start_host() as host:
        host.stream("cells"), host.stream("control")
        host.secret = "not hexadecimal"
        host.stop_listening()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(host.directory / "sandbox.sock"))
            listener.listen(4)
            (host.directory / "sandbox.sock").chmod(0o777)
            host.drop("control")
            connection, _ = listener.accept()
            connection.sendall(b'{"secret": "00"}\n')
            assert host.wait_ended() == 78
            connection.close()


def test_stats_count(host: Host) -> None:
    """Lives, the running cell, calls in flight."""
    assert host.request("GET", "/stats").json == {"kernel_lives": 1, "running_cell": None, "host_calls_in_flight": 0}
