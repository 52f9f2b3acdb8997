"""Calls from a cell to models, through the supervisor, to a gateway."""

import threading
from collections import Counter
from typing import Any

import pytest

from tests.sandbox_image.host import GRANT, PATIENCE_S, GatewayServer, Host, children, echo_gateway, start_host


def test_a_call_is_a_request_under_its_key(host: Host, gateway: GatewayServer) -> None:
    """The gateway sees the cell, the function, the ordinal among equals, the arguments and the grant."""
    host.run(
        "llm_query('é\\ud800'); llm_query('x', model='m', schema={'b': 1, 'a': 2}); llm_query('é\\ud800')", cell_id="c1"
    )
    host.run("llm_query('é\\ud800')", cell_id="c2")
    keys = [(r["cell_id"], r["function"], r["ordinal"]) for r in gateway.requests]
    assert keys == [("c1", "llm_query", 0), ("c1", "llm_query", 0), ("c1", "llm_query", 1), ("c2", "llm_query", 0)]
    assert gateway.requests[1]["arguments"] == {"prompts": ["x"], "model": "m", "schema": {"a": 2, "b": 1}}
    assert set(gateway.grants) == {f"Bearer {GRANT}"}


def test_a_new_grant_is_used_at_once(host: Host, gateway: GatewayServer) -> None:
    """After `/grant` calls are made under the new one."""
    host.request("POST", "/grant", {"grant": "another"})
    host.run("llm_query('x')")
    assert gateway.grants == ["Bearer another"]
    assert host.request("POST", "/grant", {"grant": "a\r\nb: c"}).status == 400


def test_every_function_in_every_way(host: Host, gateway: GatewayServer) -> None:
    """Single, batched, recursive and awaited calls arrive with the arguments of the protocol and return in order."""
    code = """
out = [llm_query('a'), llm_query_batched(['b', 'c']), rlm_query('d', context=['x', {'y': 1}]), rlm_query('e')]
out += [rlm_query_batched(['f', 'g'], contexts=['1', [2]]), rlm_query_batched(('h',), 'm')]
out += [await allm_query('i'), await allm_query_batched(iter(['j'])), await arlm_query('k', context='z')]
out += [await arlm_query_batched(['l'], contexts=['w']), budget(), llm_query_batched([])]
"""
    host.run(code)
    assert host.evaluate("out") == [
        "A",
        ["B", "C"],
        "D",
        "E",
        ["F", "G"],
        ["H"],
        "I",
        ["J"],
        "K",
        ["L"],
        {"usd": 1.5},
        [],
    ]
    contexts = [r["arguments"].get("contexts", "none") for r in gateway.requests if r["function"].startswith("rlm")]
    assert contexts == [[["x", {"y": 1}]], None, ["1", [2]], None, ["z"], ["w"]]
    assert Counter(r["function"] for r in gateway.requests) == {
        "llm_query": 2, "llm_query_batched": 2, "rlm_query": 3, "rlm_query_batched": 3, "budget": 1
    }  # fmt: skip


def test_a_failed_item_is_text_that_says_so(host: Host, gateway: GatewayServer) -> None:
    """One failing item does not fail the others, begins with `Error:`, knows it failed, and calls itself a `str`."""
    host.run("a, b = llm_query_batched(['good', 'fail'])")
    assert host.evaluate("[a.ok, b.ok, b, type(b).__name__, isinstance(b, str), a + '!', {a: 1}[str(a)]]") == [
        True, False, "Error: the model took too long", "str", True, "GOOD!", 1
    ]  # fmt: skip
    host.run("import pickle, copy\nc = [pickle.loads(pickle.dumps(a)), copy.deepcopy(a)]")
    assert host.evaluate("c") == ["GOOD", "GOOD"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("llm_query_batched('one text')", "TypeError"),
        ("llm_query('x', model=5)", "TypeError"),
        ("llm_query('x', schema='string')", "TypeError"),
        ("rlm_query_batched(['a', 'b'], contexts=['1'])", "ValueError"),
        ("rlm_query('a', context={1, 2})", "TypeError"),
        ("rlm_query('a', context=float('nan'))", "ValueError"),
    ],
)
def test_misuse_is_an_exception_at_its_place(host: Host, code: str, error: str) -> None:
    """Arguments that cannot be understood raise in the cell, before anything is sent."""
    assert host.run(code)["raised"]["type_name"] == error


