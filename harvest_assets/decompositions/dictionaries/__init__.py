"""Sparse autoencoders and transcoders over the modules of one target model."""
