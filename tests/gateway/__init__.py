"""Tests of the door between sandboxes and models."""
