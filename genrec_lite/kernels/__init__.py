"""Operations on jagged sequences: plain torch on a CPU, Triton on a GPU, one function for both."""

import os

import torch

# Without a GPU Triton's interpreter runs the kernels, for tests and for reading. Triton looks at
# this once, when it is first imported, by whomever.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
