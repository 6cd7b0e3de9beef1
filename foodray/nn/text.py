"""Class names as vectors of a language model, and the loss that draws an image's vector to that of its class's name.

In: texts in any language and the name of a BERT. Out: one vector a text, made once and kept by whoever asks. `semantic_sum` is the contrastive
term of the long-tail report, equation 1.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from foodray.errors import ConfigError
from foodray.nn.hub import load_config, load_network, load_tokenizer, seeded, tokenize

log = logging.getLogger(__name__)

BERT = "bert-base-chinese"
RANDOM_WIDTH = 64
BATCH = 64


def encode_texts(texts: Sequence[str], encoder: str, *, specials: bool = False) -> NDArray[np.float32]:
    """The mean of a BERT's last hidden states over the tokens of each text, float32 (C, W), in the order of the texts.

    `encoder` is a hub name, a folder with config.json, the tokenizer's files and model.safetensors, or "random": a tiny untrained BERT of
    width 64 whose words are the characters of these texts, the same every time. [CLS] and [SEP] count only with `specials`. A text
    longer than the network's limit is cut, and one that holds no token the network knows is encoded as unknown, both with a warning.
    Raises `ConfigError` when the network cannot be had or is no BERT, and for a text without a token, such as an empty one.
    """
    assert texts, "there is nothing to encode"
    if encoder == "random":
        log.warning("encoder = 'random': a tiny untrained BERT; its vectors mean nothing and are good for tests alone")
        network, tokenizer = _tiny(texts)
    else:
        network, tokenizer = _published(encoder)
    network.eval()
    encoded = tokenize(tokenizer, texts, network.config.max_position_embeddings)
    own_CL = 1 - encoded.pop("special_tokens_mask")
    _check_tokens(texts, encoded["input_ids"], own_CL, tokenizer.unk_token_id)
    kept_CL = encoded["attention_mask"] if specials else own_CL
    columns = (encoded["input_ids"], encoded["attention_mask"], kept_CL)
    with torch.inference_mode():
        parts = [_means(network, *part) for part in zip(*(torch.split(column, BATCH) for column in columns), strict=True)]
    return torch.cat(parts).numpy()


def semantic_sum(z_BD: Tensor, zh_BD: Tensor, class_B: Tensor, *, margin: float, positive: Literal["pairs", "own"]) -> Tensor:
    """The sum over pairs of the contrastive term between image vectors z and vectors zh of the same images with the class's name in place
    of [CLS], as a scalar in float32; the caller divides by B².

    A pair of one class adds 1 - cos(z_i, zh_j) ("pairs"), or 1 - cos(z_i, zh_i) as the long-tail report prints it ("own"); a pair of two
    classes max(cos(z_i, zh_j) - margin, 0). Source: the report's equation 1, its brackets put right.
    """
    with torch.autocast(z_BD.device.type, enabled=False):
        cosine_BB = normalize(z_BD.float(), dim=1) @ normalize(zh_BD.float(), dim=1).T
    same_BB = class_B[:, None] == class_B
    near_BB = cosine_BB if positive == "pairs" else cosine_BB.diagonal()[:, None]
    return torch.where(same_BB, 1 - near_BB, (cosine_BB - margin).clamp_min(0)).sum()


def _means(network: Any, token_BL: Tensor, seen_BL: Tensor, kept_BL: Tensor) -> Tensor:
    """The mean hidden state over the kept tokens of each text of a batch, (B, W)."""
    length = int(seen_BL.sum(1).max())  # other batches may hold longer texts
    hidden_BLW: Tensor = network(input_ids=token_BL[:, :length], attention_mask=seen_BL[:, :length]).last_hidden_state
    kept_BL1 = kept_BL[:, :length, None]
    return (hidden_BLW * kept_BL1).sum(1) / kept_BL1.sum(1)


def _check_tokens(texts: Sequence[str], token_CL: Tensor, own_CL: Tensor, unknown: int) -> None:
    """Raise `ConfigError` for a text without tokens of its own, and warn of those whose tokens are all unknown."""
    num_own, num_known = own_CL.sum(1).tolist(), (own_CL * (token_CL != unknown)).sum(1).tolist()
    empty = [text for text, num in zip(texts, num_own, strict=True) if not num]
    if empty:
        raise ConfigError(f"the text {empty[0]!r} has no token: it is empty, or of signs that are not read; give the class a name in words")
    strange = [text for text, num in zip(texts, num_known, strict=True) if not num]
    if strange:
        log.warning("%d texts are unknown to the encoder from end to end and get like vectors: %s", len(strange), ", ".join(map(repr, strange[:5])))


def _published(encoder: str) -> tuple[Any, Any]:
    """Network and tokenizer from a folder or the hub."""
    from transformers import BertConfig, BertModel, BertTokenizer

    config = load_config(BertConfig, encoder, setting="encoder", example=BERT, otherwise="encoder = 'random'")
    network = load_network(
        BertModel, encoder, setting="encoder", what="a BERT", example=BERT, otherwise="encoder = 'random'", config=config, add_pooling_layer=False
    )
    return network, load_tokenizer(BertTokenizer, encoder, config.vocab_size, setting="encoder", example=BERT)


def _tiny(texts: Sequence[str]) -> tuple[Any, Any]:
    """A BERT of two layers and a tokenizer of the characters of these texts, alone and as a word's continuation."""
    from transformers import BertConfig, BertModel, BertTokenizer

    normal = BertTokenizer().backend_tokenizer.normalizer.normalize_str
    signs = sorted({sign for text in texts for sign in normal(text) if not sign.isspace()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs)]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    config = BertConfig(vocab_size=len(words), hidden_size=RANDOM_WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    with seeded():
        network: Any = BertModel(config, add_pooling_layer=False)
    return network, tokenizer
