"""Files of `torch.save`, opened without trusting them.

1. The archive's directory is read: entries stored plainly, each name once, inside the file.
2. The pickle in it is read without running it: it may name nothing but tensors and their storages,
   so it can neither run code nor ask for memory that the file does not hold.
3. `torch.load` with `weights_only` maps the file.
4. Each tensor must be a plain one inside the bytes of its storage, without overlaps that
   would make it grow when it is copied.
"""

from __future__ import annotations

import os
import pickletools
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MAX_ENTRIES = 1_000_000
_MAX_PICKLE_BYTES = 256 << 20
# A tensor may have several keys, such as tied weights; in sum they hold no more than this many
# times the file.
_MAX_TIMES = 8
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_MAX_COMMENT = 0xFFFF

_GLOBALS = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
_ITEM_SIZES = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2}
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


class UnsafeFileError(ValueError):
    """The file holds more than tensors."""


def open_torch_file(path: Path) -> Any:
    """What `torch.save` was given: tensors, memory-mapped, in dicts and lists.

    Raises:
        OSError: the file cannot be read.
        UnsafeFileError: it asks for more than tensors.
        ValueError: it is damaged, or holds a tensor that is not a plain one.
        Exception: whatever `torch.load` runs into.
    """
    import torch

    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    _check_archive(path)
    value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    _check_tensors(value, path.stat().st_size)
    return value


def _check_archive(path: Path) -> None:
    """Check that the archive can be mapped, and that its pickle names tensors alone."""
    if _number_of_entries(path) > _MAX_ENTRIES:
        raise ValueError(f"its archive has more than {_MAX_ENTRIES:,} entries")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise ValueError("its archive has an entry twice")
            for entry in entries.values():
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise ValueError(f"its archive has the packed entry {entry.filename[:100]!r}")
                if entry.file_size != entry.compress_size:
                    raise ValueError(f"its archive has two sizes for {entry.filename[:100]!r}")
            pickles = [name for name in entries if name.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].count("/") > 1:
                raise ValueError("it is not an archive of torch.save")
            if entries[pickles[0]].file_size > _MAX_PICKLE_BYTES:
                raise ValueError(f"its list of tensors is longer than {_MAX_PICKLE_BYTES:,} bytes")
            folder = pickles[0].removesuffix("data.pkl")
            sizes = {
                name.removeprefix(f"{folder}data/"): entry.file_size
                for name, entry in entries.items()
            }
            _check_pickle(archive.read(pickles[0]), sizes)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError) as error:
        raise ValueError(f"its archive is damaged: {error or type(error).__name__}") from error


def _number_of_entries(path: Path) -> int:
    """The number at the end of the archive, so that a long directory is never read."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail = min(size, _END.size + _MAX_COMMENT + _END64.size + 20)
        file.seek(size - tail)
        end = file.read(tail)
    place = end.rfind(b"PK\5\6")
    if place < 0 or len(end) - place < _END.size:
        raise ValueError("it is not an archive of torch.save, or it is cut short")
    entries = int(_END.unpack_from(end, place)[4])
    wide = end.rfind(b"PK\6\6", 0, place)
    if wide >= 0 and place - wide >= _END64.size:
        entries = max(entries, int(_END64.unpack_from(end, wide)[7]))
    return entries


def _check_pickle(content: bytes, sizes: dict[str, int]) -> None:
    """Check that a pickle names tensors and storages alone, which are no longer than their entries.

    Args:
        content: the pickle; it is read, never run.
        sizes: bytes of the storages, by key.
    """
    pushed: list[Any] = []  # strings, integers and names in their order
    kept: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            if name != "GLOBAL" or not _GLOBALS.fullmatch(str(argument)):
                raise UnsafeFileError(f"it asks for {str(argument)[:100]!r}")
            pushed.append(argument)
        elif name in ("BINGET", "LONG_BINGET"):
            pushed.append(kept.get(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            kept[argument] = pushed[-1] if pushed else None
        elif name == "BINPERSID":
            _check_storage(pushed[-5:], sizes)
        elif argument is not None:
            pushed.append(argument)
        if len(pushed) > 1 << 16:
            del pushed[:-8]


def _check_storage(pushed: list[Any], sizes: dict[str, int]) -> None:
    """Check that a storage ("storage", type, key, place, number of values) has all its values."""
    if len(pushed) == 5 and isinstance(pushed[2], str) and isinstance(pushed[4], int):  # noqa: PLR2004
        kind = str(pushed[1]).removeprefix("torch ").removesuffix("Storage")
        there = sizes.get(pushed[2])
        if there is not None and not 0 <= pushed[4] * _ITEM_SIZES.get(kind, 1) <= there:
            raise ValueError(f"it claims {pushed[4]:,} values where it has {there:,} bytes")


def _check_tensors(value: Any, file_size: int) -> None:
    """Check that all tensors are plain ones in the bytes of the file."""
    total = 0
    storages: dict[int, int] = {}
    for tensor in _tensors(value):
        _check_tensor(tensor)
        total += tensor.nbytes
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    if sum(storages.values()) > file_size or total > _MAX_TIMES * file_size:
        raise ValueError(f"it claims tensors of {total:,} bytes in a file of {file_size:,}")


def _check_tensor(tensor: torch.Tensor) -> None:
    import torch

    shape = list(tensor.shape)
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"it holds a tensor {shape} that is sparse, quantized or empty of values")
    if str(tensor.dtype).removeprefix("torch.") not in _DTYPES:
        raise ValueError(f"it holds a tensor {shape} of {tensor.dtype}")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(f"it holds a tensor {shape} with fewer values than its shape needs")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value; a dict or list that holds itself is visited once."""
    import torch

    seen: set[int] = set()
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, (dict, list, tuple, set)) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item.values() if isinstance(item, dict) else item)
