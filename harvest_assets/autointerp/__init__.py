"""What components mean, as far as it can be scored: labels, and trials that test them."""
