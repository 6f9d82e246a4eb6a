import numpy as np
import numpy.typing as npt

from betr.features import F32, F64, I64, U8

def instruction_sets() -> tuple[str, ...]: ...
def score(
    instructions: str,
    data: U8,
    starts: I64,
    stops: I64,
    slots: npt.NDArray[np.uint64],
    pool: U8,
    pool_offsets: I64,
    word_weights: F32,
    bucket_weights: F32,
    words: int,
    buckets: int,
    width: int,
    word_ngrams: int,
    minn: int,
    maxn: int,
    classes: U8,
    label_prefix: U8,
    margins: F64,
    /,
) -> None: ...
