"""What a harvest costs; `python -m benchmarks --help`."""
