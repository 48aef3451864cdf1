"""Two harvests of the same rows side by side, whatever kinds of decomposition they are of."""

from harvest_assets.comparison.comparison import DEFAULT_TOP, Comparison, compare, compare_known
from harvest_assets.comparison.same_rows import NotComparableError

__all__ = ["DEFAULT_TOP", "Comparison", "NotComparableError", "compare", "compare_known"]
