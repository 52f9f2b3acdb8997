"""The commands as processes, through the real path: scripted models, real sandboxes, a real store."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from service.store.server_program import find_server
from tests.cli.conftest import PROGRAM, CommandLine

SCRIPTED = ("--model", "scripted/root", "--sub-model", "scripted/sub")
SLOW = ("--model", "scripted/root?latency_ms=60000")
QUESTION = "What is the magic number?"


@pytest.fixture(scope="module")
def haystack(command_line: CommandLine) -> str:
    """20 000 lines, one of them of interest."""
    lines = [f"line {number} of nothing much" for number in range(20_000)]
    lines[13_131] = "The magic number is 8472093"
    path = command_line.directory / "haystack.txt"
    path.write_text("\n".join(lines))
    return str(path)


def test_the_answer_alone_is_on_stdout(command_line: CommandLine, haystack: str) -> None:
    """A question over a file is answered on stdout; turns, code, cells and money are told on stderr."""
    done = command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED)
    assert done.code == 0, done.err
    assert b"8472093" in done.out
    for told in ("turn 1", "│ ", "cell 1.1 ok", "answered", " of $1.00"):
        assert told in done.err
    assert done.err.isascii() or "\x1b" not in done.err


def test_json_holds_everything_a_script_needs(command_line: CommandLine, haystack: str) -> None:
    """--json prints one object: answer, stop reason, source, counts, and money both exact and readable."""
    done = command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert "8472093" in told["answer"]
    assert (told["stop_reason"], told["answer_source"]) == ("answered", "submitted")
    assert told["turns"] >= 1
    assert told["spent_nano_usd"] > 0
    assert told["spent_usd"].replace(".", "").isdecimal()
    assert told["cost_limit_usd"] == "1.00"
    assert told["input_tokens"] > told["output_tokens"] > 0
    assert told["refused_sub_calls"] == {}
    (sandbox,) = told["sandboxes"]
    assert sandbox["cpu_s"] > 0
    assert sandbox["memory_peak_bytes"] > 0
    assert sandbox["held_s"] > 0


@pytest.mark.takes_long
def test_a_run_can_be_looked_at_later(command_line: CommandLine, haystack: str) -> None:
    """Another process lists the run, shows it and prints its answer, alone or within the rest."""
    asked = json.loads(command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED, "--json").out)
    run_id = asked["run_id"]
    assert run_id.encode() in command_line.run("runs", "ls").out
    assert run_id in [each["run_id"] for each in json.loads(command_line.run("runs", "ls", "--json").out)]
    shown = json.loads(command_line.run("runs", "show", run_id, "--json").out)
    assert {name: asked[name] for name in shown} == shown
    assert command_line.run("runs", "show", run_id, "--answer").out.decode() == asked["answer"]
    page = command_line.run("runs", "show", run_id).out
    assert b"answered" in page
    assert b"s of CPU, at most" in page
    assert json.loads(command_line.run("runs", "show", run_id, "--json", "--answer").out) == asked


@pytest.mark.takes_long
def test_a_run_can_be_followed_later(command_line: CommandLine, haystack: str) -> None:
    """Another process replays a run's progress and its events; to cancel it then changes nothing."""
    run_id = json.loads(command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED, "--json").out)["run_id"]
    shown = json.loads(command_line.run("runs", "show", run_id, "--json").out)
    tail = command_line.run("runs", "tail", run_id)
    assert (tail.code, tail.err) == (0, "")
    assert b"answered" in tail.out
    events = [json.loads(line) for line in command_line.run("runs", "tail", run_id, "--json").out.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["RunSubmitted", "RunFinished"]
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    cancelled = command_line.run("runs", "cancel", run_id)
    assert (cancelled.code, cancelled.out) == (0, b"already ended: answered\n")
    assert json.loads(command_line.run("runs", "show", run_id, "--json").out) == shown


def test_an_answer_can_go_to_a_file(command_line: CommandLine, haystack: str, tmp_path: Path) -> None:
    """--out writes the answer whole, leaves stdout empty and no other file behind."""
    done = command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED, "--out", str(tmp_path / "answer.txt"))
    assert (done.code, done.out) == (0, b"")
    assert "8472093" in (tmp_path / "answer.txt").read_text()
    assert os.listdir(tmp_path) == ["answer.txt"]
    done = command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED, "--out", str(tmp_path / "answer.txt"), "--json")
    assert json.loads(done.out)["answer_path"] == str(tmp_path / "answer.txt")


