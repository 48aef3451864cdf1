"""The pages on which people browse components."""
