"""Whole runs, through every room: what a caller can rely on, with a root LM that the test plays."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest, NotFound
from service.ids import EMBEDDED_TENANT, KeyId, RunId, cell_id, new_id
from service.journal.cell_log import CellLog
from service.journal.values import CellRecord
from service.loop.events import CallFinished, CellFinished, ChildRunFinished, NamespaceRebuilt
from service.loop.values import AnswerSource, CallOutcome, CellStatus, Limits, Purpose, StopReason, Tool
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.money import NanoUSD, parse_usd
from service.runs.calls.health import ProviderHealth
from service.runs.calls.metered_call import MeteredCalls
from service.runs.calls.purse import run_account
from service.runs.driving.kept_sessions import KeptSessions
from service.runs.runs import Runs
from service.sandboxes.port import NoSandboxSlot
from tests.runs.doubles import echo, usage_of
from tests.runs.playing import SUB, Stage, repl, stage

pytestmark = pytest.mark.anyio


async def spent_in_ledger(on: Stage, run_id: RunId) -> tuple[int, int]:
    """What the run's account says is spent and held."""
    (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
    return balance.spent, balance.held


async def test_an_answer_travels_from_the_context_to_the_caller(tmp_path: Path) -> None:
    """Code reads the context byte-exactly and submits a value; the run is answered with that value."""
    async with stage(tmp_path, repl("import hashlib\nFINAL(hashlib.sha256(context.encode()).hexdigest())")) as on:
        text = "line\r\nnext\n\ttab é 🦉"
        played = await on.play(await on.request(text))
        assert played.finished.stop_reason is StopReason.ANSWERED
        assert played.finished.answer_source is AnswerSource.SUBMITTED
        assert played.answer.decode() == hashlib.sha256(text.encode()).hexdigest()


async def test_the_root_never_sees_the_context(tmp_path: Path) -> None:
    """What lies beyond the preview appears in no message to the root."""
    async with stage(tmp_path, repl("x = len(context)"), repl("FINAL(x)")) as on:
        await on.play(await on.request("a" * 5_000 + "SECRET" + "b" * 5_000))
        assert all("SECRET" not in m.content for r in on.model.root_requests for m in r.messages)


async def test_every_cent_is_in_the_ledger(tmp_path: Path) -> None:
    """The run's account, its entries, its journal and its last event name the same amount, and nothing stays held."""
    code = "r = llm_query_batched([f'p{i}' for i in range(20)])\nFINAL(len(r))"
    async with stage(tmp_path, repl("print(1)"), repl(code)) as on:
        played = await on.play(await on.request("x", Limits(cost=parse_usd("1"))))
        journal = sum(event.cost for event in played.events if isinstance(event, CallFinished))
        entries = sum(entry.nano_usd for entry in await on.service.runs.rooms.ledger.entries(played.run_id))
        assert await spent_in_ledger(on, played.run_id) == (journal, 0)
        assert journal == entries == played.finished.spent > 0
        view = await on.service.runs.show(played.run_id)
        used = [event.usage for event in played.events if isinstance(event, CallFinished)]
        assert view.input_tokens == sum(usage.input_tokens for usage in used) > 0
        assert view.output_tokens == sum(usage.output_tokens for usage in used) > 0
        assert len(on.server.calls) == sum(isinstance(event, CallFinished) for event in played.events)


async def test_a_small_budget_ends_with_a_wrapped_up_answer(tmp_path: Path) -> None:
    """A model that always wants more stops at `budget`, with an answer asked for in the wrap-up call, within $0.01."""

    def turn(request: ModelRequest) -> str:
        return repl("answer['content'] = 'so far: ' + llm_query('word ' * 400)[:4]\nprint(context[:3000])")

    async with stage(tmp_path, turn) as on:
        played = await on.play(await on.request("x" * 5_000, Limits(cost=NanoUSD(10_000_000), turns=200)))
        assert played.finished.stop_reason is StopReason.BUDGET
        assert played.finished.answer_source in (AnswerSource.EXTRACTED, AnswerSource.PARTIAL)
        assert played.answer
        spent, held = await spent_in_ledger(on, played.run_id)
        assert (spent, held) == (played.finished.spent, 0)
        assert spent <= 10_000_000
        wrap_ups = [e for e in played.events if isinstance(e, CallFinished) and e.purpose is Purpose.WRAP_UP]
        assert len(wrap_ups) == 1


async def test_two_hundred_racing_sub_calls_stay_within_a_cent(tmp_path: Path) -> None:
    """From threads and one batch at once: the ledger never passes $0.01, and the failed tail is told to the model."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    singles = list(pool.map(lambda i: llm_query('s%d ' % i * 300), range(100)))\n"
        "batch = llm_query_batched(['b%d ' % i * 300 for i in range(100)])\n"
        "ok = [r.ok for r in batch]\n"
        "print('in order', ok == sorted(ok, reverse=True), 'singles', sum(r.ok for r in singles), 'batch', sum(ok))"
    )
    async with stage(tmp_path, repl(code), "FINAL_VAR(ok)") as on:
        played = await on.play(await on.request("x", Limits(cost=NanoUSD(10_000_000))))
        spent, held = await spent_in_ledger(on, played.run_id)
        assert spent <= 10_000_000
        assert held == 0
        assert spent == played.finished.spent
        cell = next(e.result for e in played.events if isinstance(e, CellFinished))
        assert "in order True" in cell.stdout.head
        assert "sub-calls failed" in " ".join(m.content for m in on.model.root_requests[-1].messages)


async def test_a_lost_kernel_is_rebuilt_without_calling_a_model_again(tmp_path: Path) -> None:
    """After `os._exit` the variables are back, from recorded host calls; the model is told that the cell was killed."""
    async with stage(
        tmp_path,
        repl("found = llm_query('once')\nimport random\ndice = random.random()\nkept = {'n': 41}"),
        repl("import os\nos._exit(3)"),
        repl("kept['n'] += 1\nFINAL(f'{found} {kept}')"),
    ) as on:
        played = await on.play(await on.request("x"))
        assert played.answer.decode() == "once {'n': 42}"
        assert len(on.model.sub_requests) == 1
        (rebuilt,) = [event for event in played.events if isinstance(event, NamespaceRebuilt)]
        assert (rebuilt.cells, rebuilt.missing) == (1, ())


async def test_an_endless_loop_costs_its_cell_and_not_the_run(tmp_path: Path) -> None:
    """The cell is interrupted at its active limit, its variables stay, and the run goes on."""
    async with stage(tmp_path, repl("before = 7\nwhile True: pass"), repl("FINAL(before)")) as on:
        played = await on.play(await on.request("x", Limits(cell_active_s=0.5)))
        assert played.answer == b"7"
        statuses = [event.result.status.value for event in played.events if isinstance(event, CellFinished)]
        assert statuses == ["timed_out", "ok"]


async def test_a_hundred_megabytes_come_back_whole(tmp_path: Path) -> None:
    """An answer far beyond any output limit is stored and streamed, not parsed."""
    async with stage(tmp_path, repl("big = 'é' * 50_000_000\nFINAL_VAR('big')")) as on:
        played = await on.play(await on.request("x"))
        assert played.finished.answer is not None
        assert played.finished.answer.size_bytes == 100_000_000
        assert hashlib.sha256(played.answer).digest() == hashlib.sha256("é".encode() * 50_000_000).digest()


async def test_child_runs_share_the_budget_and_report_to_their_parent(tmp_path: Path) -> None:
    """A batch of children on a service without spare slots runs one at a time; what they spend is the parent's."""

    def turn(request: ModelRequest) -> str:
        if any("a task for a child" in m.content for m in request.messages[:2]):
            return repl("FINAL('child of ' + str(len(context)))")
        ask = "r = rlm_query_batched(['a task for a child'] * 3, contexts=['a' * 10, 'b' * 20, 'c' * 30])"
        return repl(f"{ask}\nFINAL(' | '.join(r))")

    async with stage(tmp_path, turn, settings={"RLM_SANDBOX_SLOTS": "2", "RLM_WARM_SANDBOXES": "0"}) as on:
        request = replace(await on.request("x", Limits(cost=parse_usd("1"), depth=1)), key_id=KeyId("key_1"))
        played = await on.play(request)
        assert played.answer.decode() == "child of 10 | child of 20 | child of 30"
        children = [event.child for event in played.events if isinstance(event, ChildRunFinished)]
        assert len(children) == 3
        first = [await anext(on.service.runs.follow(child.run_id)) for child in children]
        assert [getattr(entry.event, "key_id", None) for entry in first] == ["key_1"] * 3
        own = sum(event.cost for event in played.events if isinstance(event, CallFinished))
        assert played.finished.spent == own + sum(child.spent for child in children)
        assert (await spent_in_ledger(on, played.run_id)) == (played.finished.spent, 0)


async def test_recursion_ends_at_the_depth_limit(tmp_path: Path) -> None:
    """Three levels of child runs go down; below them `rlm_query` is a plain sub-call."""

    def turn(request: ModelRequest) -> str:
        return repl("r = rlm_query('down', context=context + '>')\nFINAL(str(r) + '<')")

    async def bottom(request: ModelRequest) -> ModelReply:
        text = f"bottom({request.messages[-1].content[-5:]})"
        return ModelReply(text=text, usage=usage_of(request, text))

    async with stage(tmp_path, turn, sub=bottom, settings={"RLM_SANDBOX_SLOTS": "4"}) as on:
        played = await on.play(await on.request("x", Limits(depth=3)))
        assert played.answer.decode() == "bottom(x>>>>)<<<<"


async def test_a_depth_that_can_never_be_served_is_refused_at_submit(tmp_path: Path) -> None:
    """With two slots a run of depth 3 cannot be guaranteed its chain; the sentence says what to change."""
    async with stage(tmp_path, "x", settings={"RLM_SANDBOX_SLOTS": "2"}) as on:
        with pytest.raises(NoSandboxSlot, match="RLM_SANDBOX_SLOTS"):
            await on.service.runs.submit(await on.request("x", Limits(depth=3)))


async def test_cancelling_reaches_calls_in_flight_and_settles_them(tmp_path: Path) -> None:
    """A run waiting for sub-calls ends as cancelled, with its partial answer, and holds nothing afterwards."""
    asked = anyio.Event()

    async def never(request: ModelRequest) -> ModelReply:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    code = "answer['content'] = 'half'"
    wait = "llm_query_batched(['w'] * 5)"
    async with stage(tmp_path, repl(code), repl(wait), sub=never) as on:
        run_id = await on.service.runs.submit(await on.request("x", Limits(cost=parse_usd("1"))))
        on.service.runs.start(run_id)
        await asked.wait()
        await on.service.runs.cancel(run_id)
        events = [entry.event async for entry in on.service.runs.follow(run_id)]
        view = await on.service.runs.show(run_id)
        assert view.stop_reason is StopReason.CANCELLED
        assert b"".join([chunk async for chunk in on.service.runs.answer_chunks(run_id)]) == b"half"
        spent, held = await spent_in_ledger(on, run_id)
        assert (spent, held) == (view.spent, 0)
        cancelled = [e for e in events if isinstance(e, CallFinished) and e.outcome is CallOutcome.CANCELLED]
        assert cancelled
        assert all(call.estimated for call in cancelled)


async def test_cancelling_ends_a_cell_that_ignores_interrupts(tmp_path: Path) -> None:
    """Code that swallows KeyboardInterrupt loses its sandbox; the run still ends as cancelled."""
    stubborn = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    async with stage(tmp_path, repl(stubborn)) as on:
        run_id = await on.service.runs.submit(await on.request("x", Limits(cell_active_s=600)))
        on.service.runs.start(run_id)
        await on.model.was_asked.wait()
        await on.service.runs.cancel(run_id)
        async for _ in on.service.runs.follow(run_id):
            pass
        assert (await on.service.runs.show(run_id)).stop_reason is StopReason.CANCELLED


async def test_the_deadline_leaves_time_to_wrap_up(tmp_path: Path) -> None:
    """A cell that would run on is interrupted before the deadline and the root is asked for what it has."""

    def turn(request: ModelRequest) -> str:
        if len(request.messages) > 2:
            return "FINAL(what I had)"
        return repl("while True: pass")

    async with stage(tmp_path, turn) as on:
        played = await on.play(await on.request("x", Limits(wall_s=4.0)))
        assert played.finished.stop_reason is StopReason.DEADLINE
        assert (played.finished.answer_source, played.answer) == (AnswerSource.EXTRACTED, b"what I had")


async def test_a_session_keeps_its_variables_between_runs(tmp_path: Path) -> None:
    """The second run of a session finds what the first one assigned, and its own context beside it."""
    async with stage(tmp_path, repl("kept = context.upper()\nFINAL(kept)"), repl("FINAL(kept + ' ' + context)")) as on:
        session = await on.service.runs.open_session()
        first = await on.play(await on.request("one", session_id=session))
        second = await on.play(await on.request("two", session_id=session))
        assert (first.answer, second.answer) == (b"ONE", b"ONE two")
        assert len(on.model.root_requests) == 2
        await on.service.runs.close_session(session)
        with pytest.raises(BadRequest, match="closed"):
            await on.service.runs.submit(await on.request("three", session_id=session))


async def test_a_run_does_not_begin_with_the_answer_of_the_one_before(tmp_path: Path) -> None:
    """What an earlier run of the session submitted is no answer to the next question."""
    async with stage(tmp_path, repl("FINAL('old')"), repl("x = 1"), repl("FINAL('new')")) as on:
        session = await on.service.runs.open_session()
        await on.play(await on.request("one", session_id=session))
        assert (await on.play(await on.request("two", session_id=session))).answer == b"new"


async def test_a_session_comes_back_in_another_process(tmp_path: Path) -> None:
    """A service that has never seen the session's sandbox rebuilds it from the cell log, calling no model."""
    async with stage(tmp_path, repl("kept = llm_query('ask once')\nFINAL(kept)")) as on:
        session = await on.service.runs.open_session()
        await on.play(await on.request("one", session_id=session))
    async with stage(tmp_path, repl("FINAL(kept + context)")) as on:
        played = await on.play(await on.request("!", session_id=session))
        assert played.answer == b"ask once!"
        assert on.model.sub_requests == []


async def test_a_failing_provider_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    """A refused key is no crash: stop reason `model_failed`, a clean message, nothing spent."""

    def refuse(request: ModelRequest) -> str:
        raise ModelCallFailed(CallOutcome.REFUSED, "no such key", may_be_billed=False)

    async with stage(tmp_path, refuse) as on:
        played = await on.play(await on.request("x"))
        assert played.finished.stop_reason is StopReason.MODEL_FAILED
        assert played.finished.message
        assert played.finished.spent == 0


async def test_an_answer_under_a_schema_is_validated_and_mended(tmp_path: Path) -> None:
    """A value that breaks the schema is told to the model; the corrected one is the answer, as JSON."""
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    async with stage(tmp_path, repl("FINAL({'n': 'five'})"), repl("FINAL({'n': 5})")) as on:
        played = await on.play(replace(await on.request("x"), answer_schema=schema))
        assert played.answer == b'{"n": 5}'
        assert "five" in on.model.last_observation


async def test_an_unknown_run_is_not_found(tmp_path: Path) -> None:
    """Show and cancel say so; nothing is made up."""
    async with stage(tmp_path, "x") as on:
        missing = RunId(new_id("run"))
        with pytest.raises(NotFound):
            await on.service.runs.show(missing)
        with pytest.raises(NotFound):
            await on.service.runs.cancel(missing)


async def test_a_sub_call_with_a_schema_returns_the_validated_value(tmp_path: Path) -> None:
    """A reply that breaks the schema is asked for once more; what comes back is a dict, and both calls are paid."""
    replies = iter(['{"n": "five"}', '{"n": 5}', "never JSON", "still not"])

    async def sub(request: ModelRequest) -> ModelReply:
        text = next(replies)
        return ModelReply(text=text, usage=usage_of(request, text))

    schema = "{'type': 'object', 'required': ['n'], 'properties': {'n': {'type': 'integer'}}}"
    code = f"a = llm_query('count', schema={schema})\nb = llm_query('again', schema={schema})\n"
    code += "FINAL(f'{a} {b.ok} {b}')"
    async with stage(tmp_path, repl(code), sub=sub) as on:
        played = await on.play(await on.request("x", Limits(cost=parse_usd("1"))))
        assert played.answer.decode().startswith("{'n': 5} False Error:")
        assert len(on.model.sub_requests) == 4
        assert (await spent_in_ledger(on, played.run_id)) == (played.finished.spent, 0)


async def test_one_failing_item_leaves_its_batch_whole(tmp_path: Path) -> None:
    """Values keep their places, the failure is a falsy `.ok` and is named in the observation."""

    async def sub(request: ModelRequest) -> ModelReply:
        if "three" in request.messages[-1].content:
            raise ModelCallFailed(CallOutcome.REFUSED, "not this one", may_be_billed=False)
        return await echo(request)

    code = "r = llm_query_batched(['one', 'two', 'three', 'four'])\nprint([x.ok for x in r], r[3])"
    async with stage(tmp_path, repl(code), "FINAL_VAR(r)", sub=sub) as on:
        played = await on.play(await on.request("x"))
        cell = next(e.result for e in played.events if isinstance(e, CellFinished))
        assert cell.stdout.head == "[True, True, False, True] four\n"
        assert "1 of 4 sub-calls failed: 1 refused" in on.model.last_observation


async def test_code_may_only_name_the_models_of_its_run(tmp_path: Path) -> None:
    """Another model is refused with the names that are allowed, and nothing is called or spent for it."""
    code = "try:\n    print(llm_query('x', model='openai/gpt-5'))\nexcept Exception as e:\n    print(e)"
    async with stage(tmp_path, repl(code), "FINAL(done)") as on:
        played = await on.play(await on.request("x"))
        cell = next(e.result for e in played.events if isinstance(e, CellFinished))
        assert SUB in cell.stdout.head
        assert on.model.sub_requests == []


async def test_code_sees_what_is_left_of_its_budget(tmp_path: Path) -> None:
    """`budget()` names what the ledger says, after the calls so far."""
    async with stage(
        tmp_path, repl("llm_query('x')\nb = budget()\nFINAL(f\"{b['usd']} {b['turns']} {b['depth']}\")")
    ) as on:
        played = await on.play(await on.request("x", Limits(cost=parse_usd("1"), turns=7, depth=2)))
        usd, turns, depth = played.answer.decode().split()
        assert (turns, depth) == ("6", "2")
        assert 0.5 < float(usd) < 1.0


async def test_tools_and_named_contexts_stand_in_the_namespace(tmp_path: Path) -> None:
    """Code tools run once, JSON tools are values, a context has its own name besides `context_0`."""
    tools = (
        Tool(name="double", code="def double(n):\n    return 2 * n"),
        Tool(name="table", value_json='{"a": [1, 2]}'),
    )
    async with stage(tmp_path, repl("FINAL(f\"{double(21)} {table['a']} {report is context_0 is context}\")")) as on:
        request = await on.request("text")
        named = tuple(replace(binding, variable="report") for binding in request.contexts)
        played = await on.play(replace(request, contexts=named, tools=tools))
        assert played.answer.decode() == "42 [1, 2] True"


async def test_a_full_window_moves_old_turns_into_history(tmp_path: Path) -> None:
    """With a small root window the conversation is compacted; the code finds the earlier turns in `history`."""
    models = tmp_path / "models.toml"
    models.write_text(
        'models."openai/gpt-4o-mini" = { window_tokens = 12000, max_output_tokens = 1000, '
        'input_usd_per_million = "0.1", output_usd_per_million = "0.1" }\n'
    )

    def turn(request: ModelRequest) -> str:
        if "about to be shortened" in request.messages[-1].content:
            return "I have been printing."
        if any("moved out of this conversation" in message.content for message in request.messages):
            return repl("FINAL(f'{type(history).__name__} {history[0][\"role\"]} {seen}')")
        return repl("seen = globals().get('seen', 0) + 1\nprint('y' * 6000)")

    async with stage(tmp_path, turn, settings={"RLM_CONFIG": str(models)}) as on:
        played = await on.play(await on.request("x"))
        kind, role, seen = played.answer.decode().split()
        assert (kind, role) == ("list", "assistant")
        assert int(seen) > 2
        purposes = [event.purpose for event in played.events if isinstance(event, CallFinished)]
        assert Purpose.COMPACTION in purposes


async def test_a_cell_that_was_logged_but_never_journalled_runs_once(tmp_path: Path) -> None:
    """A crash between the two writes leaves the cell in the session's log: it is the open cell, not an earlier one."""
    code = "n = globals().get('n', 0) + 1\nFINAL(n)"
    async with stage(tmp_path, repl(code)) as on:
        run_id = await on.service.runs.submit(await on.request("x"))
        session_id = (await on.service.runs.show(run_id)).session_id
        log = CellLog(on.service.store, on.service.blobs, EMBEDDED_TENANT)
        await log.append(session_id, CellRecord(cell_id=cell_id(run_id, 1, 0), run_id=run_id, kind="cell", code=code))
        on.service.runs.start(run_id)
        async for _ in on.service.runs.follow(run_id):
            pass
        assert b"".join([chunk async for chunk in on.service.runs.answer_chunks(run_id)]) == b"1"


async def test_a_cell_that_was_run_again_comes_back_as_it_ended_then(tmp_path: Path) -> None:
    """The first try of the open cell was logged as the kernel's death; the second ended well, and it is the second that
    a later loss of the namespace brings back."""
    async with stage(tmp_path, repl("x = 1"), repl("import os\nos._exit(3)"), repl("FINAL(x)")) as on:
        run_id = await on.service.runs.submit(await on.request("x"))
        session_id = (await on.service.runs.show(run_id)).session_id
        log = CellLog(on.service.store, on.service.blobs, EMBEDDED_TENANT)
        died = CellRecord(
            cell_id=cell_id(run_id, 1, 0), run_id=run_id, kind="cell", code="x = 1", status=CellStatus.KILLED
        )
        await log.append(session_id, died)
        on.service.runs.start(run_id)
        async for _ in on.service.runs.follow(run_id):
            pass
        assert b"".join([chunk async for chunk in on.service.runs.answer_chunks(run_id)]) == b"1"


async def test_a_batch_of_children_ends_where_the_money_does(tmp_path: Path) -> None:
    """Once the budget does not cover a child's first call, the rest of the batch fails at once: no run, no sandbox."""

    def turn(request: ModelRequest) -> str:
        if any("carry it out" in message.content for message in request.messages[:2]):
            return repl("FINAL('done')")
        return repl("r = rlm_query_batched(['a task'] * 60)\nok = [x.ok for x in r]\nFINAL(sum(ok))")

    async with stage(tmp_path, turn, settings={"RLM_SANDBOX_SLOTS": "2", "RLM_WARM_SANDBOXES": "1"}) as on:
        played = await on.play(await on.request("x", Limits(cost=NanoUSD(6_000_000), depth=1)))
        children = [event for event in played.events if isinstance(event, ChildRunFinished)]
        assert 1 <= int(played.answer) <= len(children) < 20
        spent, held = await spent_in_ledger(on, played.run_id)
        assert spent <= 6_000_000
        assert held == 0


async def test_a_defect_is_told_as_one_and_not_as_a_cancel(tmp_path: Path) -> None:
    """What breaks a task of the run ends it as `internal_error`, with its partial answer."""
    async with stage(tmp_path, repl("answer['content'] = 'half'"), repl("llm_query('x')")) as on:

        def clock_that_breaks() -> float:
            if len(on.model.root_requests) > 1:
                raise KeyError("a defect")
            return time.time()

        rooms = on.service.runs.rooms
        metered = MeteredCalls(
            on.service.runs.rooms.ledger,
            clock_that_breaks,
            ProviderHealth(),
            rooms.dispatch,
            on.service.disk,
        )
        async with anyio.create_task_group() as tasks:
            runs = Runs(replace(rooms, metered=metered), tasks, KeptSessions())
            run_id = await runs.submit(await on.request("x"))
            runs.start(run_id)
            async for _ in runs.follow(run_id):
                pass
        view = await on.service.runs.show(run_id)
        assert view.stop_reason is StopReason.INTERNAL_ERROR
        assert b"".join([chunk async for chunk in on.service.runs.answer_chunks(run_id)]) == b"half"
