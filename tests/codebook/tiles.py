"""What the compiler makes of the nearest-code kernel for GPUs that are not here, as JSON: run apart from the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # the compiler is wanted, not the interpreter

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from structok.codebook import nearest_triton

# shared memory that one block may take, bytes (CUDA C++ Programming Guide, compute capabilities)
SHARED = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compiled(capability: int, dim: int, k: int, config: triton.Config) -> Any:
    """The kernel for one tile, compiled as a launch on that GPU would."""
    kernel = nearest_triton._leaders
    known = {**nearest_triton.constants(dim, k, capability // 10), "UPCAST": False, **config.kwargs}

    def kind(name: str) -> str:
        if name in known:
            return "constexpr"
        if not name.endswith("_ptr"):
            return "i32"
        return "*bf16" if name.startswith(("x_", "e_")) else "*i32" if name == "index_ptr" else "*fp32"

    names = [parameter.name for parameter in kernel.params]
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr")}
    source = ASTSource(fn=kernel, signature={n: kind(n) for n in names}, constexprs=known, attrs=aligned)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def examined(capability: int, dim: int, k: int, config: triton.Config) -> dict[str, Any]:
    """Whether a tile fits, spills, and uses tensor cores, read off the machine code."""
    found = compiled(capability, dim, k, config)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(found.asm["cubin"])
        usage, code = (
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    return {
        "capability": capability,
        "spilled_bytes": int(re.search(r"STACK:(\d+)", usage)[1]),
        "fits": found.metadata.shared <= SHARED[capability],
        "tensor_core_instructions": code.count("MMA"),
    }


if __name__ == "__main__":
    tiles = nearest_triton._CONFIGS[::3]
    print(json.dumps([examined(capability, 128, 1, tile) for capability in SHARED for tile in tiles]))
