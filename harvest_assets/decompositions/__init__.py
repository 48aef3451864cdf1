"""The kinds of decomposition that can be harvested."""