def test_prompts_are_taken_as_they_come(host: Host, gateway: GatewayServer) -> None:
    """Messages become JSON text, other values their `str`."""
    host.run("llm_query_batched([[{'role': 'user', 'content': 'é'}], 5, llm_query('q')])")
    assert gateway.requests[1]["arguments"]["prompts"] == ['[{"role": "user", "content": "é"}]', "5", "Q"]


def test_threads_and_coroutines_call_at_once(host: Host) -> None:
    """Forty calls from threads and forty from coroutines are in flight together, and each gets its own reply."""
    together = threading.Barrier(40)

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        together.wait(30)
        return echo_gateway(request, grant)

    server = GatewayServer(host.directory, answer)
    code = (
        "from concurrent.futures import ThreadPoolExecutor\nimport asyncio\n"
        "with ThreadPoolExecutor(40) as pool: a = list(pool.map(llm_query, [f't{i}' for i in range(40)]))\n"
        "b = await asyncio.gather(*[allm_query(f'c{i}') for i in range(40)])"
    )
    assert host.run(code)["status"] == "ok"
    assert host.evaluate("[a, b]") == [[f"T{i}" for i in range(40)], [f"C{i}" for i in range(40)]]
    server.close()


def test_more_calls_than_are_held_wait_in_the_kernel(host: Host, gateway: GatewayServer) -> None:
    """Two thousand calls at once all come back, though the supervisor holds only some of them at a time."""
    code = "import asyncio\nr = await asyncio.gather(*[allm_query(f'x{i}') for i in range(2000)])\nprint(len(set(r)))"
    assert host.run(code)["stdout"]["head"] == "2000\n"


def test_a_batch_beyond_one_request_is_cut(host: Host, gateway: GatewayServer) -> None:
    """Batches of any size return whole and in order; a single prompt above the cap fails alone."""
    host.run("r = llm_query_batched([c * (6 << 20) for c in 'abc'])")
    assert host.evaluate("[(len(x), x[0], x.ok) for x in r]") == [[6 << 20, c, True] for c in "ABC"]
    assert sorted(len(request["arguments"]["prompts"]) for request in gateway.requests) == [1, 2]
    host.run("r = llm_query_batched(['a', 'x' * (65 << 20), 'b'])")
    assert host.evaluate("[r[0], r[1].ok, r[1][:19], r[2]]") == ["A", False, "Error: the call has", "B"]


@pytest.mark.parametrize("function", ["llm_query_batched", "rlm_query_batched"])
def test_a_batch_of_too_many_prompts_is_refused(host: Host, gateway: GatewayServer, function: str) -> None:
    """One more than there may be raises with what to do instead, and nothing is asked for; as many as may be return."""
    reply = host.run(f"r = {function}(['x'] * 10_001)")
    assert reply["status"] == "raised"
    assert "at most 10000 prompts, found 10001: make several batches" in str(reply)
    assert gateway.requests == []
    host.run(f"r = {function}([f'p{{i}}' for i in range(10_000)])")
    assert host.evaluate("[len(r), r[0], r[-1], all(x.ok for x in r)]") == [10_000, "P0", "P9999", True]


def test_waiting_for_a_model_is_not_active_time(host: Host) -> None:
    """A cell that waits for a model longer than its active limit is not stopped; one that spins beside it is."""
    release = threading.Event()

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        if request["arguments"]["prompts"] == ["slow"]:
            release.wait(30)
        return echo_gateway(request, grant)

    server = GatewayServer(host.directory, answer)
    host.send("cells", "PUT", "/cells/slow", host.cell_body("x = llm_query('slow')\nprint(x)", active_limit_s=0.3))
    host.wait_stat("host_calls_in_flight", 1)
    threading.Timer(0.8, release.set).start()
    reply = host.receive("cells").json
    assert (reply["status"], reply["stdout"]["head"]) == ("ok", "SLOW\n")
    assert reply["active_s"] < 0.3 < reply["wall_s"]
    release.clear()
    code = "import threading\nthreading.Thread(target=llm_query, args=('slow',)).start()\nwhile True: pass"
    reply = host.run(code, active_limit_s=0.3)
    assert (reply["status"], reply["namespace_lost"]) == ("timed_out", False)
    release.set()
    server.close()


