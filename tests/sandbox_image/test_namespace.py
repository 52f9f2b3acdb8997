"""What a model can rely on in its namespace."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sandbox_image.host import Host, start_host


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Host]:
    """One sandbox for all of these."""
    with start_host() as started:
        started.claim()
        yield started


@pytest.fixture
def host(sandbox: Host) -> Host:
    """With a new kernel for each."""
    assert sandbox.request("POST", "/restart", {}).status == 200
    return sandbox


def printed(reply: dict[str, Any]) -> str:
    assert reply["status"] == "ok", reply
    return str(reply["stdout"]["head"])


def test_everything_lives_on(host: Host) -> None:
    """Variables, imports, functions, classes and open generators live on, and functions see globals defined later."""
    host.run("import math\nx = 41\ndef f(): return later\nclass C:\n    y = 5\ng = iter(range(3)); next(g)")
    assert printed(host.run("later = 'seen'\nprint(x + 1, math.pi > 3, f(), C().y, next(g))")) == "42 True seen 5 1\n"


def test_assigned_before_it_raised_is_kept(host: Host) -> None:
    """What a cell assigned before it raised is there in the next."""
    reply = host.run("kept = 1\nraise ValueError('no')\nlost = 2")
    assert (reply["status"], reply["raised"]["type_name"], reply["raised"]["message"]) == ("raised", "ValueError", "no")
    assert reply["variables"] == ["kept"]
    assert printed(host.run("print(kept, 'lost' in globals())")) == "1 False\n"


@pytest.mark.parametrize(
    ("code", "echoed"),
    [
        ("1 + 1", "2\n"),
        ("'a\\nb'", "'a\\nb'\n"),
        ("None", ""),
        ("1 + 1;", ""),
        ("1 + 1  # why", "2\n"),
        ("x = 5", ""),
        ("x = 5\nx", "5\n"),
        ("print('p')", "p\n"),
        ("for i in range(3): i", ""),
        ("", ""),
        ("# nothing", ""),
        ("'''doc'''", "'doc'\n"),
    ],
)
def test_a_bare_last_expression_is_echoed(host: Host, code: str, echoed: str) -> None:
    """As a notebook would: the last expression, if it has a value and no semicolon."""
    assert printed(host.run(code)) == echoed


def test_top_level_await_has_one_loop(host: Host) -> None:
    """Top-level `await` works, tasks live on between cells, and `asyncio.run` still works beside it."""
    host.run("import asyncio\nasync def double(x):\n    await asyncio.sleep(0)\n    return 2 * x")
    assert printed(host.run("await double(4)")) == "8\n"
    host.run(
        "async def start():\n    global t\n    t = asyncio.get_running_loop().create_task(double(6))\nawait start()"
    )
    assert printed(host.run("await t")) == "12\n"
    assert printed(host.run("print(asyncio.run(double(7)))")) == "14\n"
    assert printed(host.run("[await double(i) for i in range(3)]")) == "[0, 2, 4]\n"


def test_an_exception_in_await_keeps_the_loop(host: Host) -> None:
    """A coroutine that raises, or is interrupted, leaves a loop that works."""
    assert host.run("async def bad(): raise KeyError('k')\nawait bad()")["raised"]["type_name"] == "KeyError"
    stuck = host.run("import asyncio\nwhile True: await asyncio.sleep(0)", active_limit_s=0.2)
    assert (stuck["status"], stuck["raised"]["type_name"]) == ("timed_out", "KeyboardInterrupt")
    assert printed(host.run("await asyncio.sleep(0, 'fine')")) == "'fine'\n"


def test_tracebacks_show_own_lines_only(host: Host) -> None:
    """Frames of the cell with their source lines; none of the library's, none of the server's."""
    host.run("def outer(x):\n    return inner(x)\ndef inner(x):\n    import json\n    return json.loads(x)")
    text = host.run("outer('{')")["raised"]["traceback"]
    assert "File \"<cell 2>\", line 1, in <module>\n    outer('{')" in text
    assert 'File "<cell 1>", line 5, in inner\n    return json.loads(x)' in text
    assert text.splitlines()[-1].startswith("JSONDecodeError: Expecting")
    assert "sandbox_image" not in text
    assert "json/decoder" not in text


def test_syntax_errors_point_at_the_place(host: Host) -> None:
    """The line and a caret."""
    raised = host.run("x = 1\ny = = 2")["raised"]
    assert raised["type_name"] == "SyntaxError"
    assert '  File "<cell 1>", line 2\n    y = = 2\n        ^' in raised["traceback"]


def test_chains_and_groups_are_told(host: Host) -> None:
    """Causes come before effects, and the members of a group are named."""
    text = host.run("try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e")["raised"]["traceback"]
    assert text.index("ZeroDivisionError") < text.index("direct cause") < text.index("KeyError")
    text = host.run("raise ExceptionGroup('many', [ValueError(i) for i in range(9)])")["raised"]["traceback"]
    assert "| ValueError: 0" in text
    assert "9 exceptions in all" in text


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('x' * 50_000_000)",
        "def f(n):\n    return f(n + 1)\nf(0)",
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n):\n    if n == 0: raise ValueError\n    f(n - 1)\nf(90_000)",
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
        "class E(Exception):\n    def __str__(self): return 5\nraise E",
        "raise ExceptionGroup('g', [ValueError('y' * 10**7)] * 1000)",
        "e = ValueError()\ne.__context__ = e\nraise e",
        "raise type('X' * 1_000_000, (Exception,), {})",
        "x = '\\ud800'\nraise ValueError(x)",
    ],
)
def test_whatever_is_raised_is_bounded(host: Host, code: str) -> None:
    """Giant, bottomless and hostile exceptions make a bounded report, and the kernel lives."""
    reply = host.run("kept = 1\n" + code)
    assert reply["status"] == "raised", reply
    assert len(reply["raised"]["traceback"]) <= 16_000
    assert len(reply["raised"]["message"]) <= 2_000
    assert len(reply["raised"]["type_name"]) <= 200
    assert printed(host.run("print(kept)")) == "1\n"


@pytest.mark.parametrize("code", ["import sys\nsys.exit(3)", "raise SystemExit", "exit()", "quit()"])
def test_exit_is_an_exception(host: Host, code: str) -> None:
    """Leaving the interpreter politely is `raised` SystemExit, not a kernel's death."""
    reply = host.run(code)
    assert (reply["status"], reply["raised"]["type_name"]) == ("raised", "SystemExit")


