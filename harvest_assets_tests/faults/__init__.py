"""Machines that die: processes killed, disks full or read-only, errors of the disk.

`python -m harvest_assets_tests.faults --kills 1000 --seed 0` kills and prints a table.
"""
