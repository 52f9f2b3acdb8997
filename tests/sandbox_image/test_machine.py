"""A sandbox against a model of it: in whatever order a host acts, variables and results are as they should be."""

from contextlib import ExitStack
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.sandbox_image.host import GatewayServer, Host, echo_gateway, start_host

NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(0, 99)


class SandboxMachine(RuleBasedStateMachine):
    """The model: the variables, the results by id, the cell that is running, and how many kernels there were."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.host: Host = self.stack.enter_context(start_host())
        self.gateway = GatewayServer(self.host.directory, echo_gateway)
        self.stack.callback(self.gateway.close)
        self.variables: dict[str, int] = {}
        self.results: dict[str, Any] = {}
        self.running: str | None = None
        self.lives = 1
        self.calls = 0

    @initialize()
    def claim(self) -> None:
        self.host.claim()

    def idle(self) -> bool:
        return self.running is None

    @precondition(idle)
    @rule(name=NAMES, number=NUMBERS, fails=st.booleans(), acknowledge=st.booleans())
    def assign(self, name: str, number: int, fails: bool, acknowledge: bool) -> None:
        cell_id = self.host.next_cell_id()
        last = next(reversed(self.results), None) if acknowledge else None
        code = f"{name} = {number}\nprint({name})" + ("\n1/0" if fails else "")
        reply = self.host.run(code, cell_id=cell_id, acknowledges=last)
        assert reply["status"] == ("raised" if fails else "ok")
        assert reply["stdout"]["head"] == f"{number}\n"
        self.variables[name] = number
        if last is not None:
            del self.results[last]
        self.results[cell_id] = reply

    @precondition(idle)
    @rule(name=NAMES)
    def read(self, name: str) -> None:
        answered = self.host.value(name)
        if name in self.variables:
            assert answered.body == str(self.variables[name]).encode()
        else:
            assert answered.status == 404

    @precondition(lambda self: self.results)
    @rule(data=st.data(), put=st.booleans())
    def ask_again(self, data: st.DataObject, put: bool) -> None:
        cell_id = data.draw(st.sampled_from(sorted(self.results)))
        if put:
            answered = self.host.request("PUT", f"/cells/{cell_id}", self.host.cell_body("1/0"))
        else:
            answered = self.host.request("GET", f"/cells/{cell_id}")
        assert answered.json == self.results[cell_id]

    @precondition(idle)
    @rule(prompts=st.lists(st.text(alphabet="xyz", max_size=3), min_size=1, max_size=3))
    def call(self, prompts: list[str]) -> None:
        cell_id = self.host.next_cell_id()
        reply = self.host.run(f"print(llm_query_batched({prompts!r}))", cell_id=cell_id)
        assert reply["stdout"]["head"] == f"{[p.upper() for p in prompts]}\n"
        self.results[cell_id] = reply
        self.calls += 1

    @precondition(idle)
    @rule(number=NUMBERS)
    def submit(self, number: int) -> None:
        cell_id = self.host.next_cell_id()
        reply = self.host.run(f"FINAL({number})", cell_id=cell_id)
        assert reply["answer"]["ready"]
        assert self.host.value("answer").body == str(number).encode()
        self.results[cell_id] = reply

    @precondition(idle)
    @rule()
    def die(self) -> None:
        cell_id = self.host.next_cell_id()
        reply = self.host.run("import os; os._exit(5)", cell_id=cell_id)
        assert (reply["status"], reply["namespace_lost"]) == ("killed", True)
        self.lose({cell_id: reply})

    @precondition(idle)
    @rule(swallows=st.booleans())
    def run_too_long(self, swallows: bool) -> None:
        cell_id = self.host.next_cell_id()
        code = "sum(range(10**14))" if swallows else "while True: pass"
        reply = self.host.run(code, cell_id=cell_id, active_limit_s=0.05, grace_s=0.05 if swallows else 5.0)
        assert reply["status"] == "timed_out"
        # On a slow machine the first interrupt may come before the call that swallows it.
        assert swallows or not reply["namespace_lost"]
        if reply["namespace_lost"]:
            self.lose({cell_id: reply})
        else:
            self.results[cell_id] = reply

    @precondition(idle)
    @rule()
    def start_endless(self) -> None:
        self.running = self.host.next_cell_id()
        self.host.send("cells", "PUT", f"/cells/{self.running}", self.host.cell_body("while True: pass"))
        self.host.wait_stat("running_cell", self.running)

    @precondition(lambda self: self.running)
    @rule()
    def find_it_busy(self) -> None:
        assert self.host.request("PUT", "/cells/other", self.host.cell_body("1")).json["code"] == "busy"

    @precondition(lambda self: self.running)
    @rule()
    def lose_the_stream(self) -> None:
        self.host.drop("cells")
        self.host.send("cells", "GET", f"/cells/{self.running}")

    @precondition(lambda self: self.running)
    @rule()
    def interrupt(self) -> None:
        assert self.running is not None
        self.host.request("POST", "/interrupt", {"cell_id": self.running})
        reply = self.host.receive("cells").json
        assert (reply["status"], reply["raised"]["type_name"]) == ("raised", "KeyboardInterrupt")
        self.results[self.running] = reply
        self.running = None

    @rule()
    def restart(self) -> None:
        assert self.host.request("POST", "/restart", {}).status == 200
        if self.running is not None:
            answered = self.host.receive("cells")
            assert answered.status == 404 or answered.json["status"] == "killed"
            self.running = None
        self.lose({})

    @rule()
    def drop_control(self) -> None:
        self.host.stream("control")
        self.host.drop("control")

    def lose(self, kept: dict[str, Any]) -> None:
        self.variables, self.results = {}, kept
        lives = self.host.request("GET", "/stats").json["kernel_lives"]
        assert lives > self.lives  # by two when a restart met a cell, whose end brought a kernel of its own
        self.lives = lives

    @invariant()
    def nothing_ends_the_supervisor(self) -> None:
        assert self.host.process.poll() is None

    @invariant()
    def every_call_was_made_once(self) -> None:
        assert len(self.gateway.requests) == self.calls

    def teardown(self) -> None:
        self.stack.close()


TestSandboxMachine = SandboxMachine.TestCase
TestSandboxMachine.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
