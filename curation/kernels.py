"""What compiled kernels stand on: how numba compiles them, loads that it lacks, and the bytes of an Arrow column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit, cached on disk where the package or the user's cache folder can be written, without the GIL."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
        except RuntimeError:  # "no locator available": a read-only installation without a home, as on some clusters
            return numba.njit(nogil=True, error_model="numpy", **options)(function)

    return compiled


def instruction(function: Callable[..., Any]) -> Any:
    """numba's intrinsic, for what Python has no word for: the kernels call it without the typing context."""
    return intrinsic(function)


@instruction
def load8(typingctx: Any, array: Any, index: Any) -> Any:
    """The eight bytes array[index : index + 8] as one little-endian integer; the caller checks the bounds."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(array, types.intp), codegen


@instruction
def store8(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write the integer to the eight bytes array[index : index + 8]; the caller checks the bounds."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), codegen


@instruction
def trailing_zeros(typingctx: Any, value: Any) -> Any:
    """How many zeros stand below the lowest bit that is set; 64 where none is."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


def text_buffers(texts: pa.Array | pa.ChunkedArray) -> tuple[U8, I64]:
    """The UTF-8 bytes of a string column and the n + 1 positions of its texts in them; bytes are not copied.

    Slices keep their place; a null is whatever its slot holds: mask it afterwards.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # combine_chunks keeps several chunks where one would overflow its offsets
        texts = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in texts.chunks])
    narrow = pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)
    if not (narrow or pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)):
        texts = texts.cast(pa.large_string())
    _, offsets_buffer, data_buffer = texts.buffers()
    width = np.int32 if narrow else np.int64
    if len(texts) == 0 or offsets_buffer is None:
        offsets = np.zeros(1, np.int64)
    else:
        item = np.dtype(width).itemsize
        offsets = np.frombuffer(offsets_buffer, width, len(texts) + 1, texts.offset * item).astype(np.int64)
    return bytes_of(data_buffer), offsets


def bytes_of(buffer: pa.Buffer | None) -> U8:
    """An Arrow buffer as a read-only array; none is empty."""
    data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    data = data.view()
    data.flags.writeable = False  # one compiled variant, whether Arrow says that the buffer may be written or not
    return data
