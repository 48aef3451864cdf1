"""Harvest what the components of a decomposed language model do, as a Dagster asset graph."""

__version__ = "0.1.0"
