"""The line in which tenants take turns, with nothing but virtual time."""

from collections import Counter, deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.runs.dispatch.fair_line import FairLine, Ticket


def test_ten_thousand_runs_of_one_tenant_delay_the_first_of_another_by_one_slot_at_most() -> None:
    """Whenever the other tenant comes while the ten thousand are served, its first is served next or next but one."""
    for served_before in (0, 1, 7, 5_000, 9_999):
        line: FairLine[str] = FairLine()
        for index in range(10_000):
            line.join("busy", f"busy {index}")
        for _ in range(served_before):
            line.serve()
        line.join("other", "the first")
        assert "the first" in [line.serve().item for _ in range(min(2, len(line)))]


def test_who_leaves_the_line_costs_its_tenant_nothing() -> None:
    """Ten thousand that are withdrawn do not delay the tenant's next behind those of others."""
    line: FairLine[str] = FairLine()
    tickets = [line.join("busy", "withdrawn") for _ in range(10_000)]
    for ticket in tickets:
        line.leave(ticket)
    line.join("other", "others")
    line.join("other", "others")
    line.join("busy", "mine")
    assert "mine" in [line.serve().item for _ in range(2)]


def test_a_tenant_that_pauses_is_owed_nothing() -> None:
    """After a long pause a tenant shares from then on, and does not catch up on what it never asked for."""
    line: FairLine[str] = FairLine()
    line.join("seldom", "seldom")
    for _ in range(1_000):
        line.join("busy", "busy")
    for _ in range(500):
        line.serve()
    for _ in range(100):
        line.join("seldom", "seldom")
    assert 9 <= [line.serve().item for _ in range(20)].count("seldom") <= 11


def test_turns_are_shared_by_what_they_cost() -> None:
    """A tenant whose turns cost three times as much gets a third of the turns."""
    line: FairLine[str] = FairLine()
    for _ in range(400):
        line.join("deep", "deep", cost=3)
        line.join("flat", "flat")
    served = Counter(line.serve().item for _ in range(400))
    assert abs(served["deep"] - 100) <= 1


class LineMachine(RuleBasedStateMachine):
    """Tenants come, leave and are served in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.line: FairLine[int] = FairLine()
        self.waiting: dict[str, deque[Ticket[int]]] = {}
        self.overtaken: dict[str, Counter[str]] = {}
        """Since each tenant began to wait for its next turn: how often others were served."""
        self.count = 0

    @rule(tenant=st.sampled_from("abcd"), cost=st.integers(1, 5))
    def join(self, tenant: str, cost: int) -> None:
        waiting = self.waiting.setdefault(tenant, deque())
        if not waiting:
            self.overtaken[tenant] = Counter()
        self.count += 1
        waiting.append(self.line.join(tenant, self.count, cost=cost))

    @rule(data=st.data())
    @precondition(lambda self: any(self.waiting.values()))
    def leave(self, data: st.DataObject) -> None:
        tenant = data.draw(st.sampled_from(sorted(name for name, each in self.waiting.items() if each)))
        ticket = data.draw(st.sampled_from(list(self.waiting[tenant])))
        self.waiting[tenant].remove(ticket)
        self.line.leave(ticket)

    @rule()
    @precondition(lambda self: any(self.waiting.values()))
    def serve(self) -> None:
        """First come, first served within a tenant."""
        ticket = self.line.serve()
        assert ticket is self.waiting[ticket.tenant].popleft()
        for name, others in self.overtaken.items():
            if name != ticket.tenant:
                others[ticket.tenant] += 1
        self.overtaken[ticket.tenant] = Counter()

    @invariant()
    def nobody_is_passed_for_long(self) -> None:
        """Between two turns of a tenant that waits, each other gets no more turns than the dearest turn is worth."""
        for name, others in self.overtaken.items():
            if self.waiting.get(name):
                assert all(turns <= 5 + 1 for turns in others.values())

    @invariant()
    def its_length_is_how_many_wait(self) -> None:
        assert len(self.line) == sum(map(len, self.waiting.values()))


TestLine = LineMachine.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
