"""`python -m harvest_assets RUN`."""

from harvest_assets.cli.start import main

main()
