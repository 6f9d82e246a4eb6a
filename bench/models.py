"""Models made from a configuration, where no weights are: what they say means nothing, what they cost does."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers

END = "<end>"


def tokenizer(texts: Iterable[str], *, vocabulary: int = 4_000) -> Any:
    """A byte-level tokenizer trained on the texts: any text has tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)


def llama(folder: Path, texts: Iterable[str], **sizes: int) -> Path:
    """A Llama with random weights and its tokenizer, as a folder that transformers loads."""
    words = tokenizer(texts)
    settings: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, **{**settings, **sizes}
    )
    transformers.LlamaForCausalLM(config).save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def encoder(folder: Path, texts: Iterable[str], **sizes: int) -> Path:
    """A BERT with random weights as a folder that sentence-transformers loads: mean pooling, unit length."""
    import sentence_transformers

    words = tokenizer(texts)
    words.model_max_length = sizes.get("max_position_embeddings", 512)
    torch.manual_seed(0)
    settings: dict[str, Any] = {**sizes, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    config = transformers.BertConfig(**settings)
    bare = folder.with_name(folder.name + "-bare")
    transformers.BertModel(config).save_pretrained(str(bare))
    words.save_pretrained(str(bare))
    kinds: Any = import_module("sentence_transformers.models")
    modules = [kinds.Transformer(str(bare)), kinds.Pooling(config.hidden_size, "mean"), kinds.Normalize()]
    made = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    made.save(str(folder))
    return folder


def quiet() -> None:
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
