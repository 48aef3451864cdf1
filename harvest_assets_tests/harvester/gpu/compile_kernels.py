"""Compile every kernel for an H100, without one; run as a script, outside the interpreter."""

from __future__ import annotations

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from harvest_assets.harvester.gpu import kernels, passes

POINTERS = {
    "fp32": "ci threshold probs product edges acts window_ci window_acts",
    "bf16": "fired",
    "fp64": "ci_sums mass",
    "i64": "tokens histogram priority highest_ci highest_activation",
    "i32": "counts first_place position component count starts input_counts window_tokens",
}
TYPES = {name: f"*{kind}" for kind, names in POINTERS.items() for name in names.split()}
FIRST_PASS = {
    "ROWS": passes._COUNTED_ROWS,
    **dict(zip(("BLOCK_N", "BLOCK_C"), passes._BFLOAT16_BLOCK, strict=True)),
}
CONSTANTS = {
    kernels.find_firings: {"ALIGN": 8, **FIRST_PASS},
    kernels.list_firings: FIRST_PASS,
    kernels.add_product: {"ALIGN": 1, "BLOCK_R": 8, "BLOCK_C": 512},
    kernels.add_output_mass: {"BLOCK_M": 8, "BLOCK_V": 512},
    kernels.count_firings: {"BLOCK": 256},
    kernels.copy_windows: {"SIDE": 10, "WIDTH": 32, "BLOCK": 64},
}

for kernel, constants in CONSTANTS.items():
    names = kernel.arg_names
    types = {name: TYPES.get(name, "i32") for name in names}
    source = ASTSource(
        fn=kernel,
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name in names
            if types[name].startswith("*") or name == "width"
        },
    )
    machine_code = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
    sys.stdout.write(f"{kernel.__name__} {len(machine_code)}\n")
