"""A decomposition of your own: a function of tokens, or an object that satisfies the protocol."""

from harvest_assets.decompositions.own_model.own_decomposition import OwnDecomposition

__all__ = ["OwnDecomposition"]