def test_an_interrupt_reaches_a_cell_that_waits(host: Host) -> None:
    """A cell that waits for a model is interrupted at once, and its late reply spoils nothing."""
    release = threading.Event()

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        if request["arguments"]["prompts"] == ["slow"]:
            release.wait(30)
        return echo_gateway(request, grant)

    server = GatewayServer(host.directory, answer)
    for code in ("llm_query('slow')", "await allm_query('slow')"):
        release.clear()
        host.send("cells", "PUT", f"/cells/{len(code)}", host.cell_body(code))
        host.wait_stat("host_calls_in_flight", 1)
        host.request("POST", "/interrupt", {"cell_id": str(len(code))})
        reply = host.receive("cells").json
        assert (reply["status"], reply["raised"]["type_name"]) == ("raised", "KeyboardInterrupt")
        release.set()
        assert host.run("print(llm_query('next'))")["stdout"]["head"] == "NEXT\n"
        host.wait_stat("host_calls_in_flight", 0)
    server.close()


def test_a_call_between_cells_is_refused(host: Host, gateway: GatewayServer) -> None:
    """A thread that outlives its cell cannot spend anybody's money while no cell runs."""
    flag = host.directory / "contexts" / "go"
    code = (
        f"import threading, os, time\ngot = []\ndone = threading.Event()\ndef late():\n"
        f"    while not os.path.exists({str(flag)!r}): time.sleep(0.001)\n    got.append(llm_query('late'))\n"
        f"    open('said', 'w').close()\nthreading.Thread(target=late).start()"
    )
    host.run(code)
    flag.touch()
    while not (host.directory.parent / "tmp" / "said").exists():
        pass
    assert host.evaluate("[got[0].ok, got[0][:29]]") == [False, "Error: no cell is running, so"]
    assert gateway.requests == []


LEFT_BEHIND = """
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
got, go, pool = {}, threading.Event(), ThreadPoolExecutor(2)
def late(where):
    go.wait()
    got[where] = llm_query(where)
def start_late(): threading.Thread(target=late, args=('grandchild',)).start()
async def late_task():
    await asyncio.to_thread(go.wait)
    got['task'] = await allm_query('task')
thread = threading.Thread(target=late, args=('thread',)); thread.start()
starter = threading.Thread(target=lambda: (go.wait(), start_late())); starter.start()
work = pool.submit(late, 'work')
async def make_task(): return asyncio.create_task(late_task())
task = await make_task()
"""
GO_ON = """
go.set(); thread.join(); starter.join(); work.result(); await task
while 'grandchild' not in got: pass
"""


def test_what_an_earlier_run_left_behind_cannot_spend(host: Host, gateway: GatewayServer) -> None:
    """Threads, their threads, work in pools and tasks of an earlier run are refused; what this run makes is not."""
    host.run(LEFT_BEHIND)
    assert host.request("POST", "/bind", {"bindings": [], "starts_run": True}).status == 200
    assert host.run(GO_ON)["status"] == "ok"
    assert host.evaluate("{k: v.ok for k, v in got.items()}") == dict.fromkeys(
        ("thread", "grandchild", "work", "task"), False
    )
    assert "an earlier run" in host.evaluate("got['thread']")
    assert gateway.requests == []
    code = (
        "threads = [threading.Thread(target=late, args=(k,)) for k in 'ab']\n"
        "for t in threads: t.start()\nfor t in threads: t.join()\n"
        "r = [got['a'], got['b'], pool.submit(llm_query, 'kept pool').result(), llm_query('main')]\n"
        "r += [await asyncio.to_thread(llm_query, 'to thread'), await asyncio.create_task(allm_query('task'))]"
    )
    assert host.run(code)["status"] == "ok"
    assert host.evaluate("r") == ["A", "B", "KEPT POOL", "MAIN", "TO THREAD", "TASK"]


def test_what_an_earlier_cell_left_behind_goes_on(host: Host, gateway: GatewayServer) -> None:
    """Within a run, a thread, a pool or a task that a cell began may be waited for in a later one."""
    host.run(LEFT_BEHIND)
    assert host.run(GO_ON)["status"] == "ok"
    assert host.evaluate("sorted(got.values())") == ["GRANDCHILD", "TASK", "THREAD", "WORK"]


