"""BARE killed with SIGKILL while it drafts and between refining and judging, on a transformers model in float32: the same tables."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from bare import pipeline
from bare.config import BareConfig
from bare.tables import DRAFTS, JUDGEMENTS, METRICS, REFINED, ROW_EMBEDDINGS, SEEDS, VERDICTS
from bare.tasks import parse_task, read_seeds
from curation.tables import Tables
from tests.helpers import commits, interrupt_when, rows_hash, write_lines

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(1800)]  # two starts of Java

TASK = """
name: counting
description: Short questions with their answers.
opening: "[q]"
closing: "[/q]"
fields:
  - {name: question, marker: "Q:"}
  - {name: answer, marker: "A:"}
refine: Improve this draft.
judge: Which one is the worst?
"""
NOUNS = ("pens", "cups", "keys", "nuts", "cards", "coins", "rolls", "shells")
# The opening marker is the template's: what such a small model was trained on is how items go on from there.
TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}\n\n[q]{% endif %}"
)


def seed_rows() -> list[dict[str, str]]:
    names = [(chr(65 + i % 26), i % 9 + 2, NOUNS[i % 8]) for i in range(72)]
    return [{"question": f"Has {a} {n} {noun}?", "answer": f"{a} has {n}."} for a, n, noun in names]


def write_model(folder: Path) -> tuple[Path, Path]:
    """A base and an instruct model of a hundred thousand weights, trained for seconds to write items of the task."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = parse_task(TASK)
    texts = [task.render(seed.fields) + "\n\n" for seed in read_seeds(task, seed_rows()).seeds]
    plain: Any = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=340, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>")
    shape = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 2048,
    }  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **shape)
    )
    ids = torch.tensor(tokenizer("".join(texts * 4))["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    steps, length = 150, 64
    for step in range(steps):
        batch = torch.stack([ids[start : start + length] for start in torch.randint(0, len(ids) - length, (16,))])
        optimizer.param_groups[0]["lr"] = 6e-3 * (1 - step / steps)
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, template in (("base", None), ("instruct", TEMPLATE)):
        model.save_pretrained(folder / name)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
    return folder / "base", folder / "instruct"


def arguments(config: BareConfig) -> list[str]:
    names = ("tables", "task", "base", "instruct", "precision", "accepted", "wave_rows", "attempts", "max_new_tokens")
    flags = [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(config, name)))]
    return ["run", "--json", "--seeds", *config.seeds, *flags, "--master", "local[2]", "--spark", "spark.driver.memory=1g"]


def test_a_run_killed_in_each_stage_ends_with_the_tables_of_an_undisturbed_one(
    spark: SparkSession, tmp_path: Path
) -> None:
    base, instruct = write_model(tmp_path)
    (tmp_path / "task.yaml").write_text(TASK)
    write_lines(tmp_path / "seeds.jsonl", seed_rows())
    undisturbed = BareConfig(
        tables=str(tmp_path / "undisturbed"), task=str(tmp_path / "task.yaml"), seeds=(str(tmp_path / "seeds.jsonl"),),
        base=f"transformers:{base}", instruct=f"transformers:{instruct}", precision="float32", accepted=40, wave_rows=24,
        attempts=2, max_new_tokens=40, partitions=3,
    )  # fmt: skip
    expected = pipeline.run(undisturbed, spark=spark)
    assert expected["accepted"] > 10 and expected["rejected"] and expected["drafts"] > 40

    # Other waves are undisturbed, other partitions and batches too: only what is killed is not.
    root = tmp_path / "tables"
    killed = BareConfig(**{**vars(undisturbed), "tables": str(root), "partitions": None})
    command = arguments(killed)

    def drafting() -> bool:
        return commits(root / "drafts") == 1 and commits(root / "verdicts") == 1 and wave_begun(root / "drafts")

    def judging() -> bool:
        return commits(root / "refined") >= 2 and commits(root / "verdicts") == 1

    def wave_begun(table: Path) -> bool:
        return any((table / f"generation_id={expected['generation_id']}").glob("wave=1/*"))

    for moment in (drafting, judging):
        code, out, err = interrupt_when(moment, signal.SIGKILL, command, module="bare.cli")
        assert code == -signal.SIGKILL and out == "", err
    report = pipeline.run(killed, spark=spark)
    same = ("generation_id", "drafts", "refined", "accepted", "rejected", "tokens_in", "tokens_out", "measures")
    assert {name: report[name] for name in same} == {name: expected[name] for name in same}
    ours, theirs = Tables(spark, str(root)), Tables(spark, undisturbed.tables)
    for spec in (SEEDS, DRAFTS, REFINED, VERDICTS, ROW_EMBEDDINGS, METRICS, JUDGEMENTS):
        assert rows_hash(ours, spec) == rows_hash(theirs, spec), spec.name
    assert json.loads(json.dumps(report))["stopped_by"] == expected["stopped_by"]