def test_input_says_that_nobody_is_there(host: Host) -> None:
    """`input()` raises a clear error, and stdin is empty."""
    raised = host.run("input('name? ')")["raised"]
    assert (raised["type_name"], "nobody" in raised["message"]) == ("EOFError", True)
    assert printed(host.run("import sys\nprint(repr(sys.stdin.read()))")) == "''\n"


@pytest.mark.parametrize(
    "text",
    [b"", b"a\r\nb\rc\n", b"\xef\xbb\xbfbom", "é€😀\u2028 \u0000x".encode(), b"x" * 3_000_000],
    ids=["empty", "newlines", "bom", "wide", "large"],
)
def test_contexts_are_byte_exact(host: Host, text: bytes) -> None:
    """The text that was stored is the text in the variable, byte for byte, under all its names."""
    answered = host.bind_text("context_0", text, aliases=("context",))
    assert [(v["name"], v["size"]) for v in answered.json["variables"]] == [
        ("context_0", len(text.decode())),
        ("context", len(text.decode())),
    ]
    assert host.value("context").body == text
    assert printed(host.run("print(context is context_0, type(context).__name__)")) == "True str\n"


def test_every_kind_of_binding(host: Host) -> None:
    """JSON, JSON lines, named texts and tools become what they should."""
    bindings = [
        {"name": "data", "kind": "json", "files": [host.place("j", b'{"a": [1, 2.5, null]}')]},
        {"name": "rows", "kind": "json_lines", "files": [host.place("l", b'{"n": 1}\n\n"\xe2\x80\xa8"\n')]},
        {"name": "docs", "kind": "named_texts", "files": [host.place("b", b"B\r\n"), host.place("a", b"")]},
        {
            "name": "tool",
            "kind": "code",
            "code": "import re\ndef shout(x):\n    return x.upper() + suffix\nsuffix = '!'",
        },
    ]
    names = [v["name"] for v in host.request("POST", "/bind", {"bindings": bindings}).json["variables"]]
    assert names == ["data", "rows", "docs", "re", "shout", "suffix"]
    assert host.evaluate("[data, rows, list(docs.items()), shout('a')]") == [
        {"a": [1, 2.5, None]},
        [{"n": 1}, "\u2028"],
        [["b", "B\r\n"], ["a", ""]],
        "A!",
    ]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"files": [{"part": "p", "file": "absent", "size_bytes": 1}]}, 404, "not_found"),
        ({"files": [{"part": "p", "file": "../sandbox.sock", "size_bytes": 1}]}, 400, "bad_request"),
        ({"files": [{"part": "p", "file": "..", "size_bytes": 1}]}, 400, "bad_request"),
        ({"files": [{"part": "p", "file": "bad", "size_bytes": 4}]}, 400, "bad_request"),
        ({"files": [{"part": "p", "file": "bad", "size_bytes": 3}]}, 400, "bad_request"),
        ({"files": []}, 400, "bad_request"),
        ({"kind": "json", "files": [{"part": "p", "file": "nan", "size_bytes": 2}]}, 400, "bad_request"),
        ({"name": "not a name"}, 400, "bad_request"),
        ({"name": "class"}, 400, "bad_request"),
        ({"kind": "code", "code": "1/0"}, 400, "bad_request"),
        ({"kind": "pickle"}, 400, "bad_request"),
    ],
)
def test_a_binding_that_cannot_be_made_is_refused(host: Host, change: dict[str, Any], status: int, code: str) -> None:
    """Missing and wrong files, other directories, broken text, names that are none, tools that raise."""
    host.place("bad", b"a\xffb")
    host.place("nan", b"{,")
    answered = host.request("POST", "/bind", {"bindings": [{"name": "context", "kind": "text", "files": []} | change]})
    assert (answered.status, answered.json["code"]) == (status, code)
    assert printed(host.run("print(1)")) == "1\n"


