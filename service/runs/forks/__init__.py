"""Forks: a new run that begins with the first turns of another one, and goes its own way from there."""
