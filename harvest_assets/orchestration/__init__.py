"""How the nodes run: partitions, IO manager, settings, checks."""
