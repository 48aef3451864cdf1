"""`python -m harvest_assets RUN`."""

from harvest_assets.cli.commands import main

main()