FORGE = """
import json, os, socket, struct
def forge(header, body):
    header = json.dumps(header).encode()
    for fd in range(3, 12):
        try: s = socket.socket(fileno=os.dup(fd))
        except OSError: continue
        if fd == calls_fd: s.sendall(struct.pack('>II', len(header), len(body)) + header + body)
        s.detach()
"""


HONEST = '{"prompts":["a"],"model":null,"schema":null}'


@pytest.mark.parametrize(
    ("header", "body", "kind"),
    [
        ({"id": 1, "cell": 999, "function": "llm_query"}, HONEST, "refused"),
        ({"id": 1, "function": "llm_query"}, HONEST, "refused"),
        ({"id": 1, "cell": 1, "function": "shutdown"}, HONEST, "refused"),
        ({"id": 1, "cell": 1, "function": "__class__"}, "{}", "refused"),
        ({"id": 1, "cell": 1, "function": "llm_query"}, "{", "refused"),
        ({"id": 1, "cell": 1, "function": "llm_query"}, '{"prompts":["a"]}', "refused"),
        ({"id": 1, "cell": 1, "function": "llm_query"}, '{"prompts":["a","b"],"model":null,"schema":null}', "refused"),
        ({"id": 1, "cell": 1, "function": "llm_query"}, '{"prompts":[1],"model":null,"schema":null}', "refused"),
        ({"id": 1, "cell": 1, "function": "llm_query"}, '{"prompts":["a"],"model":null,"schema":{"x":NaN}}', "refused"),
        ({"id": 1, "cell": 1, "function": "rlm_query"}, '{"prompts":["a"],"model":null,"contexts":[]}', "refused"),
        ({"id": 1, "cell": 1, "function": "budget"}, '{"x":1}', "refused"),
        ({"id": 1, "cell": 1, "function": "llm_query"}, "[", "too_long"),
        ({"id": 1, "cell": 1, "function": "llm_query"}, '{},"cell_id":"forged","arguments":{}', "refused"),
    ],
)
def test_a_forged_call_reaches_nobody(
    host: Host, gateway: GatewayServer, header: dict[str, Any], body: str, kind: str
) -> None:
    """Whatever a hostile kernel sends as a host call is refused by the supervisor before the gateway hears of it."""
    reply = forged_call(host, header, f"{body!r}.encode() * {3_000_000 if kind == 'too_long' else 1}")
    assert (reply["status"], reply["stdout"]["head"]) == ("ok", f"1 {kind}\n"), reply
    assert gateway.requests == []


def forged_call(host: Host, header: dict[str, Any], body: str) -> dict[str, Any]:
    """A cell that sends this as a host call (`body` is an expression) and prints how many items came and of what."""
    return host.run(
        FORGE + "import select\n"
        "fds = []\n"
        "for fd in range(3, 12):\n"
        "    try: s = socket.socket(fileno=os.dup(fd))\n"
        "    except OSError: continue\n"
        "    fds.append(fd); s.detach()\n"
        "calls_fd = max(fds[:2])\n"
        f"forge({header!r}, {body})\n"
        "s = socket.socket(fileno=os.dup(calls_fd))\n"
        "h, b = struct.unpack('>II', s.recv(8, socket.MSG_WAITALL))\n"
        "s.recv(h, socket.MSG_WAITALL); items = json.loads(s.recv(b, socket.MSG_WAITALL))['items']\n"
        "print(len(items), items[0]['kind'])"
    )


