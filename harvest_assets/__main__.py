"""`python -m harvest_assets RUN`."""

from harvest_assets.cli.main import main

main()
