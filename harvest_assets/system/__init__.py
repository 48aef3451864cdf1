"""The process and the machine: signals and ports."""