def test_a_connection_that_breaks_is_tried_again_under_the_same_key(host: Host) -> None:
    """A gateway that hangs up and errs twice still gives one reply, and saw the same key each time."""
    answers = iter([(0, None), (503, {"detail": "starting"})])

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        return next(answers, None) or echo_gateway(request, grant)

    server = GatewayServer(host.directory, answer)
    assert host.run("print(llm_query('x'))")["stdout"]["head"] == "X\n"
    assert len(server.requests) == 3
    assert all(request == server.requests[0] for request in server.requests)
    server.close()


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, {"title": "Unauthorized"}, "Error: Unauthorized"),
        (402, {"detail": "no money left"}, "Error: no money left"),
        (413, {}, "Error: the gateway answered 413"),
        (200, {"items": []}, "Error: the gateway's reply does not fit the call"),
        (200, {"items": 5}, "Error: the gateway's reply does not fit the call"),
        (200, [1], None),
    ],
)
def test_a_gateway_that_refuses_fails_the_items(host: Host, status: int, body: Any, text: str | None) -> None:
    """A refusal, or a reply that does not fit, is a failed reply in the cell, said in its words."""
    server = GatewayServer(host.directory, lambda _request, _grant: (status, body))
    reply = host.run("r = llm_query('x')\nprint(r, r.ok)")
    if text is not None:
        assert reply["stdout"]["head"] == f"{text} False\n"
    assert host.run("1")["status"] == "ok"
    server.close()


def test_no_gateway_is_unavailable(host: Host) -> None:
    """Without a gateway the items fail after some tries, and the cell goes on."""
    reply = host.run("r = llm_query_batched(['a', 'b'])\nprint([x.ok for x in r], r[0])")
    assert reply["stdout"]["head"].startswith("[False, False] Error: the gateway cannot be reached")


def test_calls_of_a_lost_kernel_are_broken_off(host: Host) -> None:
    """When a kernel dies with calls in flight, they are given up and do not hold up those of the next kernel."""
    release = threading.Event()

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        if request["arguments"]["prompts"] == ["slow"]:
            release.wait(30)
        return echo_gateway(request, grant)

    server = GatewayServer(host.directory, answer)
    code = (
        "import threading, os\nfor i in range(70): threading.Thread(target=llm_query, args=('slow',)).start()\n"
        "while True: pass"
    )
    host.send("cells", "PUT", "/cells/doomed", host.cell_body(code))
    host.wait_stat("host_calls_in_flight", 70)
    assert host.request("POST", "/restart", {}).status == 200
    assert host.receive("cells").json["status"] == "killed"
    assert host.run("print(llm_query('next'))")["stdout"]["head"] == "NEXT\n"
    host.wait_stat("host_calls_in_flight", 0)
    release.set()
    server.close()


def test_abandoned_calls_are_not_made_again(host: Host) -> None:
    """Calls on connections that served before are broken off too when their kernel dies: the gateway sees each once."""
    release = threading.Event()
    together = threading.Barrier(64)

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        match request["arguments"]["prompts"]:
            case ["quick"]:
                together.wait(PATIENCE_S)
            case ["slow"]:
                release.wait(PATIENCE_S)
        return echo_gateway(request, grant)

    server = GatewayServer(host.directory, answer)
    host.run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(64) as pool: list(pool.map(llm_query, ['quick'] * 64))"
    )
    code = (
        "import threading, os, time\nfor i in range(64): threading.Thread(target=llm_query, args=('slow',)).start()\n"
        "while not os.path.exists('die'): time.sleep(0.001)\nos._exit(1)"
    )
    host.send("cells", "PUT", "/cells/doomed", host.cell_body(code))
    host.wait_stat("host_calls_in_flight", 64)
    while len(server.requests) < 128:
        assert host.process.poll() is None
    (host.directory.parent / "tmp" / "die").touch()
    assert host.receive("cells").json["status"] == "killed"
    assert host.run("print(llm_query('next'))")["stdout"]["head"] == "NEXT\n"
    host.wait_stat("host_calls_in_flight", 0)
    assert sum(request["arguments"]["prompts"] == ["slow"] for request in server.requests) == 64
    release.set()
    server.close()


def test_calls_are_served_where_no_thread_can_be_started() -> None:
    """Calls for which the supervisor can have no further thread wait for those it has, and all are answered."""
    release = threading.Event()

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        release.wait(PATIENCE_S)
        return echo_gateway(request, grant)

    limited = ("sh", "-c", 'ulimit -s 8192; ulimit -d 225280; exec "$@"', "sh")  # forty stacks are more
    with start_host(started_by=limited) as host:
        host.claim(memory_bytes=160 << 20)
        server = GatewayServer(host.directory, answer)
        code = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "with ThreadPoolExecutor(40) as pool: print(sum(x.ok for x in pool.map(llm_query, map(str, range(40)))))"
        )
        host.send("cells", "PUT", "/cells/many", host.cell_body(code))
        host.wait_stat("host_calls_in_flight", 40)
        release.set()
        assert host.receive("cells").json["stdout"]["head"] == "40\n"
        host.wait_stat("host_calls_in_flight", 0)
        server.close()


