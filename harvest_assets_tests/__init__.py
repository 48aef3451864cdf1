"""Tests; the folders mirror `harvest_assets`."""
