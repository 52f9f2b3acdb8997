"""Tests of what runs inside a sandbox, against a small host of plain sockets."""
