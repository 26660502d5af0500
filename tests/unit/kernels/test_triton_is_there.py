"""Where Triton has a package it is there: without it, all tests of kernels would be skipped."""

import sys

import pytest

import genrec_lite.kernels  # noqa: F401  (says how triton is to be imported)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton has no package for this system")
def test_on_linux_triton_can_be_imported():
    import triton

    assert callable(triton.jit)
