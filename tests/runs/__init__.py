"""Tests of the use cases, against a real store, a real gateway and real sandboxes."""
