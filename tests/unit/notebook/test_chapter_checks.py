"""Every exercise's check tells a right answer from a plausible wrong one."""

import importlib.util

import answers_first_chapters
import answers_generative
import answers_kernels
import answers_requests
import answers_retrieval
import pytest
import torch

from genrec_lite.notebook.check import jagged_tensors

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    # Without a GPU the package's import makes Triton interpret.
    from genrec_lite.kernels.blocks import tl, triton

ANSWERS = (
    answers_first_chapters, answers_retrieval, answers_generative, answers_kernels,
    answers_requests,
)  # fmt: skip
RIGHT = [one for answers in ANSWERS for one in answers.RIGHT]
WRONG = [one for answers in ANSWERS for one in answers.WRONG]


if HAS_TRITON:

    @triton.jit
    def row_largest(p_x, p_out, p_offsets, BLOCK: tl.constexpr, MASK: tl.constexpr = True,
                    OTHER: tl.constexpr = float("-inf"), BLOCKS: tl.constexpr = 1024):  # fmt: skip
        """The largest number of a row, of BLOCKS blocks at most."""
        i_row = tl.program_id(0)
        start = tl.load(p_offsets + i_row)
        n = tl.load(p_offsets + i_row + 1) - start
        b_max = tl.full([BLOCK], float("-inf"), tl.float32)
        for o_first in range(0, min(n, BLOCKS * BLOCK), BLOCK):
            o = o_first + tl.arange(0, BLOCK)
            read = o < n if MASK else o >= 0
            b_max = tl.maximum(b_max, tl.load(p_x + start + o, mask=read, other=OTHER))
        tl.store(p_out + i_row, tl.max(b_max, 0))


class WithConstants:
    """A kernel that is launched with some of its constants chosen."""

    def __init__(self, **constants):
        self.constants = constants

    def __getitem__(self, grid):
        return lambda *arguments, **more: row_largest[grid](*arguments, **more, **self.constants)


@pytest.mark.parametrize("check, answer", RIGHT, ids=lambda v: getattr(v, "__name__", ""))
def test_a_right_answer_passes(check, answer):
    assert check(answer) is True


@pytest.mark.parametrize("slip, check, answer", WRONG, ids=[w[0] for w in WRONG])
def test_a_plausible_slip_is_told_apart(slip, check, answer, capsys):
    assert check(answer) is False
    assert "expected" in capsys.readouterr().out


@pytest.mark.skipif(not HAS_TRITON, reason="Triton has no package for this platform")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the check runs kernels on CPU tensors")
@pytest.mark.parametrize(
    "right, constants",
    [
        (True, {}),
        (False, {"MASK": False}),
        (False, {"OTHER": 0.0}),
        (False, {"BLOCKS": 1}),
    ],
    ids=["right", "no mask", "masked places read as 0", "one block only"],
)
def test_a_kernel_of_row_maxima_is_told_right_from_wrong(right, constants, capsys):
    assert jagged_tensors.row_largest(WithConstants(**constants)) is right
    assert ("expected" in capsys.readouterr().out) is not right


def test_a_kernel_that_writes_nothing_counts_as_not_done(capsys):
    class Nothing:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: None

    assert jagged_tensors.row_largest(Nothing()) is False
    assert "not done yet" in capsys.readouterr().out
