"""Finding contexts by their text: an index of all that were kept, and what it answers."""
