"""genrec_lite: the small, readable core behind the chapters of the book."""

from genrec_lite.jagged import JaggedTensor

__all__ = ["JaggedTensor"]
__version__ = "0.1.0"
