"""Tests of `service.sandboxes`.

contract        what every provider must pass, run against real sandboxes
scripted        a scripted sandbox: a real peer on the real socket that says what a test wants it to say
"""
