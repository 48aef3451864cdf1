"""The built-in run: a small language model of docstrings, decomposed; made by `make.py`."""
