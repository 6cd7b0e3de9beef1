"""Networks and tokenizers of transformers by hub name or local folder: safetensors weights, float32, nothing missing, or a refusal with its remedy."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foodray.errors import ConfigError

log = logging.getLogger(__name__)


def load_network(kind: Any, name: str, *, setting: str, what: str, example: str, otherwise: str, **options: Any) -> Any:
    """The network of class `kind`, float32.

    `setting`, `what`, `example` (a hub name) and `otherwise` (what to set instead) are words of the refusal. Pickled weights are never
    read. Raises `ConfigError` when the weights cannot be had or lack tensors.
    """
    local = is_folder(name, setting=setting, example=example)
    try:
        network, told = kind.from_pretrained(name, use_safetensors=True, local_files_only=local, dtype=torch.float32, output_loading_info=True, **options)
    except Exception as error:
        remedy = "the folder must hold config.json and model.safetensors" if local else "connect to the model hub once, or give a local folder that holds them"
        raise ConfigError(f"{setting} = {name!r}: the weights of {what} could not be had ({reason(error)}); {remedy}, or set {otherwise}") from error
    if told["missing_keys"]:
        raise ConfigError(
            f"{setting} = {name!r} lack {len(told['missing_keys'])} tensors of {what} (such as {min(told['missing_keys'])}); "
            f"they must be {kind.__name__}'s, such as {example!r}"
        )
    return network


def is_folder(name: str, *, setting: str, example: str) -> bool:
    """Whether a name is a local folder; raises `ConfigError` where it looks like a path and is none."""
    local = bool(name) and Path(name).is_dir()
    if not local and (not name or name.startswith(("/", ".", "~", "s3://")) or name.count("/") > 1):
        raise ConfigError(f"{setting} = {name!r} is not a folder here; fetch it first, or give a hub name such as {example!r}")
    return local


def load_config(kind: Any, name: str, *, setting: str, example: str, otherwise: str) -> Any:
    """The config of a network without its weights; raises `ConfigError` when it cannot be had or is of another kind of network."""
    local = is_folder(name, setting=setting, example=example)
    try:
        values, _ = kind.get_config_dict(name, local_files_only=local)
        if not values:
            raise FileNotFoundError("there is no config.json")
        config = kind.from_dict(values)
    except Exception as error:
        remedy = "the folder must hold config.json" if local else "connect to the model hub once, or give a local folder"
        raise ConfigError(f"{setting} = {name!r}: its config could not be had ({reason(error)}); {remedy}, or set {otherwise}") from error
    if values.get("model_type") != kind.model_type:
        raise ConfigError(f"{setting} = {name!r} is of type {values.get('model_type')!r}, not {kind.model_type!r}; give one such as {example!r}")
    return config


def load_tokenizer(kind: Any, name: str, vocab_size: int, *, setting: str, example: str) -> Any:
    """The tokenizer of class `kind`; raises `ConfigError` when it cannot be had, or has other tokens than a network of `vocab_size`."""
    local = is_folder(name, setting=setting, example=example)
    try:
        tokenizer = kind.from_pretrained(name, local_files_only=local)
    except Exception as error:
        raise ConfigError(
            f"{setting} = {name!r}: its tokenizer could not be had ({reason(error)}); add the tokenizer's files, such as tokenizer.json"
        ) from error
    # transformers makes a tokenizer that knows the special tokens alone where it finds no file of words
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ConfigError(f"{setting} = {name!r}: its tokenizer knows no words; add the tokenizer's files, such as tokenizer.json")
    if len(tokenizer) > vocab_size:
        raise ConfigError(f"{setting} = {name!r}: its tokenizer has {len(tokenizer)} tokens, the network {vocab_size}; take both from the same place")
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str], limit: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `special_tokens_mask` of texts, each int64 (C, L), padded at the right to the longest text.

    Texts are cut at the limit, or the tokenizer's own, with a warning. What looks like a special token is read as text.
    """
    limit = min(limit, tokenizer.model_max_length)
    options = {"padding": True, "padding_side": "right", "truncation": True, "max_length": limit, "split_special_tokens": True}
    encoded = tokenizer(list(texts), return_tensors="pt", return_special_tokens_mask=True, **options)
    cut = [text for text, encoding in zip(texts, encoded.encodings, strict=True) if encoding.overflowing]
    if cut:
        log.warning("%d texts are longer than %d tokens, the rest of them is not read: %s", len(cut), limit, ", ".join(repr(text[:40]) for text in cut[:5]))
    return dict(encoded)


@contextmanager
def seeded() -> Iterator[None]:
    """Random numbers that are the same every time; the state of torch's own generators, CUDA's too, is untouched."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)  # torch.manual_seed would seed CUDA's too
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
