"""What a GPU would need for a kernel, read from the compiler's output on a machine without one.

    TRITON_INTERPRET=0 python -m genrec_lite.kernels.ahead_of_time

compiles every kernel of this package for two generations of GPUs and prints, as JSON, registers,
spills, shared memory and tensor-core instructions of each.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["CAPABILITIES", "SHARED_LIMIT", "Resources", "compile_all"]

# Compute capabilities: 80 is an A100, 90 an H100 or H200.
CAPABILITIES = (80, 90)
# Bytes of shared memory a program may have.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORE = ("HMMA", "HGMMA", "WGMMA")
# What the arguments of a kernel are, by the end of their names; other pointers have the type of
# the values.
TYPES = {
    "offsets": "*i64",
    "tiles": "*i32",
    "times": "*i64",
    "edges": "*i32",
    "targets": "*i32",
    "lse": "*fp32",
    "dot": "*fp32",
    "partial": "*fp32",
    "weights": "*fp32",
}
POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}


@dataclass(frozen=True)
class Resources:
    """What one kernel, compiled with one launch for one capability, takes.

    Args:
        kernel, dtype, width, capability: which.
        variant: choices that were compiled in, as "CAUSAL".
        registers: of a thread, 255 at most.
        spills: instructions that move registers to memory and back for lack of room.
        shared: bytes of shared memory a program.
        tensor_core: instructions that multiply matrices.
        instructions: of all kinds.
    """

    kernel: str
    dtype: str
    width: int
    capability: int
    variant: str
    registers: int
    spills: int
    shared: int
    tensor_core: int
    instructions: int

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return " ".join(
            str(part)
            for part in (self.kernel, self.variant, self.dtype, self.width, f"sm_{self.capability}")
            if part != ""
        )


def compile_all() -> list[Resources]:
    """Compiles every case in a process of its own, in which Triton compiles and does not interpret.

    Raises:
        RuntimeError: with the compiler's words, if a kernel does not compile.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    if done.returncode:
        raise RuntimeError(f"a kernel does not compile:\n{done.stderr[-4000:]}")
    return [Resources(**one) for one in json.loads(done.stdout)]


def _cases() -> Iterator[tuple[str, Any, str, int, str, dict[str, Any]]]:
    """Name, kernel, dtype, width, variant and constants of everything that is compiled."""
    import torch

    from genrec_lite.kernels import triton_jagged_attention as attention
    from genrec_lite.kernels.blocks import tl
    from genrec_lite.kernels.launch import launch_for

    walks = {
        "jagged attention forward": attention.forward_kernel,
        "jagged attention backward keys": attention.backward_keys_kernel,
        "jagged attention backward queries": attention.backward_queries_kernel,
    }
    for name, kernel in walks.items():
        for dtype, width in (("bfloat16", 64), ("bfloat16", 128), ("float32", 64)):
            constants = {"H": 4, "D": width, "CAUSAL": True, "SUM": tl.float32}
            launch = launch_for(name, width, getattr(torch, dtype))
            yield name, kernel, dtype, width, "causal", constants | launch.options()


def _compile(
    name: str,
    kernel: Any,
    dtype: str,
    width: int,
    variant: str,
    constants: dict[str, Any],
    capability: int,
) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {key: constants[key] for key in ("num_warps", "num_stages")}
    names = kernel.arg_names
    known = {key: value for key, value in constants.items() if key in names}
    signature = {
        arg: "constexpr" if arg in known else _type_of(arg, POINTERS[dtype]) for arg in names
    }
    aligned = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(key),): value for key, value in known.items()},
        attrs={(names.index(arg),): aligned for arg in names if signature[arg].startswith("*")},
    )
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, operations = _read(built.asm["cubin"])
    return Resources(
        kernel=name,
        dtype=dtype,
        width=width,
        capability=capability,
        variant=variant,
        registers=registers,
        spills=operations["STL"] + operations["LDL"],
        shared=built.metadata.shared,
        tensor_core=sum(operations[one] for one in TENSOR_CORE),
        instructions=operations.total(),
    )


def _type_of(argument: str, values: str) -> str:
    if not argument.startswith("p_"):
        return "fp32"
    last = argument.rsplit("_", 1)[-1]
    return TYPES.get(last, values)


def _read(binary: bytes) -> tuple[int, Counter[str]]:
    """Registers and how often each instruction occurs, by NVIDIA's tools in Triton's package."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        said, listed = (
            subprocess.run(
                [str(tools / tool), option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, option in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    registers = re.search(r"REG:(\d+)", said)
    if registers is None:
        raise RuntimeError(f"cuobjdump names no registers: {said[-300:]!r}")
    line = r"^\s+(?:/\*[0-9a-f]+\*/)?\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)"
    return int(registers[1]), Counter(re.findall(line, listed, re.MULTILINE))


if __name__ == "__main__":
    print(
        json.dumps(
            [
                asdict(_compile(*case, capability))
                for case in _cases()
                for capability in CAPABILITIES
            ]
        )
    )
