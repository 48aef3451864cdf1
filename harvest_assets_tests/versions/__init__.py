"""The wheel in new environments outside the repository."""
