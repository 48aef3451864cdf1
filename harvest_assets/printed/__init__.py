"""What the terminal and a notebook print of a harvest and of answers about it."""
