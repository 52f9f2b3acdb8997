"""Benchmarks: this service beside the reference library `rlms`, and beside what the machine itself can do.

    __main__             the command line: `python -m benchmarks [--only NAME …] [--quick]`
    catalogue            every benchmark by name, and which of them a machine can run (pure)
    rows                 samples become a row, rows become JSON lines and a table (pure)
    measuring            one run: what the machine has is opened stage by stage
    duels                ours against the reference library, turn about
    floors, idle         ours against the least that the same thing can cost on this machine
    hardships            sessions when things get hard
    gateway              our gateway against LiteLLM Proxy
    api                  what the REST API costs; those who follow runs; uploads
    service_side         our side: the real service, opened as the command line opens it
    served               our side behind its REST API
    environments         Python packages of the other sides, installed by hash and never among ours
    reference            the other side: the reference library in an environment and a process of its own
    reference_worker     what runs in that process
    reference_image      the container image that the reference library's Docker mode is given
    proxy                the gateway's other side: LiteLLM Proxy in an environment and a process of its own
    proxy_process        what runs in that process
    floor_worker         a bare process that measures the floors
    client_worker        a bare process that asks over HTTP
    followers            in it: many who follow one run
    model_server         the scripted language model that all sides call over HTTP, a process of its own
    worker, worker_loop  how a measuring process is spoken to, on this side and on its own
    listening            a process that listens on loopback
    cpu, memory          what processes take, as /proc tells it
    material             the texts that contexts are made of

docs/performance.md says what each name measures and where the comparison is unfair. The other sides are never
dependencies: they are installed into `.cache/benchmarks`, and only processes of their own import them. Nothing imports
this package.
"""
