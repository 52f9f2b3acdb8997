"""Every benchmark by name, and which of them are to be run. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Stage = Literal["docker", "process", "floors", "hardships", "gateway", "api", "idle_runc", "idle_runsc", "idle_process"]
"""What has to be opened for it: both sides on a backend, or ours and a bare process."""
IDLE_STAGES: tuple[Stage, ...] = ("idle_runc", "idle_runsc", "idle_process")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One name. `what` says what the figure is, for people."""

    name: str
    unit: str
    stage: Stage
    what: str


_DUELS = (
    ("sandbox_ready", "ms", "from asking for a sandbox to the result of its first cell"),
    ("cell_0mb", "ms", "one trivial cell in a session with next to no context"),
    ("cell_1mb", "ms", "the same beside a context of 1 MB"),
    ("cell_10mb", "ms", "the same beside a context of 10 MB"),
    ("cell_50mb", "ms", "the same beside a context of 50 MB"),
    ("batch_1000_0ms", "ms", "1000 sub-calls in one batch, of a model that answers at once"),
    ("batch_1000_100ms", "ms", "1000 sub-calls in one batch, of a model that takes 100 ms"),
    ("run_5_turns", "ms", "a whole run of five turns with one cell each, from submit to answer"),
    ("runs_per_second", "runs/s", "such runs, several at a time, sustained"),
)
_FLOORS = (
    ("claim_warm", "ms", "a warm sandbox claimed; floor: fork a bare Python"),
    ("cold_start", "ms", "nothing warm, to the first cell's result; floor: start a bare Python"),
    ("cell_internal", "ms", "a trivial cell; floor: an echo over a unix socket between two processes"),
    ("context_1gb_ready", "ms", "a stored text of 1 GB, from claim to len(context); floor: map the file"),
    ("context_1gb_50_sessions_host_memory", "MB", "memory of 50 sessions that all read it; floor: its size, once"),
    ("ingest", "MB/s", "a text of 1 GB taken in; floor: copy and hash it"),
    ("import_time", "ms", "a Python that imports the whole service; floor: a bare Python"),
    ("cli_help", "ms", "rlm-service --help; floor: a bare Python"),
)
_HARDSHIPS = (
    ("interrupt", "ms", "from interrupting a spinning cell to its result; floor: SIGINT to a bare Python"),
    ("kill_respawn", "ms", "a cell ends its interpreter, to the next one's first result; floor: fork a bare Python"),
    ("rebuild_100_cells", "ms", "a lost session of 100 cells, to its next result; floor: the cells in a bare Python"),
    ("sessions_active_200", "ms", "p99 of a cell among 200 active sessions; other: of one session alone"),
    ("noisy_neighbour", "ms", "p99 of a cell beside a spinning session for each core; other: without them"),
)
_GATEWAY = (
    ("gateway_cpu_vs_litellm_proxy", "ms", "CPU of one model call, reserved and settled; other: LiteLLM Proxy"),
    ("gateway_calls_per_second", "calls/s", "single model calls, several at a time; other: LiteLLM Proxy"),
)
_API = (
    ("api_run_overhead", "ms", "a run of five turns over REST; other: the same inside the process"),
    ("api_cell_overhead", "ms", "a trivial direct cell over REST; other: the same inside the process"),
    ("sse_idle_followers_memory", "KB", "memory of each of 1,000 idle followers; floor: a bare idle connection"),
    ("sse_idle_followers", "ms", "an event to the last of 1,000 idle followers; other: to a sole one"),
    ("sse_idle_followers_cpu", "ms/s", "CPU while 1,000 follow and nothing happens; other: while nobody does"),
    ("upload", "MB/s", "1 GiB over REST, until it is stored; floor: copy and hash it"),
    ("upload_memory", "MB", "the most memory during such an upload; other: before it"),
)
BENCHMARKS: tuple[Benchmark, ...] = (
    *(Benchmark(name=f"{name}_docker", unit=unit, stage="docker", what=what) for name, unit, what in _DUELS),
    *(Benchmark(name=f"{name}_process", unit=unit, stage="process", what=what) for name, unit, what in _DUELS),
    *(Benchmark(name=name, unit=unit, stage="floors", what=what) for name, unit, what in _FLOORS),
    *(Benchmark(name=name, unit=unit, stage="hardships", what=what) for name, unit, what in _HARDSHIPS),
    *(Benchmark(name=name, unit=unit, stage="gateway", what=what) for name, unit, what in _GATEWAY),
    *(Benchmark(name=name, unit=unit, stage="api", what=what) for name, unit, what in _API),
    *(
        Benchmark(
            name=f"sandbox_{stage.replace('idle', 'idle_memory')}",
            unit="MB",
            stage=stage,
            what="memory of a sandbox that waits to be claimed; floor: a bare Python",
        )
        for stage in IDLE_STAGES
    ),
)
NAMES: tuple[str, ...] = tuple(benchmark.name for benchmark in BENCHMARKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to run, in the order of the catalogue, and what cannot be run here with the reason."""

    run: tuple[Benchmark, ...]
    absent: tuple[tuple[Benchmark, str], ...]

    def of(self, stage: Stage) -> tuple[Benchmark, ...]:
        return tuple(benchmark for benchmark in self.run if benchmark.stage == stage)


def select(only: Collection[str], missing: Mapping[Stage, str]) -> Selection:
    """The benchmarks asked for (all, when none is named) without those whose stage is missing here.

    Raises:
        ValueError: a name that does not exist; the message lists those that do.
    """
    unknown = [name for name in only if name not in NAMES]
    if unknown:
        raise ValueError(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    wanted = [benchmark for benchmark in BENCHMARKS if not only or benchmark.name in only]
    return Selection(
        run=tuple(benchmark for benchmark in wanted if benchmark.stage not in missing),
        absent=tuple((benchmark, missing[benchmark.stage]) for benchmark in wanted if benchmark.stage in missing),
    )


def stages(only: Sequence[str]) -> tuple[Stage, ...]:
    """The stages that the names asked for need."""
    wanted = [benchmark for benchmark in BENCHMARKS if not only or benchmark.name in only]
    return tuple(dict.fromkeys(benchmark.stage for benchmark in wanted))
