"""Harvests as objects of a notebook: `harvest_assets.open` and `harvest_assets.harvest`."""
