"""Every provider that LiteLLM knows, through a process that its library has for itself.

In the service's process, where `litellm` is never imported (it takes seconds and 200 MB):

    adapter     the port's implementation: a request becomes a frame, a frame a reply
    process     the process as the service sees it: started when first needed, talked to, ended, started again
    failures    which outcome an error is, and whether it may be billed
    keys        which variables hold whose key

In LiteLLM's own process, which imports nothing else of the service:

    worker      takes calls and makes them with LiteLLM
    transport   the one door out of that process: a single request for each call, and a true record of it

In both: `frames`, how they talk. `providers` makes adapters of it; `rlm-service doctor` starts the process to see that
it can.
"""
