"""The metrics of one replica. docs/metrics.md lists them."""

from collections.abc import Callable, Mapping

from service.loop.events import CallFinished, CellFinished, Event, RunFinished, RunSubmitted, RunTakenOver
from service.metrics.series import Counter, Gauge, Histogram, Labels, Metric, exposition

_REQUEST_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CALL_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_LOOK_BOUNDS_S = (0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0)
NO_ROUTE = "none"
"""The route of a request that leads nowhere."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ReplicaMetrics:
    """Counted since this process started."""

    def __init__(self) -> None:
        self._requests = Counter(
            "rlm_http_requests_total", "HTTP requests, by route template.", ("method", "route", "status")
        )
        self._durations = Histogram(
            *("rlm_http_request_seconds", "From the head of a request to the end of its response."),
            *(("route",), _REQUEST_BOUNDS_S),
        )
        self._submitted = Counter("rlm_runs_submitted_total", "Runs submitted here, child runs included.", ())
        self._finished = Counter("rlm_runs_finished_total", "Runs that ended here, by stop reason.", ("stop_reason",))
        self._taken_over = Counter("rlm_runs_taken_over_total", "Runs that this replica went on with.", ())
        self._uncertain = Counter(
            "rlm_uncertain_calls_total", "Model calls that were lost in flight with another, and charged in full.", ()
        )
        self._cells = Counter("rlm_cells_total", "Cells that ran, by how they ended.", ("status",))
        self._calls = Counter("rlm_model_calls_total", "Attempts at model calls.", ("purpose", "outcome"))
        self._call_durations = Histogram(
            "rlm_model_call_seconds", "How long attempts at model calls took.", ("purpose",), _CALL_BOUNDS_S
        )
        self._tokens = Counter("rlm_tokens_total", "Tokens to and from models.", ("direction",))
        self._spent = Counter("rlm_spent_nano_usd_total", "What model calls cost, in nano-USD.", ())
        self._collected = Counter("rlm_blobs_collected_total", "Blobs removed because nothing referred to them.", ())
        self._freed = Counter("rlm_blob_bytes_freed_total", "Their size.", ())
        self._collecting = Histogram(
            "rlm_blob_look_seconds", "How long looks for unreferenced blobs took.", (), _LOOK_BOUNDS_S
        )
        self._found: dict[Labels, float] = {}
        self._blobs = Gauge(
            *("rlm_blobs_looked_for", "What the last look found.", ("found",)),
            lambda: self._found,
        )
        self._metrics: list[Metric] = [
            *(self._requests, self._durations, self._submitted, self._finished),
            *(self._taken_over, self._uncertain),
            *(self._cells, self._calls, self._call_durations, self._tokens, self._spent),
            *(self._collected, self._freed, self._blobs, self._collecting),
        ]

    def watch(self, name: str, about: str, labels: Labels, look: Callable[[], Mapping[Labels, float]]) -> None:
        """Have something looked at whenever the metrics are read. `look` must not block."""
        self._metrics.append(Gauge(name, about, labels, look))

    def text(self) -> str:
        return exposition(self._metrics)

    def count_request(self, method: str, route: str, status: int, *, seconds: float) -> None:
        """`status` is 0 where the connection broke before a response."""
        self._requests.add(method if method in _METHODS else "other", route, str(status))
        self._durations.note(route, seconds=seconds)

    def count_look(self, *, referenced: int, waiting: int, removed: int, freed_bytes: int, seconds: float) -> None:
        """A look for blobs that nothing refers to, as far as this replica makes them."""
        self._collected.add(amount=removed)
        self._freed.add(amount=freed_bytes)
        self._collecting.note(seconds=seconds)
        self._found = {("referenced",): referenced, ("waiting",): waiting}

    def count_event(self, event: Event) -> None:
        """Called with every event that the journal has kept for this replica, once."""
        match event:
            case RunSubmitted():
                self._submitted.add()
            case RunTakenOver():
                self._taken_over.add()
                self._uncertain.add(amount=event.uncertain_calls)
            case RunFinished():
                self._finished.add(event.stop_reason)
            case CellFinished():
                self._cells.add(event.result.status)
            case CallFinished():
                self._calls.add(event.purpose, event.outcome)
                self._call_durations.note(event.purpose, seconds=event.duration_s)
                self._tokens.add("input", amount=event.usage.input_tokens)
                self._tokens.add("output", amount=event.usage.output_tokens)
                self._spent.add(amount=event.cost)
            case _:
                pass
