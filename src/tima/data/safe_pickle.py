"""`safe_load`: pickles of arrays and plain values, read without running what is in them.

CIFAR's batches are pickles, and an ordinary `pickle.load` calls whatever function the file names. This one knows the
few names that arrays of numbers and bytes are made of, with functions of its own behind them, and refuses every other.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from tima.errors import DamagedDataError, DataError


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


class _Array(np.ndarray):
    """An array whose content comes as its state: `(version, shape, dtype, whether columns come first, bytes)`."""

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, columns_first, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes):
            raise _Refused("an array that is not of numbers")
        super().__setstate__((version, shape, kind.dtype, columns_first, data))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)  # sent to other processes it is an ordinary array


def _empty_array(kind: Any, shape: tuple[int, ...], code: Any) -> np.ndarray:
    """NumPy's `_reconstruct`, for arrays only: the content comes afterwards."""
    if kind is not _ARRAY or tuple(shape) != (0,):
        raise _Refused("an array that does not begin empty")
    return _Array.__new__(_Array, (0,), "b")


class _Kind:
    """A dtype: numbers of fixed size. Objects in an array would be pickles of their own.

    NumPy's own dtype would believe every state it is given, flags included that make it take numbers for addresses.
    """

    def __init__(self, code: Any, *rest: Any) -> None:
        if not isinstance(code, str | bytes):
            raise _Refused("a dtype without a name")
        self.dtype = np.dtype(code if isinstance(code, str) else code.decode("ascii"))
        if self.dtype.kind not in "biuf":
            raise _Refused(f"an array of {self.dtype}")

    def __setstate__(self, state: Any) -> None:
        """`(version, byte order, None, None, None, -1, -1, 0)`; the order is what counts."""
        inner = tuple(state[2:5])
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "=") or inner != (None, None, None) or tuple(state[5:]) != (-1, -1, 0):
            raise _Refused("a dtype that is more than a number")
        self.dtype = self.dtype.newbyteorder(order)


def _from_buffer(data: Any, kind: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    """How protocol 5 writes an array."""
    if not isinstance(kind, _Kind):
        raise _Refused("an array that is not of numbers")
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


_ARRAY = object()  # for `numpy.ndarray`, which is only named: called, it makes arrays of any size and kind
_KNOWN: dict[str, Any] = {
    "_reconstruct": _empty_array,
    "ndarray": _ARRAY,
    "dtype": _Kind,
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


MOST_TUPLES = 2000  # an array takes about four. One inside the other, as a key, a hundred thousand would crash Python


def _check_opcodes(data: bytes) -> None:
    """Refuse what takes Python down before any function is called.

    Python makes room for all places in the memo below the one that is named, so a place must fit into a file of this size.
    """
    tuples = 0
    for code, place, _ in pickletools.genops(data):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= place <= len(data):  # type: ignore[operator]
            raise _Refused("a place in memory that it cannot have filled")
        tuples += code.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
        if tuples > MOST_TUPLES:
            raise _Refused(f"more than {MOST_TUPLES:,} tuples")


def safe_load(file: Path) -> Any:
    """The content of a pickle of dicts, lists, texts, bytes, numbers and numeric arrays. Texts of Python 2 become bytes.

    Raises:
        DataError: the pickle asks for anything else, or is damaged. Nothing of it has run.
    """
    data = file.read_bytes()
    try:
        _check_opcodes(data)
        return _Plain(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise DataError(
            f"{file} holds {error}, which a file of pictures has no need of. It was not run; take the file from its publisher."
        ) from error
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        raise DamagedDataError(f"{file} is damaged ({type(error).__name__}: {error}). Fetch it again.") from error
