"""Datasets, tokenization, token texts, and rows of tokens in harvest order."""
