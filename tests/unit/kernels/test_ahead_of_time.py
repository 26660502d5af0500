"""The kernels compile for GPUs that are not here, and fit them.

`registers.json` holds what the compiler took when the launches were chosen; to renew it after a
change of a kernel or of Triton, run `TRITON_INTERPRET=0 python -m
genrec_lite.kernels.ahead_of_time > tests/unit/kernels/registers.json` and read the difference.
"""

import json
from pathlib import Path

import pytest

from genrec_lite.kernels.ahead_of_time import (
    CAPABILITIES,
    SHAPES,
    SHARED_LIMIT,
    Resources,
    compile_all,
    compile_variants,
)

pytest.importorskip("triton", reason="Triton has no package for this system")

KNOWN = [
    Resources(**one) for one in json.loads(Path(__file__).with_name("registers.json").read_text())
]
# What multiplies matrices: the rest copies and adds.
MULTIPLY = ("jagged attention", "hstu attention", "jagged dense matmul", "jagged jagged matmul")


def test_the_table_is_of_every_kernel_in_every_shape():
    kernels = {one.kernel for one in KNOWN}
    assert len(kernels) == 15 and {name.split()[0] for name in kernels} >= {"jagged", "hstu"}
    shapes = {(one.dtype, one.width, one.capability) for one in KNOWN}
    assert shapes == {(*shape, capability) for shape in SHAPES for capability in CAPABILITIES}
    assert len({one.name for one in KNOWN}) == len(KNOWN) == len(kernels) * len(shapes)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles_and_needs_no_more_than_the_table_says(capability):
    found = compile_all(("bfloat16", 64, capability))
    known = {one.name: one for one in KNOWN}
    assert len(found) == 15
    for one in found:
        assert one.spills == 0, one
        assert one.registers <= known[one.name].registers, one
        assert one.shared <= SHARED_LIMIT[capability], one
        assert (one.tensor_core > 0) == one.kernel.startswith(MULTIPLY), one


def test_no_entry_of_the_table_spills_or_asks_for_too_much():
    for one in KNOWN:
        assert one.spills == 0 and one.registers <= 255, one
        assert one.shared <= SHARED_LIMIT[one.capability], one
        # float32 stays out of the tensor cores, which would round it.
        multiplies = one.dtype != "float32" and one.kernel.startswith(MULTIPLY)
        assert (one.tensor_core > 0) == multiplies, one


@pytest.mark.slow
def test_a_variant_is_the_kernel_with_other_constants():
    plain, bare = compile_variants(
        "hstu attention forward", "bfloat16", 64, 90, {}, {"TIME": False, "POSITION": False}
    )
    assert plain == {one.name: one for one in KNOWN}[plain.name]
    assert bare.name == plain.name and bare.instructions < plain.instructions


def test_what_does_not_compile_is_said_in_the_compilers_words(monkeypatch):
    from genrec_lite.kernels import ahead_of_time

    monkeypatch.setattr(ahead_of_time.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="a kernel does not compile"):
        compile_all(("float32", 64, 80))
