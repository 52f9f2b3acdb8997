"""The command line: how events become lines, files contexts, failures sentences; and the commands as processes."""
