"""What proxies, their tokenizer, training and held-out examples refuse, each in its sentence: no Spark, no PyTorch."""

import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from curation.errors import InputError, MissingExtraError
from evaluation import held_out, proxy, runs, tokenizer
from evaluation.held_out import IN_POOL, TRAINING_EXAMPLE, HeldOut, HeldOutConfig
from evaluation.measuring import Example, FinetuningConfig, measure
from evaluation.packing import Stream, TokenDocuments
from evaluation.proxy import ProxyConfig, working_folder
from evaluation.tokenizer import ProxyTokenizer, train_on_pool, train_tokenizer
from evaluation.training import ProxySize, TrainingConfig, new_model, parse_size


def tables(root: str, *, is_catalog: bool = False) -> Any:
    """Tables without a row, of which the root alone is asked."""
    empty = SimpleNamespace(collect=list)
    return SimpleNamespace(root=root, is_catalog=is_catalog, read=lambda spec: empty)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": 0}, "training: tokens must be at least 1; got 0"),
        ({"sequence": 1}, "training: sequence must be at least 2; got 1"),
        ({"batch": 0}, "training: batch must be at least 1; got 0"),
        ({"learning_rate": 0.0}, "training: learning_rate must be a number above 0; got 0.0"),
        ({"learning_rate": math.inf}, "training: learning_rate must be a number above 0; got inf"),
        ({"clip": math.nan}, "training: clip must be a number above 0; got nan"),
        ({"most_epochs": 0.0}, "training: most_epochs must be a number above 0; got 0.0"),
        ({"warmup": 1.5}, "training: warmup must be in [0, 1]; got 1.5"),
        ({"final": -0.1}, "training: final must be in [0, 1]; got -0.1"),
        ({"weight_decay": -0.1}, "training: weight_decay and checkpoint_seconds must be 0 or more"),
        ({"precision": "half"}, "training: precision must be one of auto, float32, bfloat16; got 'half'"),
    ],
)
def test_a_setting_of_training_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        TrainingConfig(**wrong)


@pytest.mark.parametrize("text", ["2m", "10x1", "1M"])
def test_a_size_that_is_none_is_answered_with_those_there_are(text: str) -> None:
    with pytest.raises(InputError, match=rf"size '{text}' is unknown; there are 0\.1m, .*, or HIDDENxLAYERSxHEADS \(96x4x6\)"):
        parse_size(text)


@pytest.mark.parametrize("text", ["9x1x2", "16x0x2", "16x1x16"])
def test_a_shape_that_its_heads_can_not_share_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="hidden must be a multiple of 2 x heads, and all at least 1; got hidden"):
        ProxySize(text, *map(int, text.split("x")))


@pytest.mark.parametrize(("wrong", "said"), [((), "none"), (("1m", "3m", "1m"), "1m, 3m, 1m")])
def test_sizes_are_named_each_once(wrong: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=f"proxies need sizes, each once; got {said}"):
        ProxyConfig(sizes=wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "fine-tuning: epochs and batch must be at least 1; got 0 and 16"),
        ({"batch": 0}, "fine-tuning: epochs and batch must be at least 1; got 2 and 0"),
        ({"learning_rate": 0.0}, "fine-tuning: learning_rate must be above 0; got 0.0"),
        ({"learning_rate": math.nan}, "fine-tuning: learning_rate must be above 0; got nan"),
    ],
)
def test_a_setting_of_fine_tuning_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        FinetuningConfig(**wrong)


# -- held-out examples -------------------------------------------------------------------------------------------------


def examples(benchmark: str, count: int) -> tuple[Example, ...]:
    return tuple(Example(f"{benchmark}{k}", benchmark, "?", ("a",), 0) for k in range(count))


