"""numba as our kernels use it: compiled without the GIL, kept on disk where that is possible; loads that it lacks."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from curation.hashing import GOLDEN


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


@jit(inline="always")
def mixed(value: Any) -> Any:
    """`hashing.mix` of one number."""
    value += np.uint64(GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
