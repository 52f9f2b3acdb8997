"""The journal: an append-only list of events per run, a cell log per session, and the sessions' few facts.

Lives here: `codec` (events as JSON), `redis_journal` (one stream per run; it is the run), `appending` (to it),
`cell_log` (what a session's namespace is rebuilt from), `sessions` (seeds, generation), `requests` (what a request
that may come twice stands for), `values` (what they carry and raise).
The journal is the only truth about a run: everything else, from the live feed to the recovery after a crash, is
read from it. An append is fenced by the run's epoch, so that a replica that was given up for dead cannot write.

Does not live here: what events mean (`loop`), who drives a run and when it is taken over (`runs`), money (`ledger`).
`runs`, `web`, `console` and `cli` may import this room; its siblings may not.
"""
