"""The command line: reads what a person typed, asks `runs` to do it, and shows what happens.

What lives here: the `rlm-service` commands, how files become contexts (`inputs`), how events become lines
(`progress`, pure), the terminal (`screen`) and the exit codes. What does not: any decision about a run.

Nobody imports this package. Every command imports what it needs when it runs, because `rlm-service --help`
must answer in a blink; see `entry`.
"""