def test_a_context_can_come_from_stdin(command_line: CommandLine) -> None:
    """`-c -` reads stdin to its end."""
    text = b"filler words\n" * 5000 + b"The magic number is 5550123\n" + b"filler words\n" * 5000
    done = command_line.run("ask", QUESTION, "-c", "-", *SCRIPTED, "-q", given=text)
    assert done.code == 0, done.err
    assert b"5550123" in done.out


def test_contexts_can_be_stored_ahead(command_line: CommandLine, haystack: str) -> None:
    """`contexts put` names what it kept, `contexts ls` finds it again, and the same file is kept once."""
    first = json.loads(command_line.run("contexts", "put", haystack, "--json").out)
    second = json.loads(command_line.run("contexts", "put", haystack, "--json").out)
    assert first == second
    assert first[0]["kind"] == "text"
    listed = command_line.run("contexts", "ls")
    assert first[0]["context_id"].encode() in listed.out
    assert b"haystack.txt" in listed.out
    given = ("-c", first[0]["context_id"], "-c", f"again={first[0]['context_id']}")
    done = command_line.run("ask", QUESTION, *given, *SCRIPTED)
    assert (done.code, b"8472093" in done.out) == (0, True), done.err
    assert "again: str" in done.err


BAD_INPUTS: dict[str, tuple[list[str], int, str]] = {
    "no model": (["ask", "q", "-c", "a.txt"], 2, "which model is to drive the run?"),
    "no context": (["ask", "q", "--model", "scripted/root"], 2, "what is the question about?"),
    "empty question": (["ask", " ", "-c", "a.txt", *SCRIPTED], 2, "the question is empty"),
    "missing file": (["ask", "q", "-c", "gone.txt", *SCRIPTED], 2, "no file, directory or glob match"),
    "binary file": (["ask", "q", "-c", "binary.bin", *SCRIPTED], 2, "is not text (a zero byte at offset 3)"),
    "empty file": (["ask", "q", "-c", "empty.txt", *SCRIPTED], 2, "empty.txt is empty"),
    "empty stdin": (["ask", "q", "-c", "-", *SCRIPTED], 2, "stdin"),
    "broken JSON": (["ask", "q", "-c", "broken.json", *SCRIPTED], 2, "is not JSON"),
    "broken JSON line": (["ask", "q", "-c", "broken.jsonl", *SCRIPTED], 2, "line 2"),
    "unknown model": (["ask", "q", "-c", "a.txt", "--model", "nobody/x"], 2, "no provider is known"),
    "unknown script": (["ask", "q", "-c", "a.txt", "--model", "scripted/x"], 2, "scripted/"),
    "unpriced model": (["ask", "q", "-c", "a.txt", "--model", "openai/nobodys"], 4, "has no price"),
    "no API key": (["ask", "q", "-c", "a.txt", "--model", "openai/gpt-4o-mini"], 2, "OPENAI_API_KEY"),
    "wrong amount": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--max-cost", "ten"], 2, "--max-cost: expected"),
    "amount too fine": (
        ["ask", "q", "-c", "a.txt", *SCRIPTED, "--max-cost", "0.0000000001"],
        2,
        "finer than one nano-USD",
    ),
    "no amount": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--max-cost", "0"], 2, "must be above $0"),
    "NaN seconds": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--timeout", "nan"], 2, "--timeout must be between"),
    "no turns": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--max-turns", "0"], 2, "--max-turns must be between"),
    "missing schema": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--schema", "gone"], 2, "cannot be read"),
    "schema that is none": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--schema", "a.txt"], 2, "is not JSON"),
    "wrong session": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--session", "x"], 2, "session id"),
    "unknown session": (
        ["ask", "q", "-c", "a.txt", *SCRIPTED, "--session", "ses_" + "0" * 32],
        2,
        "session",
    ),
    "empty model": (["ask", "q", "-c", "a.txt", "--model", "openai/"], 2, "expected a model's name"),
    "fraction of a second": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--cell-timeout", "0"], 2, "--cell-timeout must"),
    "unquoted glob": (
        ["ask", "q", "-c", "a.txt", "broken.json", *SCRIPTED],
        2,
        "put the question in quotes, and a glob",
    ),
    "unknown context": (["ask", "q", "-c", "ctx_" + "0" * 32, *SCRIPTED], 2, "`rlm-service contexts ls` lists"),
    "context stored again": (["contexts", "put", "ctx_" + "0" * 32], 2, "is stored already"),
    "demo without a key": (["demo", "--model", "openai/gpt-5-mini"], 2, "OPENAI_API_KEY"),
    "demo for nothing": (["demo", "--max-cost", "0"], 2, "--max-cost must be above $0"),
    "budget for no call": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--max-cost", "0.0000001"], 4, "budget"),
    "more levels than slots": (
        ["ask", "q", "-c", "a.txt", *SCRIPTED, "--max-depth", "16"],
        4,
        "lower its depth to 7 or raise RLM_SANDBOX_SLOTS (--max-depth 7)",
    ),
    "name of Python's own": (["ask", "q", "-c", "print=a.txt", *SCRIPTED], 2, "choose another"),
    "a file system without files": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--out", "/proc/x"], 2, "cannot be written"),
    "reserved name": (["ask", "q", "-c", "answer=a.txt", *SCRIPTED], 2, "REPL's own names"),
    "a name too long": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--out", f"{'x' * 300}/y"], 2, "cannot be written"),
    "nowhere to write": (["ask", "q", "-c", "a.txt", *SCRIPTED, "--out", "gone/x"], 2, "cannot be written"),
    "wrong run id": (["runs", "show", "x"], 2, "expected a run id"),
    "unknown run": (["runs", "show", "run_" + "0" * 32], 2, "`rlm-service runs ls` lists those there are"),
    "unknown run to cancel": (["runs", "cancel", "run_" + "0" * 32], 2, "run_" + "0" * 32),
    "unknown run to tail": (["runs", "tail", "run_" + "0" * 32], 2, "run_" + "0" * 32),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_ends_in_one_sentence(command_line: CommandLine, name: str) -> None:
    """Whatever is wrong with what was typed: one sentence on stderr, the right exit code, nothing on stdout."""
    here = command_line.directory
    (here / "a.txt").write_text("some text")
    (here / "binary.bin").write_bytes(b"abc\0")
    (here / "empty.txt").touch()
    (here / "broken.json").write_text("{")
    (here / "broken.jsonl").write_text("1\n{\n")
    arguments, code, fragment = BAD_INPUTS[name]
    done = command_line.run(*arguments)
    assert fragment in done.complaint
    assert (done.code, done.out) == (code, b"")


def test_what_was_stored_before_a_failure_is_named(command_line: CommandLine, haystack: str) -> None:
    """`contexts put` prints the ids of what it stored, also where a later path cannot be stored."""
    (command_line.directory / "cut.json").write_text("{")
    done = command_line.run("contexts", "put", haystack, "cut.json")
    assert (done.code, done.out.startswith(b"ctx_"), done.out.count(b"\n")) == (2, True, 1)
    assert "cut.json" in done.complaint


def test_an_unusable_data_directory_is_told(command_line: CommandLine) -> None:
    """A data directory below a file is refused with the variable to change."""
    (command_line.directory / "file").touch()
    elsewhere = replace(command_line, settings={"RLM_DATA_DIR": str(command_line.directory / "file" / "data")})
    done = elsewhere.run("runs", "ls")
    assert "RLM_DATA_DIR" in done.complaint
    assert done.code == 2


def test_a_store_that_is_not_there_is_told(command_line: CommandLine) -> None:
    """A Redis URL where nothing listens is the platform's fault: exit code 6."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        done = replace(command_line, settings={"RLM_REDIS_URL": url}).run("runs", "ls")
    assert done.code == 6, done.err
    assert f"the server at {url} (RLM_REDIS_URL) cannot be reached" in done.complaint


@pytest.mark.parametrize("command", [("runs", "ls"), ("ask", "q", "-c", "a.txt", *SCRIPTED), ("doctor",)])
def test_a_wrong_setting_ends_every_command_alike(command_line: CommandLine, command: tuple[str, ...]) -> None:
    """Exit code 2 and the variable, whichever command meets the setting first."""
    (command_line.directory / "file").touch()
    for settings in ({"RLM_REDIS_URL": "localhost"}, {"RLM_DATA_DIR": "file/data"}, {"OPENAI_BASE_URL": "localhost"}):
        done = replace(command_line, settings=settings).run(*command)
        assert done.code == 2
        assert next(iter(settings)) in done.err + done.out.decode()


def test_a_session_goes_on_without_a_context(command_line: CommandLine, haystack: str) -> None:
    """--session needs no -c: its variables are there."""
    asked = json.loads(command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED, "--json", "-q").out)
    done = command_line.run("ask", QUESTION, "--session", asked["session_id"], *SCRIPTED, "--json", "-q")
    assert json.loads(done.out)["session_id"] == asked["session_id"], done.err


def test_a_provider_that_is_not_there_ends_the_run(command_line: CommandLine) -> None:
    """A root LM that cannot be reached: exit code 5, the stop reason and the reason on stderr; its address is in the
    log, which `--traceback` shows, and not in what the run says."""
    models = command_line.directory / "models.toml"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        models.write_text(
            f'[models."local/x"]\nbase_url = "http://127.0.0.1:{listener.getsockname()[1]}/v1"\n'
            "window_tokens = 8192\nmax_output_tokens = 1024\n"
            'input_usd_per_million = "0"\noutput_usd_per_million = "0"\n'
        )
        (command_line.directory / "a.txt").write_text("some text")
        elsewhere = replace(command_line, settings={"RLM_CONFIG": str(models)})
        done = elsewhere.run(
            "ask", "What is in it?", "-c", "a.txt", "--model", "local/x", "--timeout", "20", "--traceback"
        )
    assert done.code == 5, done.err
    assert "the root LM could not be had" in done.err
    assert "the provider openai cannot be reached" in done.err
    assert not re.search(r"127\.0\.0\.1:\d+ cannot be reached", done.err)
    assert re.search(r'"address": "http://127\.0\.0\.1:\d+"', done.err)


def run_id_told(process: "subprocess.Popen[bytes]") -> str:
    """The id from progress, read as far as needed: from then on the run is under way."""
    assert process.stderr is not None
    found = None
    for line in process.stderr:
        found = found or re.search(rb"run_[0-9a-f]{32}", line)
        if found and b"sandbox sbx_" in line:
            return found.group().decode()
    raise AssertionError("the process ended before it told a run id")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_run(command_line: CommandLine, haystack: str, how: signal.Signals) -> None:
    """Ctrl-C or SIGTERM while a model is thinking: the run is cancelled, not left behind, and the exit code says so."""
    with command_line.start("ask", QUESTION, "-c", haystack, *SLOW) as process:
        run_id = run_id_told(process)
        process.send_signal(how)
        process.communicate(timeout=60)
    assert process.returncode == 130
    shown = json.loads(command_line.run("runs", "show", run_id, "--json").out)
    assert shown["stop_reason"] == "cancelled"


def test_a_run_can_be_cancelled_from_elsewhere(command_line: CommandLine, haystack: str) -> None:
    """`runs cancel` reaches a run that another process drives, and `runs tail` sees it end."""
    with command_line.start("ask", QUESTION, "-c", haystack, *SLOW) as process:
        run_id = run_id_told(process)
        assert command_line.run("runs", "cancel", run_id).code == 0
        tail = command_line.run("runs", "tail", run_id)
        process.communicate(timeout=60)
    assert tail.code == 130
    assert b"cancelled" in tail.out
    assert command_line.run("runs", "tail", run_id, "--json").code == 130
    assert process.returncode == 130


@pytest.mark.takes_long
def test_a_run_that_nobody_drives_is_told_as_that(command_line: CommandLine, haystack: str) -> None:
    """Once the lease of an `ask` that was killed is over, every command that looks at its run says what helps."""
    elsewhere = replace(
        command_line, settings={"RLM_DATA_DIR": str(command_line.directory / "killed"), "RLM_LEASE_S": "1"}
    )
    with elsewhere.start("ask", QUESTION, "-c", haystack, *SLOW) as process:
        run_id = run_id_told(process)
        process.kill()
    remedy = b"nobody drives it: start `rlm-service serve`"
    looks = (elsewhere.run("runs", "show", run_id).out for _ in range(100))
    assert any(remedy in shown for shown in looks)
    assert b"not driven" in elsewhere.run("runs", "ls").out
    cancelled = elsewhere.run("runs", "cancel", run_id)
    assert (cancelled.code, remedy.decode() in cancelled.err) == (0, True)
    with elsewhere.start("runs", "tail", run_id) as tail:
        assert tail.stderr is not None
        assert any(remedy in line for line in tail.stderr)
        tail.send_signal(signal.SIGTERM)


def test_the_embedded_store_may_die_under_a_run(command_line: CommandLine, haystack: str) -> None:
    """When the embedded store is killed mid-run it comes back, and the run gets its answer."""
    elsewhere = replace(command_line, settings={"RLM_DATA_DIR": str(command_line.directory / "doomed")})
    with elsewhere.start("ask", QUESTION, "-c", haystack, "--model", "scripted/root?latency_ms=500") as process:
        run_id_told(process)
        os.kill(int((command_line.directory / "doomed" / "store" / "server.pid").read_text()), signal.SIGKILL)
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert b"8472093" in out


@pytest.mark.takes_long
def test_a_store_of_ones_own_may_die_under_a_run(command_line: CommandLine, haystack: str, tmp_path: Path) -> None:
    """When the server at RLM_REDIS_URL dies mid-run and stays away: exit code 6 and one sentence, no traceback."""
    server = [find_server(), "--port", "0", "--unixsocket", "s", "--maxmemory-policy", "noeviction", "--save", ""]
    with subprocess.Popen(server, cwd=tmp_path, stdout=subprocess.PIPE) as store:
        assert store.stdout is not None
        assert any(b"ready to accept connections" in line.lower() for line in store.stdout)
        elsewhere = replace(command_line, settings={"RLM_REDIS_URL": f"unix://{tmp_path}/s"})
        with elsewhere.start("ask", QUESTION, "-c", haystack, *SLOW) as process:
            run_id_told(process)
            store.kill()
            _, err = process.communicate(timeout=90)
    assert process.returncode == 6, err
    assert b"Traceback" not in err
    assert b"rlm-service: " in err.splitlines()[-1]


def test_a_reader_that_goes_away_is_no_error_message(command_line: CommandLine, haystack: str) -> None:
    """`rlm-service … | head -0` ends quietly with the code that pipes have."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [PROGRAM, "contexts", "put", haystack],
        cwd=command_line.directory,
        env=command_line.environment,
        stdout=write_end,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_doctor_tells_what_works(command_line: CommandLine) -> None:
    """Store, sandbox level and models stand in the report; what is missing says what to do."""
    done = command_line.run("doctor", "--json")
    assert done.code == 0, done.out
    found = {finding["subject"]: finding for finding in json.loads(done.out)}
    assert found["store"]["state"] == found["sandbox"]["state"] == found["data directory"]["state"] == "ok"
    assert found["model scripted/root"]["state"] == "ok"
    assert found["model openai/gpt-5-mini"]["state"] == "missing"
    assert "OPENAI_API_KEY" in found["model openai/gpt-5-mini"]["text"]
    assert b"isolation level" in command_line.run("doctor").out


def test_doctor_tells_of_providers_and_never_of_keys(command_line: CommandLine) -> None:
    """Addresses, which keys are set, and whether LiteLLM's process starts; no key, and no password of an address."""
    (command_line.directory / "rlm.toml").write_text(
        '[models."gem"]\napi = "litellm"\nupstream = "gemini/gemini-2.5-flash"\nfallbacks = ["scripted/sub"]\n'
    )
    settings = {
        "RLM_CONFIG": "rlm.toml",
        "OPENAI_BASE_URL": "http://me:pa55word@127.0.0.1:9/v1",
        "ANTHROPIC_API_KEY": "sk-ant-5ecret",
        "GEMINI_API_KEY": "5ecret",
    }
    done = replace(command_line, settings=settings).run("doctor", "--json")
    found = {finding["subject"]: finding for finding in json.loads(done.out)}
    assert found["provider openai"]["text"] == "http://127.0.0.1:9/v1; OPENAI_API_KEY is not set"
    assert found["provider anthropic"]["text"] == "https://api.anthropic.com; ANTHROPIC_API_KEY is set"
    assert found["provider litellm"]["state"] == "ok", found["provider litellm"]
    assert "ANTHROPIC_API_KEY, GEMINI_API_KEY" in found["provider litellm"]["details"][0]
    assert found["model gem"]["details"] == ["falls back to scripted/sub"]
    assert "1 model," in found["configuration"]["text"]
    assert not [secret for secret in ("pa55word", "5ecret") if secret in done.out.decode() + done.err]


def test_a_profile_answers(command_line: CommandLine, haystack: str) -> None:
    """--profile brings models, limits and prompts; an option that is given too counts before it."""
    (command_line.directory / "pack.toml").write_text('base = "small"\nversion = 7\n')
    (command_line.directory / "profiles.toml").write_text(
        '[profiles.plain]\nroot = "scripted/root"\nsub = "scripted/sub"\nmax_cost = "0.25"\nprompt_pack = "ours"\n'
        '[prompt_packs.ours]\npath = "pack.toml"\n'
    )
    elsewhere = replace(command_line, settings={"RLM_CONFIG": "profiles.toml"})
    done = elsewhere.run("ask", QUESTION, "-c", haystack, "--profile", "plain", "--json", "-q")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert "8472093" in told["answer"]
    assert (told["root_model"], told["sub_model"]) == ("scripted/root", "scripted/sub")
    assert told["cost_limit_usd"] == "0.25"
    first = json.loads(elsewhere.run("runs", "tail", told["run_id"], "--json").out.splitlines()[0])
    assert first["prompt"]["pack"] == "ours@7"
    done = elsewhere.run("ask", QUESTION, "-c", haystack, "--profile", "plain", "--max-cost", "0.50", "--json", "-q")
    assert json.loads(done.out)["cost_limit_usd"] == "0.50"
    done = elsewhere.run("ask", QUESTION, "-c", haystack, "--profile", "deep")
    assert "there are: rlm/default, rlm/fast, rlm/deep, rlm/auto, plain" in done.complaint
    assert done.code == 2


def test_one_broken_part_hides_no_other(command_line: CommandLine) -> None:
    """Without a store the doctor still reports sandbox and models, and ends with the store's exit code."""
    done = replace(command_line, settings={"RLM_REDIS_URL": "redis://127.0.0.1:1/0"}).run("doctor", "--json")
    found = {finding["subject"]: finding["state"] for finding in json.loads(done.out)}
    assert (found["store"], found["sandbox"], found["model scripted/root"]) == ("broken", "ok", "ok")
    assert done.code == 6


def test_the_demo_finds_its_number(command_line: CommandLine, tmp_path: Path) -> None:
    """A small demo, end to end: the number is found, the next command is told, nothing is left behind."""
    elsewhere = replace(command_line, settings={"TMPDIR": str(tmp_path)})
    done = elsewhere.run("demo", "--lines", "50000")
    assert done.code == 0, done.err
    assert "This is the hidden number." in done.err
    assert "--model openai/gpt-5-mini" in done.err
    assert os.listdir(tmp_path) == []


ON_A_TERMINAL = """
import anyio
from service.cli.delivery import print_chunks

async def chunks():
    yield b"one \\x1b[2Jtwo \\xf0\\x9f"
    yield b"\\x8e\\x89 three\\nfour"

anyio.run(print_chunks, chunks())
"""


def read_terminal(ours: int) -> str:
    """What was written to a terminal, until everybody has closed its other side."""
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # Linux says EIO when the other side of a terminal is closed
            break
    os.close(ours)
    return shown.decode()


def test_an_answer_cannot_drive_the_terminal() -> None:
    """On a terminal an escape sequence in an answer is shown, not obeyed; characters split over chunks stay whole."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stdout=theirs):
        os.close(theirs)
        shown = read_terminal(ours)
    assert shown.splitlines() == ["one \\x1b[2Jtwo 🎉 three", "four"]


@pytest.mark.parametrize("no_colour", [True, False])
def test_a_terminal_is_used_unless_it_is_not_wanted(command_line: CommandLine, haystack: str, no_colour: bool) -> None:
    """Progress on a terminal has colours and a line that is updated in place; NO_COLOR makes it plain lines."""
    ours, theirs = pty.openpty()
    environment = command_line.environment | {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_colour else {})
    command = [str(PROGRAM), "ask", QUESTION, "-c", haystack, *SCRIPTED]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = read_terminal(ours)
        assert process.stdout is not None
        assert b"8472093" in process.stdout.read()
    assert process.returncode == 0
    assert "turn 1 · " in shown
    assert ("\x1b[" in shown) is not no_colour


def test_an_answer_into_a_pipe_is_byte_exact() -> None:
    """The same answer into a pipe arrives as it is, without a newline of ours."""
    done = subprocess.run([sys.executable, "-c", ON_A_TERMINAL], capture_output=True, timeout=60, check=True)
    assert done.stdout == "one \x1b[2Jtwo 🎉 three\nfour".encode()


@pytest.mark.takes_long
def test_a_run_is_forked_and_replayed(command_line: CommandLine, haystack: str) -> None:
    """A fork of its last turn comes to the same answer for less; a replay says that it is the same, and in JSON."""
    asked = json.loads(command_line.run("ask", QUESTION, "-c", haystack, *SCRIPTED, "--json", "-q").out)
    run_id, turns = asked["run_id"], asked["turns"]
    done = command_line.run("runs", "fork", run_id, "--from-turn", str(turns), "--max-turns", str(turns + 3))
    assert done.code == 0, done.err
    assert done.out.decode().strip() == asked["answer"].strip()
    newest = json.loads(command_line.run("runs", "ls", "--json", "-n", "1").out)[0]
    assert newest["forked_from"] == {"run_id": run_id, "from_turn": turns}
    assert 0 < newest["spent_nano_usd"] <= asked["spent_nano_usd"]
    replayed = command_line.run("runs", "replay", run_id, "--json")
    assert replayed.code == 0, replayed.err
    assert json.loads(replayed.out)["is_same"] is True
    file = command_line.directory / "run.export.jsonl"
    assert command_line.run("runs", "export", run_id, "--out", str(file)).code == 0
    imported = command_line.run("runs", "import", str(file))
    assert imported.code == 0, imported.err
    again = command_line.run("runs", "replay", imported.out.decode().strip())
    assert again.out.startswith(b"the same\n"), again.out
