"""Runs: submitted, shown, listed, followed, cancelled, and what came of them."""
