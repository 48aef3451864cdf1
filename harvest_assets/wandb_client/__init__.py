"""Names, runs and files of W&B."""
