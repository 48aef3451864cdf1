"""`python -m harvest_assets RUN`."""

from harvest_assets.cli import main

main()
