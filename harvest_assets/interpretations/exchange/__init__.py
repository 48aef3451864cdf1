"""Labels and scores to and from the files of other programs, one module a format."""