def test_held_out_examples_that_stand_in_the_pool_are_refused_where_that_is_asked_for() -> None:
    found = HeldOut("h", examples("a", 1200), {"a": 1200}, {"a": {IN_POOL: 2, TRAINING_EXAMPLE: 1}, "b": {IN_POOL: 1}})
    with pytest.raises(InputError, match=r"refuse: 3 of 1,204 held-out examples stand in the pool \(a 2, b 1; the table"):
        held_out.check(found, HeldOutConfig(on_contamination="refuse"))
    trained = HeldOut("h", examples("a", 1), {"a": 1}, {"a": {TRAINING_EXAMPLE: 1}})
    held_out.check(trained, HeldOutConfig(on_contamination="refuse"))


def test_a_benchmark_of_which_nothing_is_left_to_measure_is_named() -> None:
    found = HeldOut("h", examples("a", 1), {"a": 1}, {"a": {IN_POOL: 1}, "b": {IN_POOL: 1}, "c": {TRAINING_EXAMPLE: 1}})
    with pytest.raises(InputError, match="nothing is left to measure of b, c: all of its held-out examples were trained on"):
        held_out.check(found, HeldOutConfig())


# -- models and their tokens -------------------------------------------------------------------------------------------


def test_an_arm_without_a_document_makes_no_stream() -> None:
    with pytest.raises(InputError, match="an arm without a document can't train a model; check its selection"):
        Stream(TokenDocuments.of([], [], end=0), seed=0)


def test_a_model_that_reads_one_token_at_a_time_is_not_measured() -> None:
    with pytest.raises(InputError, match="a model's context must be at least 2 tokens; got 1"):
        measure(None, ProxyTokenizer("t", ""), examples("a", 1), context=1)


@pytest.mark.parametrize("vocabulary", [256, 70_000])
def test_a_vocabulary_without_all_bytes_or_beyond_two_bytes_is_refused(vocabulary: int) -> None:
    with pytest.raises(InputError, match=rf"a vocabulary must be in 257\.\.65,536; got {vocabulary}"):
        train_tokenizer(["text"], vocabulary=vocabulary)


def test_a_pool_without_documents_has_no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "F", MagicMock())  # columns need a session
    pool: Any = SimpleNamespace(agg=lambda *_: SimpleNamespace(first=lambda: {"documents": 0, "bytes": None}))
    with pytest.raises(InputError, match="/t holds no documents to train a tokenizer on: import some with `betr import`"):
        train_on_pool(tables("/t"), pool)


def test_without_the_extra_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("torch", "tokenizers"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it weren't installed
    with pytest.raises(MissingExtraError, match=r"training proxy models needs the extra 'evaluation', which isn't installed: pip"):
        new_model(parse_size("16x1x2"), vocabulary=300, context=8, seed=0)
    with pytest.raises(MissingExtraError, match="the tokenizer of proxy models needs the extra 'evaluation', which isn't installed"):
        train_tokenizer(["text"], vocabulary=300)


# -- where they are trained --------------------------------------------------------------------------------------------


def test_without_an_arm_there_is_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match="/t holds no arm to train proxies on: make some with `evaluate arms`"):
        proxy.arms(tables("/t"))


def test_checkpoints_need_a_file_system(tmp_path: Path) -> None:
    assert working_folder(tables(str(tmp_path))) == tmp_path / "proxies"
    assert working_folder(tables("s3://bucket/x"), str(tmp_path)) == tmp_path
    for elsewhere in (tables("s3://bucket/x"), tables("main.betr", is_catalog=True)):
        with pytest.raises(InputError, match="is no folder of a file system: name one that the driver and all executors see"):
            working_folder(elsewhere)
    with pytest.raises(InputError, match="--working s3://bucket/x: checkpoints need a folder of a file system that all"):
        working_folder(tables(str(tmp_path)), "s3://bucket/x")


def test_a_task_with_a_gpu_that_pytorch_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False), __version__="2.9+cpu")
    monkeypatch.setitem(sys.modules, "torch", blind)
    monkeypatch.setattr(runs, "task_device", lambda local: "cuda:1")
    with pytest.raises(InputError, match=r"the task was given a GPU \(cuda:1\), but PyTorch 2\.9\+cpu sees no CUDA there; install"):
        runs._device(local=False)
