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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["CAPABILITIES", "SHARED_LIMIT", "Resources", "compile_all", "compile_variants"]

# Compute capabilities: 80 is an A100, 90 an H100 or H200.
CAPABILITIES = (80, 90)
# Bytes of shared memory a program may have.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORE = ("HMMA", "HGMMA", "WGMMA")
# What the arguments of a kernel are, by their names; other pointers have the type of the values.
TYPES = {
    "scale": "fp32",
    "share": "fp32",
    "n_padded": "i32",
    "p_offsets": "*i64",
    "p_q_offsets": "*i64",
    "p_k_offsets": "*i64",
    "p_tiles": "*i32",
    "p_pairs": "*i32",
    "p_chunks": "*i32",
    "p_times": "*i32",
    "p_edges": "*i32",
    "p_targets": "*i64",
    "p_lse": "*fp32",
    "p_dot": "*fp32",
    "p_query": "*fp32",
    "p_grad_query": "*fp32",
    "p_position_weights": "*fp32",
    "p_time_weights": "*fp32",
    "p_by_key_partial": "*fp32",
    "p_position_partial": "*fp32",
    "p_time_partial": "*fp32",
}
# What is compiled of each kernel: type and width of the heads.
SHAPES = (("bfloat16", 64), ("bfloat16", 128), ("float32", 64), ("float32", 128))
POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}


@dataclass(frozen=True)
class Resources:
    """What one kernel, compiled with one launch for one capability, takes.

    Args:
        kernel, dtype, width, capability: which.
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
    registers: int
    spills: int
    shared: int
    tensor_core: int
    instructions: int

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.kernel} {self.dtype} {self.width} sm_{self.capability}"


def compile_all(*only: tuple[str, int, int]) -> list[Resources]:
    """Compiles every kernel in a process of its own, where Triton compiles and does not interpret.

    Args:
        only: the types, widths and capabilities to compile for, such as ("float32", 64, 80);
            all unless given.
    Raises:
        RuntimeError: with the compiler's words, if a kernel does not compile.
    """
    return _elsewhere(only=only)


def compile_variants(
    kernel: str, dtype: str, width: int, capability: int, *changes: Mapping[str, Any]
) -> list[Resources]:
    """What one kernel takes when it is launched, or made, in other ways.

    Args:
        kernel: one of `genrec_lite.kernels.launch.LAUNCHES`.
        dtype, width, capability: see `Resources`.
        changes: of its constants, one variant each, such as {"num_warps": 4} or {"TIME": False};
            {} is the kernel as it is.
    Raises:
        RuntimeError: with the compiler's words, if one does not compile.
    """
    return _elsewhere(only=[(dtype, width, capability)], kernel=kernel, changes=changes)


def _elsewhere(**asked: Any) -> list[Resources]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(asked)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    if done.returncode:
        raise RuntimeError(f"a kernel does not compile:\n{done.stderr[-4000:]}")
    return [Resources(**one) for one in json.loads(done.stdout)]


def _cases() -> Iterator[tuple[str, Any, str, int, dict[str, Any]]]:
    """Name, kernel, dtype, width and constants of everything that is compiled."""
    import torch

    from genrec_lite.kernels import triton_hstu_kernels as hstu
    from genrec_lite.kernels import triton_jagged_attention as jagged
    from genrec_lite.kernels import triton_jagged_ops as ops
    from genrec_lite.kernels import triton_jagged_rows as rows
    from genrec_lite.kernels.blocks import tl
    from genrec_lite.kernels.launch import LAUNCHES, launch_for

    chosen = {"H": 4, "SUM": tl.float32, "CAUSAL": True, "POSITION": True, "TIME": True}
    chosen |= {"TARGETS": False, "TRANSPOSED": False, "FILL": 0.0, "OPERATION": "multiply"}
    tuned = {
        "jagged attention forward": jagged.forward_kernel,
        "jagged attention backward keys": jagged.backward_keys_kernel,
        "jagged attention backward queries": jagged.backward_queries_kernel,
        "hstu attention forward": hstu.forward_kernel,
        "hstu attention backward keys": hstu.backward_keys_kernel,
        "hstu attention backward queries": hstu.backward_queries_kernel,
        "hstu attention tables": hstu.tables_kernel,
    }
    assert list(tuned) == list(LAUNCHES)
    for name, kernel in tuned.items():
        for dtype, width in SHAPES:
            sizes = launch_for(name, width, getattr(torch, dtype))
            blocks = sizes.options() | {"BLOCK": sizes.queries}
            yield name, kernel, dtype, width, chosen | {"D": width, "E": width} | blocks
    for dtype, width in SHAPES:
        by_default = chosen | {"D": width, "N": width, "num_warps": 4, "num_stages": 3}
        depth = ops.DEPTH if dtype == "float32" else ops.DEPTH_HALF
        matmul = {"BT": ops.BLOCK, "BN": ops.BLOCK}
        pooled = {"BT": min(ops.BLOCK, rows.AT_ONCE // width)}
        for name, kernel, blocks in (
            ("jagged to padded", rows.to_padded_kernel, rows._run(width)),
            ("padded to jagged", rows.from_padded_kernel, rows._run(width)),
            ("jagged softmax", rows.softmax_kernel, rows._columns(width)),
            ("jagged softmax backward", rows.softmax_backward_kernel, rows._columns(width)),
            ("jagged dense matmul", ops.dense_matmul_kernel, matmul | {"BD": depth}),
            ("jagged jagged matmul", ops.jagged_matmul_kernel, matmul | {"BD": ops.BLOCK}),
            ("pooled attention", ops.pooled_attention_kernel, pooled),
            ("pooled attention backward", ops.pooled_attention_backward_kernel, pooled),
        ):
            yield name, kernel, dtype, width, by_default | blocks


def _compile(
    name: str,
    kernel: Any,
    dtype: str,
    width: int,
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
        arg: "constexpr" if arg in known else TYPES.get(arg, POINTERS[dtype]) for arg in names
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
        registers=registers,
        spills=operations["STL"] + operations["LDL"],
        shared=built.metadata.shared,
        tensor_core=sum(operations[one] for one in TENSOR_CORE),
        instructions=operations.total(),
    )


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


def _compile_asked(
    only: list[list[Any]],
    kernel: str | None = None,
    changes: Sequence[Mapping[str, Any]] = ({},),
) -> list[Resources]:
    shapes = [tuple(one) for one in only]
    return [
        _compile(name, function, dtype, width, constants | dict(variant), capability)
        for name, function, dtype, width, constants in _cases()
        for capability in CAPABILITIES
        for variant in changes
        if kernel in (None, name) and (not shapes or (dtype, width, capability) in shapes)
    ]


if __name__ == "__main__":
    found = _compile_asked(**json.loads(sys.argv[1] if len(sys.argv) > 1 else '{"only": []}'))
    print("[\n" + ",\n".join(json.dumps(asdict(one)) for one in found) + "\n]")
