"""The loop, tested as playbooks: events in, the due command out. Nothing is faked, because nothing is done."""
