"""A map of the components of a harvest: those that fire together are near each other."""
