"""The nodes of the graph, one file a stage."""