def test_a_call_for_whose_reply_no_thread_can_wait_fails(host: Host, gateway: GatewayServer) -> None:
    """A kernel that has no thread left for its first call says so, and makes later calls when it has one."""
    code = (
        "import threading\nstart = threading.Thread.start\n"
        'def refuse(thread): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = refuse\nr = llm_query('x')\nthreading.Thread.start = start\n"
        "print(r.ok, r[:26], llm_query('y'))"
    )
    assert host.run(code)["stdout"]["head"] == "False Error: no thread can be ha Y\n"


def test_a_refusal_is_smaller_than_the_call(host: Host, gateway: GatewayServer) -> None:
    """A forged batch that is refused is answered with one item, so that refusing costs no memory."""
    body = b'{"prompts":[' + b",".join([b'""'] * 10_000) + b'],"model":null,"schema":{"x":NaN}}'
    answered = forged_call(host, {"id": 1, "cell": 1, "function": "llm_query_batched"}, repr(body))
    assert answered["stdout"]["head"] == "1 refused\n", answered
    assert gateway.requests == []


def test_a_call_is_made_under_the_grant_of_its_moment(host: Host) -> None:
    """A call that is repeated after `/grant` is still made under the grant that its cell had."""
    changed = threading.Event()

    def answer(request: dict[str, Any], grant: str) -> tuple[int, Any]:
        if len(server.requests) > 1:
            return echo_gateway(request, grant)
        changed.wait(PATIENCE_S)
        return 503, {"detail": "starting"}

    server = GatewayServer(host.directory, answer)
    host.send("cells", "PUT", "/cells/c", host.cell_body("print(llm_query('x'))"))
    host.wait_stat("host_calls_in_flight", 1)
    while not server.requests:
        assert host.process.poll() is None
    assert host.request("POST", "/grant", {"grant": "another"}).status == 200
    changed.set()
    assert host.receive("cells").json["stdout"]["head"] == "X\n"
    assert set(server.grants) == {f"Bearer {GRANT}"}
    server.close()


def test_a_kernel_that_does_not_read_its_replies_is_still_stopped(host: Host, gateway: GatewayServer) -> None:
    """Thousands of calls whose replies are never read hold up nobody but the kernel: its limits hold as ever."""
    code = (
        "import threading\nthreading.Thread(target=int).start()\nllm_query('x')\n"
        "import sys\nsys.setswitchinterval(1000)\n"
        "import json, os, socket, struct\n"
        "socks = []\n"
        "for fd in range(3, 12):\n"
        "    try: socks.append(socket.socket(fileno=os.dup(fd)))\n"
        "    except OSError: pass\n"
        "header = json.dumps({'do': 'call', 'id': 1, 'cell': 0, 'function': 'x' * 1000}).encode()\n"
        "while True: socks[1].sendall(struct.pack('>II', len(header), 0) + header)"
    )
    reply = host.run(code, active_limit_s=0.5, grace_s=0.5)
    assert reply["status"] == "timed_out", reply
    host.request("POST", "/restart", {})
    assert host.run("print(llm_query('next'))")["stdout"]["head"] == "NEXT\n"


@pytest.mark.needs_root
def test_the_kernel_holds_no_credential(host: Host, gateway: GatewayServer) -> None:
    """Neither the grant nor the dial secret is anywhere in the memory of the kernel or the zygote."""
    host.run("llm_query('x'); import os; print(dict(os.environ), __import__('sys').argv)")
    secrets = [GRANT.encode(), host.secret.encode(), bytes.fromhex(host.secret)]
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    assert GRANT.encode() in found_in_memory(host.process.pid, secrets)
    assert found_in_memory(zygote, secrets) == set()
    assert found_in_memory(kernel, secrets) == set()


def found_in_memory(pid: int, needles: list[bytes]) -> set[bytes]:
    """Which of the needles stand in the process's writable memory."""
    found: set[bytes] = set()
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(edge, 16) for edge in place.split("-"))
                memory.seek(start)
                data = memory.read(end - start)
                found |= {needle for needle in needles if needle in data}
    return found
