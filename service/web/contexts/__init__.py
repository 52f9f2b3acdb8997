"""Contexts: stored from a JSON body or a stream, described, listed, deleted."""
