"""Questions to the model of a run, answered by a process of its own."""
