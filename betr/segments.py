"""Unicode word segmentation: where tokens begin and end in text without spaces and in code, compiled.

Every code point is of one class, and the classes of neighbours say what goes together:

- S, space: separators, controls, the zero width space and the byte order mark. They end a token and belong to none.
- W, word: letters, digits, the underscore, the marks of scripts with spaces. A run of them is one token.
- C, character: letters of scripts without spaces (`curation.overlap.UNSPACED`: kana, Han, Thai, Lao, Khmer, Burmese).
  Each is a token, so that 2-grams of tokens are 2-grams of characters.
- P, punctuation and symbols: each is a token, a run of the same one is one token ("==", "----").
- M, marks of scripts without spaces, variation selectors, joiners and other format characters. They belong to the token
  that they follow; where none is before them they are one.

These are the boundaries of Unicode's default word segmentation (UAX #29) with fewer classes: no dictionary, and no
exceptions for "don't" and "3.14" (three tokens each). Nothing but S is left out.

A character is a byte below 128, or another byte with all continuation bytes after it, as fastText counts; what isn't
UTF-8 is of class W. The table is that of Unicode 14, whatever Python's: a classifier means the same wherever it scores.
"unicode14" stands for it; another table would need another name.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.compiled import jit

U8 = npt.NDArray[np.uint8]

CLASSES = "SWCPM"
_S, _W, _P, _M = (CLASSES.index(each) for each in "SWPM")
POINTS = 0x110000

# Unicode 14's code points from 0 on, as runs of one class: their number in hexadecimal, then the class. Unassigned ones
# go with what stands before them, after S and M with W.
_RUNS = (
    "21SfPaW7P1aW4P1W1P1aW4P22S9P1W2P1M4P2W1P1W3P2W1P3W1P17W1P1fW1P1caW4PcWeP5W7P1W1P1W11P75W1P8W1P5W2P1W1P6eW1P8bW1P"
    "d7W6P29W8P2dW1P1W1P2W1P2W1P2cWdP6MaPbW1P1M3P4aW4P66W1P8W1M1PaW1P13W2P1WfP1Me6W4P4W2P30W10P1eW2P28W1P7W2M50W1M81W"
    "2PaW1P81W2P6W2P1W1P78WbP6fW9P77W1P82WdP77W1P7W1P4W1PcaW5P25W1P7aWdP30C1M2C7M4W1P7C8M1PaW27P30C1M2C9MbC6MeW24C1W1"
    "7P2W6P14W1P1W1P1W1P1W4P47W1P38W8P1W39P2bC14M1CaW6P6C4M4C3M1C3M2C7M3C4MdCcM1C1MaW4M2P5bW1P264W9P27W10P60W1P26cW2P"
    "11W1S1aW5P4bW3P47WbP40W34C20M3P1C4P1C1M22WbP3W1M131W6P98W22P1eW2P80W7P1W8PaaW11P9WcP7cW4P3bW5P3eW2P40W10P3W1P2e9"
    "W1P1W3PbW3PdW3PdW5PbW3PcS4M18P2S5M1S2fP1S5M1WaMaW5PbW6P10W30P30W2P1W4P1W2PaW1P1W3P5W6P1W1P1W1P1W1P4W1PbW2P4W5P5W"
    "4P1W1P3aW2d6P3cW4eP16W276P1eW46cPe5W6PeW4P1W2P70WfP81W2fP1W1d0P1S4P3W19PfW1P5W2P5W4P58C2M2P3C1P5aC1P9C8bW2P4WaP2"
    "0W30P10W20PaW1eP8W1PfW20PaW27PfW140P19c0C40P5200C490W40P2eW2P10dW3P63W1PaW1P73W25P9W2P67W2P9dW4PaWaP34WcP4eW2P28"
    "W3P1W1P31W2P2fW1P61WePfW2P7cW4P17W3P64W2P10W2P69W1PeW6P7bW1P4d14W200C29W1P88W21P16bW12P7fW21PcW4P10M10P10W40P8fW"
    "1S1WfPaW7P1aW6P1aWbP7aW19P3M4P100W7P30W9P39W11P2W71P1a2W1P30W1P19eW1P2e7W1P1fW2Pa6W1P1fW41Pd0W10P1fW1P48W1P27W10"
    "P39W7P59W10P304W3Pa5W1bP16W2aP97WbP69W2P1M4PbW1M72W4P30W2P4fW4P4W1PdW1P1W4P57W6P6bW7P19bW5PaW4P68W1PfaW17P69W3P1"
    "cW20P39W7P7cW4PfbW65Pa4WcP92W1P5cW8P53W3P1W12P191WfP20W2P285Wb9P25W2bP470W10Pb71WfP430W9M3635W2P85WbP37W9P4WcP34"
    "7W69Pe2W1P4cb9W1P2W1P4M12acW215P5W3P6W8M8W2P7W1eP4W94P3W9bP20W60P361W1P19W1P1fW1P19W1P1fW1P19W1P1fW1P19W1P1fW1P1"
    "9W1P3cW200P37W4P32W8P1WeP1W16P6b4W141P6fW4e1P17eW313P3bW1P3W1P7dW1P1c1W210PdWae3P410Wc0001C1M1eW60M80Wf0M2fe10W"
)


@lru_cache(maxsize=1)
def point_classes() -> U8:
    """The class of each code point, an index into CLASSES; uint8 [0x110000], read-only."""
    runs = re.findall("([0-9a-f]+)([A-Z])", _RUNS)
    classes = np.repeat(
        np.array([CLASSES.index(kind) for _, kind in runs], np.uint8), [int(count, 16) for count, _ in runs]
    )
    classes.flags.writeable = False
    return classes


@jit()
def _character(data: U8, i: int, end: int, classes: U8) -> Any:
    """(class, code point, end) of the character at i; -1 for a code point where there is none."""
    lead = np.int64(data[i])
    stop = i + 1
    if lead < 128:
        return np.int64(classes[lead]), lead, stop
    while stop < end and data[stop] & 0xC0 == 0x80:
        stop += 1
    size = stop - i
    if size == 1 or size > 4 or (lead >> (7 - size)) != (1 << (size + 1)) - 2:
        return np.int64(_W), np.int64(-1), stop
    point = lead & (0x7F >> size)
    for k in range(i + 1, stop):
        point = point << 6 | np.int64(data[k] & 0x3F)
    if point >= classes.size:
        return np.int64(_W), np.int64(-1), stop
    return np.int64(classes[point]), point, stop


@jit()
def next_segment(data: U8, i: int, end: int, classes: U8) -> Any:
    """(start, stop) of the first token at or after i, which begins a character; start == end where there is none."""
    kind, point, after = np.int64(_S), np.int64(-1), i
    while i < end:
        kind, point, after = _character(data, i, end, classes)
        if kind != _S:
            break
        i = after
    start = i
    i = after
    while i < end:
        next_kind, next_point, after = _character(data, i, end, classes)
        if next_kind == _M:
            point = np.int64(-1)  # what follows a mark continues no run of symbols
        elif next_kind != kind or (kind != _W and (kind != _P or next_point != point)):
            break
        i = after
    return start, i
