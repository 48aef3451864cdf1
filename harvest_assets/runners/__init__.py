"""Drive a whole harvest: on this machine, by the Dagster daemon, or on SLURM."""
