"""What is killed, one kind a file."""
