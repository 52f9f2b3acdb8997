"""Copies of what a run has done, for another run or another session: under other ids, and never paid again."""