def test_names_of_the_contract_are_restored(host: Host) -> None:
    """Overwritten or deleted, the contract's names are back in the next cell; in their own cell the writes count."""
    host.bind_text("context", b"text")
    code = (
        "llm_query = 5\ndel FINAL\ncontext = context[:1]\nprint(llm_query, context)\n"
        "import builtins\nbuiltins.input = 3"
    )
    assert printed(host.run(code)) == "5 t\n"
    assert (
        printed(host.run("print(context, callable(llm_query), callable(FINAL), callable(input))"))
        == "text True True True\n"
    )


def test_the_next_run_of_a_session_begins_anew(host: Host) -> None:
    """A bind that starts a run gives it a fresh answer, keeps the variables, and lets go of the last run's names."""
    host.bind_text("context", b"first")
    host.run("x = 1\nFINAL('old')")
    binding = {"name": "other", "kind": "text", "files": [host.place("o", b"second")]}
    assert host.request("POST", "/bind", {"bindings": [binding], "starts_run": True}).status == 200
    reply = host.run("context = 'mine'\nprint(x, other, answer)")
    assert printed(reply) == "1 second {'content': '', 'ready': False}\n"
    assert reply["answer"] is None
    assert host.evaluate("context") == "mine"


def test_changed_names_are_reported(host: Host) -> None:
    """Names bound or rebound, sorted, without underscores and without the contract's own."""
    assert host.run("b = 1\na = 2\n_c = 3\nllm_query = 4\nimport os")["variables"] == ["a", "b", "os"]
    assert host.run("a = 5\nanswer['content'] = 'x'\nlist(range(3))")["variables"] == ["a"]
    assert len(host.run("for i in range(300): globals()[f'w{i:03}'] = i")["variables"]) == 200


def test_show_vars_and_variables(host: Host) -> None:
    """`SHOW_VARS()` and `/variables` list the model's own variables with type and size."""
    host.run("import os\nxs = [1, 2]\nn = 5\n_hidden = 1\nclass L:\n    def __len__(self): raise ValueError\nbad = L()")
    shown = printed(host.run("SHOW_VARS()"))
    assert shown == "L: type\nbad: L\nn: int\nxs: list of 2\n"
    variables = host.request("GET", "/variables").json["variables"]
    assert {"name": "xs", "type_name": "list", "size": 2} in variables
    assert [v["name"] for v in variables] == ["L", "bad", "n", "xs"]


def test_output_keeps_both_ends_and_the_true_length(host: Host) -> None:
    """Ten megabytes of output are reported as head, tail and length."""
    reply = host.run("print('start' + 'x' * 10_000_000 + 'end')\nimport sys\nsys.stderr.write('oops');")
    assert reply["stdout"]["size_bytes"] == 10_000_009
    assert reply["stdout"]["head"].startswith("startxxx")
    assert reply["stdout"]["tail"].endswith("xend\n")
    assert reply["stderr"] == {"head": "oops", "tail": "", "size_bytes": 4}


