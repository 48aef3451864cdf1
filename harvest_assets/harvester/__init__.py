"""Batches in, `HarvesterState` out: the statistics, exact and mergeable. Knows tensors only."""
