"""The row orders of released versions of `datasets`, as each of them gives them."""