def test_odd_output_is_text(host: Host) -> None:
    """Bytes, surrogates, NUL and a closed stream do not spoil a report or the next cell."""
    reply = host.run("import os, sys\nos.write(1, b'\\xff\\x00')\nprint('\\ud800')\nsys.stdout.close()")
    assert reply["stdout"]["head"] == "\\xff\x00\\ud800\n"
    assert printed(host.run("print('again')")) == "again\n"
    host.run("import sys, os\nsys.stdout = None\nos.close(1)")
    assert printed(host.run("print('still')")) == "still\n"


def test_output_of_native_code_and_threads_is_captured(host: Host) -> None:
    """What threads print before the cell ends belongs to the cell, what they print after it to the next."""
    code = (
        "import threading\ngo = threading.Event()\nt = threading.Thread(target=lambda: (go.wait(), print('late')))\n"
        "t.start()"
    )
    assert printed(host.run(code)) == ""
    assert printed(host.run("go.set(); t.join()")) == "late\n"


def test_a_run_is_repeatable(host: Host) -> None:
    """`random` is seeded by the claim and hashing by the environment, so a rebuilt namespace is the same."""
    first = host.evaluate("[__import__('random').random(), hash('x')]")
    host.request("POST", "/restart", {})
    assert host.evaluate("[__import__('random').random(), hash('x')]") == first


def test_dataclasses_pickles_and_source_work(host: Host) -> None:
    """Things that look for `__main__` and for source lines find them."""
    host.run(
        "from dataclasses import dataclass\nimport pickle, inspect\n@dataclass\n"
        "class P:\n    x: int = 3\ndef f():\n    return 1"
    )
    assert printed(host.run("print(pickle.loads(pickle.dumps(P())), __name__)")) == "P(x=3) __main__\n"
    assert printed(host.run("print(inspect.getsource(f), end='')")) == "def f():\n    return 1\n"


# The answer.


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("answer['content'] = 'a'; answer['ready'] = True", "a"),
        ("FINAL('a')", "a"),
        ("SUBMIT('a')", "a"),
        ("SUBMIT(answer='a')", "a"),
        ("x = 'a'\nFINAL_VAR('x')", "a"),
        ("x = 'a'\nFINAL_VAR(' \"x\" ')", "a"),
        ("x = ['a']\nFINAL_VAR(x)", "['a']"),
        ("answer = {'content': 'a', 'ready': True}", "a"),
        ("answer['content'] = 'a'\nanswer = {'ready': True}", "a"),
        ("answer = 'a'\nFINAL_VAR('answer')", "a"),
        ("FINAL(42)", "42"),
        ("FINAL({'k': [1]})", "{'k': [1]}"),
        ("FINAL(b'by\\xff')", "by\\xff"),
        ("FINAL('\\ud800x')", "\\ud800x"),
        ("FINAL('')", ""),
        ("import threading\nt = threading.Thread(target=FINAL, args=('a',))\nt.start(); t.join()", "a"),
        ("FINAL('first')\nFINAL('a')", "a"),
    ],
)
def test_every_way_to_submit(host: Host, code: str, content: str) -> None:
    """Each way to submit makes the answer ready, measured and readable."""
    reply = host.run(code)
    expected = content.encode()
    assert reply["status"] == "ok", reply
    assert reply["answer"]["ready"]
    assert reply["answer"]["size_bytes"] == len(expected)
    assert reply["answer"]["sha256"] == hashlib.sha256(expected).hexdigest()
    answered = host.value("answer")
    assert (answered.status, answered.body) == (200, expected)
    assert answered.headers["x-rlm-sha256"] == reply["answer"]["sha256"]


@pytest.mark.parametrize(
    ("code", "partial"),
    [
        ("answer['content'] = 'so far'", "so far"),
        ("answer = 'so far'", "so far"),
        ("answer = ['so', 'far']", "['so', 'far']"),
        ("answer = {'a': 1}", "{'a': 1}"),
        ("answer['content'] = 'so far'; answer['ready'] = 'False'", "so far"),
        ("answer['content'] = 'so far'; answer['ready'] = None", "so far"),
    ],
)
def test_unfinished_answers_are_measured(host: Host, code: str, partial: str) -> None:
    """What stands in `answer` without being ready is a partial answer, and the name is the dict again."""
    reply = host.run(code)
    assert (reply["answer"]["ready"], reply["answer"]["size_bytes"]) == (False, len(partial))
    assert host.value("answer").body.decode() == partial
    assert printed(host.run("print(sorted(answer))")) == "['content', 'ready']\n"


