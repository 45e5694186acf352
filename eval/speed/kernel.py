"""What the compiler makes of the nearest-code kernel, on any machine: no GPU is needed.

    python -m eval.speed.kernel

For each tile that the autotuner tries: registers and bytes spilled of a thread, shared memory of a block, and how many
instructions the loop over codes issues for a thousand scores. An SM issues up to four (of 32 lanes) in a cycle, which
bounds the time from below; a loop over components inside counts once. Times need a GPU (`eval.speed.lookup`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

os.environ.pop("TRITON_INTERPRET", None)  # the compiler is wanted, not the interpreter

import triton
import typer
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from eval import RESULTS
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
    """Resources and instructions, read off the machine code."""
    found = compiled(capability, dim, k, config)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(found.asm["cubin"])
        usage, code = (
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, spilled = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    at = {int(address, 16): text for address, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", code)}
    jumps = [(int(to[1], 16), here) for here, text in at.items() if (to := re.search(r"BRA.*?(0x[0-9a-f]+)", text))]
    first, last = max(((to, here) for to, here in jumps if to < here), key=lambda loop: loop[1] - loop[0])
    loop = [text for here, text in at.items() if first <= here <= last]
    scores = config.kwargs["BLOCK_R"] * config.kwargs["BLOCK_C"]
    return {
        "capability": capability,
        "d": dim,
        "k": k,
        "tile": [config.kwargs["BLOCK_R"], config.kwargs["BLOCK_C"]],
        "warps": config.num_warps,
        "registers": registers,
        "spilled_bytes": spilled,
        "shared_bytes": found.metadata.shared,
        "fits": found.metadata.shared <= SHARED[capability],
        "tensor_core_instructions": sum("MMA" in text for text in loop),
        "loop_instructions_per_1000_scores": round(1000 * len(loop) * config.num_warps / scores),
    }


def main(
    out: Annotated[Path, typer.Option("-o", "--out")] = RESULTS / "kernel.json",
    quick: Annotated[bool, typer.Option(help="One problem, two tiles.")] = False,
) -> None:
    """Compile every tile for A100, RTX 30 and H100/H200 class GPUs and write what came out."""
    problems = [(128, 1)] if quick else [(9, 1), (64, 1), (128, 1), (256, 1), (128, 8)]
    tiles = nearest_triton._CONFIGS[:: 3 if quick else 1]
    rows = [examined(c, d, k, tile) for c in SHARED for d, k in problems for tile in tiles]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"triton": triton.__version__, "tiles": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
