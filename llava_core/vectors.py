"""The inner loops of `resampling`, compiled, for the processor's vector registers.

Processors multiply 16 or 32 pairs of 16-bit integers and add the two products of each pair in one instruction (x86
`vpmaddwd`, ARM `smull` and `addp`). Numba's compiler does not find it from a loop in Python, so that loop stands here
in the compiler's own language, the same for every processor.

All that these sums call stands in this file: by the date of the file that a compiled function is from, numba knows
whether what it kept is still good, and it does not look at those that the function calls.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

WEIGHT_BITS = 22
"""Fraction bits of the weights: `PRECISION_BITS` of Pillow's Resample.c."""

PART_BITS = 11
"""Bits of a weight's lower part; with so many, both parts are 16-bit integers, and their products' sums 32-bit ones."""

STRIP_LEVELS = 384
"""Values of a row that are paired at once."""

LANES = 32
"""Values that are summed at once: 8 registers of sums, of the 16 that most processors have."""

WORD = ir.IntType(64)
LEVELS = ir.VectorType(ir.IntType(8), LANES)
PAIRS = ir.VectorType(ir.IntType(16), 2 * LANES)
PRODUCTS = ir.VectorType(ir.IntType(32), 2 * LANES)
SUMS = ir.VectorType(ir.IntType(32), LANES)
MASK = ir.VectorType(ir.IntType(32), LANES)


def _typed(_context: Any, pairs: Any, stride: Any, count: Any, weights: Any, out: Any) -> tuple[Any, Any]:
    return types.void(pairs, stride, count, weights, out), _build


def _build(context: Any, builder: Any, _signature: Any, addresses: Any) -> Any:
    pairs, stride, count, weights, out = addresses
    start, loop, done = builder.block, builder.append_basic_block("pair"), builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    pair, upper, lower = builder.phi(WORD), builder.phi(SUMS), builder.phi(SUMS)
    levels = _load(builder, builder.add(pairs, builder.mul(pair, stride)), PAIRS, 2)
    weight = builder.add(weights, builder.mul(pair, WORD(8)))
    more = builder.add(pair, WORD(1))
    uppers = builder.add(upper, _pair_sums(builder, levels, weight))
    lowers = builder.add(lower, _pair_sums(builder, levels, builder.add(weight, WORD(4))))
    for value, first, then in ((pair, WORD(0), more), (upper, SUMS(None), uppers), (lower, SUMS(None), lowers)):
        value.add_incoming(first, start)
        value.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", more, count), loop, done)
    builder.position_at_end(done)
    whole = builder.add(builder.add(builder.shl(uppers, _each(PART_BITS)), lowers), _each(1 << (WEIGHT_BITS - 1)))
    whole = builder.ashr(whole, _each(WEIGHT_BITS))
    whole = builder.select(builder.icmp_signed("<", whole, _each(0)), _each(0), whole)
    whole = builder.select(builder.icmp_signed(">", whole, _each(255)), _each(255), whole)
    store = builder.store(builder.trunc(whole, LEVELS), builder.inttoptr(out, LEVELS.as_pointer()))
    store.align = 1
    return context.get_dummy_value()


def _pair_sums(builder: Any, levels: Any, weight: Any) -> Any:
    two = _load(builder, weight, ir.VectorType(ir.IntType(16), 2), 2)
    spread = builder.shuffle_vector(two, two, ir.Constant(PRODUCTS, [0, 1] * LANES))
    products = builder.mul(builder.sext(levels, PRODUCTS), builder.sext(spread, PRODUCTS))
    even, odd = (
        builder.shuffle_vector(products, products, ir.Constant(MASK, [2 * lane + side for lane in range(LANES)]))
        for side in (0, 1)
    )
    return builder.add(even, odd)


def _load(builder: Any, address: Any, vector: Any, align: int) -> Any:
    loaded = builder.load(builder.inttoptr(address, vector.as_pointer()))
    loaded.align = align
    return loaded


def _each(value: int) -> Any:
    return ir.Constant(SUMS, [value] * LANES)


_sum_pairs = cast(Callable[[int, int, int, int, int], None], intrinsic(_typed))
"""Write LANES values, each the weighted sum of `count` pairs, rounded to uint8 and clipped; from compiled code only.

Args:
    pairs: address of int16[count, …, LANES, 2], levels from 0 to 255.
    stride: bytes from one row of pairs to the next.
    count: pairs in each sum, at least 1.
    weights: address of int16[count, 2, 2]: the upper parts for both of the pair, the lower parts for both.
    out: address of uint8[LANES].
"""


P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of arrays at its first call, and keep it for the next process where there is a folder for it.

    It must call nothing compiled that stands in another file (see above).
    """
    try:
        return cast(Callable[P, R], njit(nogil=True, cache=True)(function))
    except RuntimeError:
        # no folder where the compiled function could be kept for the next process
        return cast(Callable[P, R], njit(nogil=True)(function))


@compiled
def weigh(
    levels: NDArray[np.uint8],
    firsts: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: NDArray[np.int16],
    out: NDArray[np.uint8],
) -> None:
    """Write each output row as the weighted sum of its input rows, rounded and clipped.

    Args:
        levels: uint8[H, X], contiguous, X at least LANES.
        firsts: int64[h] first pair of input rows of each output row; rows 0 and 1 are pair 0.
        counts: int64[h] number of pairs, at least 1; the last pair is not beyond row H.
        weights: int16[h, N, 2, 2] of each pair: upper parts for both rows, lower parts for both.
        out: uint8[h, X], contiguous.
    """
    height, width = levels.shape
    strip = min(width, STRIP_LEVELS)
    pairs = np.empty(((height + 1) // 2, strip), np.uint32)
    to_pairs, to_weights, to_out = pairs.ctypes.data, weights.ctypes.data, out.ctypes.data
    for start in range(0, width, strip):
        # the last strip reaches back, as the last lanes do
        left = min(start, width - strip)
        ready = 0
        for output in range(out.shape[0]):
            while ready < firsts[output] + counts[output]:
                late = levels[min(2 * ready + 1, height - 1), left : left + strip]
                _pair(levels[2 * ready, left : left + strip], late, pairs[ready])
                ready += 1
            first, row = to_pairs + firsts[output] * pairs.strides[0], to_out + output * width + left
            weight = to_weights + output * weights.strides[0]
            for begin in range(0, strip, LANES):
                at = min(begin, strip - LANES)
                _sum_pairs(first + at * 4, pairs.strides[0], counts[output], weight, row + at)


@compiled
def _pair(early: NDArray[np.uint8], late: NDArray[np.uint8], out: NDArray[np.uint32]) -> None:
    for i in range(early.shape[0]):
        out[i] = np.uint32(early[i]) | np.uint32(late[i]) << np.uint32(16)
