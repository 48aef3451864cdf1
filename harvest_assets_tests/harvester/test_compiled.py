"""Functions are compiled also where no folder for their machine code can be written."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import caching

from harvest_assets.harvester.compiled import compiled


@pytest.mark.parametrize("writable", [True, False])
def test_a_function_is_compiled_with_and_without_a_cache(
    tmp_path, monkeypatch: pytest.MonkeyPatch, *, writable: bool
):
    if writable:
        monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    else:
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @compiled
    def twice(x):
        return x * 2

    assert twice(np.float64(4)) == 8
    assert twice.signatures
    assert bool(list(tmp_path.rglob("*.nbi"))) == writable
