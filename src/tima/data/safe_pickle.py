"""`safe_load`: pickles of arrays and plain values, read without running what is in them.

CIFAR's batches are pickles, and an ordinary `pickle.load` calls whatever function the file names. This one knows the
few names that arrays of numbers and bytes are made of, with functions of its own behind them, and refuses every other.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tima.errors import DataError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 writes Python 3 bytes as `_codecs.encode(text, "latin1")`; no other codec may run here."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"the codec {encoding!r}")
    return text.encode("latin1")


class _Refused(Exception):
    """Something that plain data has no need of."""


def _empty_bytes() -> bytes:
    """Protocol 2 writes `b""` as a call of `bytes` without arguments."""
    return b""


def _empty_array(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray:
    """NumPy's `_reconstruct`, for arrays only: the content comes afterwards."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise _Refused("an array that does not begin empty")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _dtype(code: Any, *rest: Any) -> np.dtype:
    """Numbers of fixed size. Objects in an array would be pickles of their own."""
    found = np.dtype(code, copy=True)  # its state comes next, and NumPy's own uint8 must not get it
    if found.kind not in "biuf":
        raise _Refused(f"an array of {found}")
    return found


def _from_buffer(data: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """How protocol 5 writes an array."""
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


_KNOWN: dict[str, Callable[..., Any]] = {
    "_reconstruct": _empty_array,
    "ndarray": np.ndarray,
    "dtype": _dtype,
    "bytes": _empty_bytes,
    "encode": _encode,
    "_frombuffer": _from_buffer,
}
_MODULES = {
    "_reconstruct": ("numpy.core.multiarray", "numpy._core.multiarray"),
    "ndarray": ("numpy",),
    "dtype": ("numpy",),
    "bytes": ("__builtin__", "builtins"),
    "encode": ("_codecs",),
    "_frombuffer": ("numpy.core.numeric", "numpy._core.numeric"),
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module not in _MODULES.get(name, ()):
            raise _Refused(f"the name {module}.{name}")
        return _KNOWN[name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference to something outside the file")


def safe_load(file: Path) -> Any:
    """The content of a pickle of dicts, lists, texts, bytes, numbers and numeric arrays. Texts of Python 2 become bytes.

    Raises:
        DataError: the pickle asks for anything else, or is damaged. Nothing of it has run.
    """
    data = file.read_bytes()
    try:
        return _Plain(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise DataError(
            f"{file} holds {error}, which a file of pictures has no need of. It was not run; take the file from its publisher."
        ) from error
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        raise DataError(f"{file} is damaged ({type(error).__name__}: {error}). Fetch it again.") from error
