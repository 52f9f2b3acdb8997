"""Benchmarks: this service beside the reference library `rlms`, and beside what the machine itself can do.

    __main__             the command line: `python -m benchmarks [--only NAME …] [--quick]`
    catalogue            every benchmark by name, and which of them a machine can run (pure)
    rows                 samples become a row, rows become JSON lines and a table (pure)
    duels                ours against the reference library, turn about
    floors               ours against the least that the same thing can cost on this machine
    service_side         our side: the real service, opened as the command line opens it
    reference            the other side: the reference library in an environment and a process of its own
    reference_worker     what runs in that process
    reference_image      the container image that the reference library's Docker mode is given
    floor_worker         a bare process that measures the floors
    model_server         the scripted language model that both sides call over HTTP, a process of its own
    worker, worker_loop  how a measuring process is spoken to, on this side and on its own
    material             the texts that contexts are made of

docs/performance.md says what each name measures and where the comparison is unfair. The reference library is never a
dependency: it is installed into `.cache/benchmarks`, and only a process of its own imports it. Nothing imports this
package.
"""