@pytest.mark.parametrize("code", ["x = 1", "answer['ready'] = False", "answer = {'content': '', 'ready': False}"])
def test_an_untouched_answer_is_none(host: Host, code: str) -> None:
    """While nothing was written there is no answer to report."""
    assert host.run(code)["answer"] is None


def test_deleting_the_answer_keeps_it(host: Host) -> None:
    """`del answer` does not lose what was written."""
    host.run("answer['content'] = 'kept'")
    assert host.run("del answer")["answer"]["size_bytes"] == 4


def test_a_missing_variable_is_told_with_those_there_are(host: Host) -> None:
    """`FINAL_VAR` of a name that does not exist raises and lists the variables."""
    raised = host.run("result = 1\nFINAL_VAR('resultt')")["raised"]
    assert raised["type_name"] == "NameError"
    assert "'resultt'" in raised["message"]
    assert "result" in raised["message"].split("exist: ")[1]
    assert host.run("1")["answer"] is None


def test_an_answer_as_json(host: Host) -> None:
    """Where JSON is asked for, the answer is JSON; what is not JSON is raised and not submitted."""
    reply = host.run("FINAL({'a': ['é', 1.5, None, True], 'b': '\\ud800'})", answer_as="json")
    assert reply["answer"]["ready"]
    body = host.value("answer", "json").body
    assert len(body) == reply["answer"]["size_bytes"]
    assert json.loads(body) == {"a": ["é", 1.5, None, True], "b": "\ud800"}
    for bad in ("{1, 2}", "float('nan')", "object()", "{'x': [float('inf')]}"):
        reply = host.run(f"FINAL({bad})", answer_as="json")
        assert (reply["status"], reply["raised"]["type_name"]) == ("raised", "Unserialisable")
        assert reply["answer"] is None
        after = host.run("print(answer['ready'])", answer_as="json")
        assert printed(after) == "False\n"
        assert not after["answer"]["ready"]


def test_an_answer_whose_str_raises_is_not_submitted(host: Host) -> None:
    """The model is told, and can try again."""
    reply = host.run("class A:\n    def __str__(self): raise KeyError('k')\nFINAL(A())")
    assert (reply["status"], "KeyError" in reply["raised"]["message"]) == ("raised", True)
    assert host.run("FINAL('better')")["answer"]["ready"]


def test_a_huge_unfinished_answer_costs_nothing(host: Host) -> None:
    """A partial answer above a megabyte is reported by its rough size, without a digest."""
    reply = host.run("answer['content'] = 'x' * 50_000_000")
    assert reply["answer"] == {"ready": False, "type_name": "str", "size_bytes": 50_000_000, "sha256": ""}
    reply = host.run("answer['content'] = [['x'] * 1000] * 1000")
    assert reply["answer"] == {"ready": False, "type_name": "list", "size_bytes": 1000, "sha256": ""}
    assert host.run("answer['content'] = loop = []; loop.append(loop)")["answer"]["sha256"] in (
        "",
        hashlib.sha256(b"[[...]]").hexdigest(),
    )


def test_an_answer_of_a_hundred_megabytes(host: Host) -> None:
    """Measured at the cell's end and read as a raw stream, without a second copy in the kernel's memory."""
    reply = host.run("FINAL('0123456789' * 10_000_000)")
    answered = host.value("answer")
    assert len(answered.body) == reply["answer"]["size_bytes"] == 100_000_000
    assert hashlib.sha256(answered.body).hexdigest() == reply["answer"]["sha256"]
    assert answered.headers["x-rlm-type"] == "str"


def test_a_value_has_a_limit_and_a_type(host: Host) -> None:
    """Any variable can be read as text or JSON, under a limit that is checked first."""
    host.run("xs = [1, 'é']\nbig = 'x' * 1000\nclass Odd: pass\nodd = Odd()")
    assert host.value("xs", "json").body == '[1, "é"]'.encode()
    assert host.value("xs").body == "[1, 'é']".encode()
    assert host.value("xs").headers["x-rlm-type"] == "list"
    assert host.value("big", limit=1000).status == 200
    assert (host.value("big", limit=999).status, host.value("big", limit=999).json["code"]) == (413, "too_large")
    assert host.value("absent").status == 404
    assert host.value("__builtins__").status == 404
    assert (host.value("odd", "json").status, host.value("odd", "json").json["code"]) == (422, "unserialisable")
    assert host.value("big", "pickle").status == 400
