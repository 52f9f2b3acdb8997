"""One program per client, run by the Python of that client's environment: no import of ours but `telling`."""
