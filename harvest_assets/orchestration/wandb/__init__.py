"""Watching W&B projects for new runs."""
