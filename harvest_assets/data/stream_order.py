"""The order of the rows of a streamed dataset, whichever version of `datasets` is installed.

1. The data files are shuffled with the seed and read one after another.
2. The first `buffer_size` rows fill a buffer. Each later row replaces a randomly drawn row of the
   buffer, and the row it replaces is the next of the stream.
3. After the last row, the buffer is shuffled and ends the stream.

Step 1 has a NumPy generator of its own; steps 2 and 3 share a second one with the same seed. This
is the order of `datasets` 3 and 4, on which runs were trained; version 5 gives other orders
(`docs/row_order.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np

STREAM_ORDER_VERSION = 1  # part of the fingerprint of streamed rows
_DRAWS = 1000  # drawing one by one gives other places than drawing this many at once

Row = TypeVar("Row")


def stream_order(files: Sequence[Iterable[Row]], seed: int, buffer_size: int) -> Iterator[Row]:
    """The rows of all files in stream order.

    Args:
        files: the rows of each data file; iterated one after another, no further than needed.
        seed: of the shuffle.
        buffer_size: rows in the buffer, at least 1.
    """
    order = list(range(len(files)))
    np.random.default_rng(seed).shuffle(order)
    rows = chain.from_iterable(files[file] for file in order)
    generator = np.random.default_rng(seed)
    places = _places(generator, buffer_size)
    buffer: list[Row] = []
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        place = next(places)
        yield buffer[place]
        buffer[place] = row
    generator.shuffle(buffer)
    yield from buffer


def _places(generator: np.random.Generator, buffer_size: int) -> Iterator[int]:
    while True:
        yield from generator.integers(buffer_size, size=_DRAWS).tolist()
