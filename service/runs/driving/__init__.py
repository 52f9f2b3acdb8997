"""Driving: performs what the loop commands, for one run, from its first event to its last word.

It seats the run in a session, records each event before acting on it, and says the last word when a driver breaks off.
"""
