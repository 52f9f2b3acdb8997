"""The command line: reads what a person typed, asks `runs` to do it, and shows what happens.

    entry · …_entry · options              the commands and their options, as people type them
    …_command(s)                           what a command does
    question · inputs · storing            what is asked, which files become contexts, and their way into the store
    watching · progress · screen           how a run's events become lines (`progress`, pure) on a terminal
    delivery · out_file · views            how answers, exports, runs and contexts are handed out
    boundary · run_ends · exit_codes       how a command ends

What does not live here: any decision about a run. Nobody imports this package. Every command imports what it needs when
it runs, because `rlm-service --help` must answer in a blink; see `entry`.
"""
