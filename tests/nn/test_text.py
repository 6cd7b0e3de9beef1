"""Class names as vectors: the masked mean of real tiny BERTs, the refusals, and the contrastive term against a plain double loop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import BertConfig, BertModel, BertTokenizer

from foodray.errors import ConfigError
from foodray.nn.text import encode_texts, semantic_sum

NAMES = ["苹果派", "寿司 sushi roll", "Crème brûlée", "披萨 🍕", "a"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"苹果派寿司披萨", "sushi", "roll", "##s", "creme", "br", "##ul", "##ee", "a", "[", "]", "sep"]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A BERT of three layers with a tokenizer of words, as `save_pretrained` writes them."""
    return str(save(tmp_path / "bert"))


def save(folder: Path, *, words: list[str] = WORDS, num_words: int = len(WORDS), **changes: Any) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    BertModel(BertConfig(vocab_size=num_words, initializer_range=0.3, **{**shape, **changes}), add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    return folder


def slowly(folder: str, text: str, *, specials: bool = False) -> np.ndarray:
    """The mean over the tokens of one text, alone, without padding."""
    network = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = BertTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        hidden_LW = network(input_ids=torch.tensor([ids])).last_hidden_state[0]
    chosen = range(len(ids)) if specials else range(1, len(ids) - 1)
    return np.mean([hidden_LW[index].numpy() for index in chosen], axis=0)


@pytest.mark.parametrize("specials", [False, True])
def test_a_vector_is_the_mean_over_its_tokens_alone(folder: str, specials: bool) -> None:
    vectors = encode_texts(NAMES, folder, specials=specials)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [slowly(folder, name, specials=specials) for name in NAMES], atol=1e-5)


def test_special_tokens_count_only_when_asked_for(folder: str) -> None:
    assert np.abs(encode_texts(NAMES, folder) - encode_texts(NAMES, folder, specials=True)).max() > 0.01


def test_a_vector_does_not_depend_on_its_neighbours(folder: str) -> None:
    many = [f"{'sushi ' * (index % 7)}a" for index in range(150)]  # more than two batches, of all lengths
    among = encode_texts([*many, "苹果派"], folder)
    np.testing.assert_allclose(among[-1:], encode_texts(["苹果派"], folder), atol=1e-5)
    np.testing.assert_allclose(among[3], slowly(folder, many[3]), atol=1e-5)
    np.testing.assert_allclose(among[149], slowly(folder, many[149]), atol=1e-5)


def test_texts_that_are_the_same_have_the_same_vector(folder: str) -> None:
    vectors = encode_texts(["寿司", "苹果派", "寿司"], folder)
    assert (vectors[0] == vectors[2]).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01


def test_what_looks_like_a_special_token_is_read_as_text(folder: str) -> None:
    vectors = encode_texts(["a [SEP] a", "a a"], folder)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    np.testing.assert_allclose(vectors[0], encode_texts(["a[sep]a"], folder)[0], atol=1e-5)


def test_a_text_longer_than_the_network_reads_is_cut_with_a_warning(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    long, cut = "sushi " * 100, "sushi " * 14
    vectors = encode_texts([long, "a"], folder)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"1 texts are longer than 16 tokens, the rest of them is not read: {long[:40]!r}"
    ]
    np.testing.assert_allclose(vectors, encode_texts([cut, "a"], folder), atol=1e-5)


def test_texts_that_the_encoder_does_not_know_at_all_are_named(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    assert np.isfinite(encode_texts(["🍕", "披萨 🍕"], folder)).all()
    assert [record.getMessage().split(": ")[-1] for record in caplog.records if record.levelname == "WARNING"] == ["'🍕'"]


def test_the_random_encoder_is_the_same_every_time_and_leaves_the_generator_alone(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = encode_texts(NAMES, "random")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert first.tobytes() == encode_texts(NAMES, "random").tobytes()
    assert first.shape == (5, 64)
    assert np.isfinite(first).all()
    assert "mean nothing" in caplog.text


def test_the_random_encoder_tells_texts_of_any_language_apart(caplog: pytest.LogCaptureFixture) -> None:
    vectors = encode_texts([*NAMES, "🍣", "🍕", "派果苹"], "random")
    distances = np.abs(vectors[:, None] - vectors[None]).max(-1) + 9 * np.eye(len(vectors))
    assert distances.min() > 0.01
    assert "unknown" not in caplog.text


def test_half_precision_weights_are_read_as_float32(folder: str) -> None:
    BertModel.from_pretrained(folder, add_pooling_layer=False).half().save_pretrained(folder)
    vectors = encode_texts(NAMES, folder)
    assert vectors.dtype == np.float32
    assert (vectors != vectors.astype(np.float16)).any()


# ---- Refusals.


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def pickled(folder: Path) -> None:
    torch.save(BertModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def of_another_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))


def deeper_than_its_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))


def with_other_words(folder: Path) -> None:
    BertTokenizer(vocab={word: index for index, word in enumerate([*WORDS, "more", "words"])}).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "its config could not be had .* must hold config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights of a BERT could not be had .* must hold config.json and model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"broken"), "weights of a BERT could not be had"),
        (pickled, "weights of a BERT could not be had .* model.safetensors"),
        (deeper_than_its_weights, "lack 16 tensors of a BERT .*they must be BertModel's"),
        (of_another_type, "is of type 'roberta', not 'bert'; give one such as 'bert-base-chinese'"),
        (without_tokenizer, "its tokenizer knows no words; add the tokenizer's files"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer could not be had"),
        (with_other_words, f"its tokenizer has {len(WORDS) + 2} tokens, the network {len(WORDS)}; take both from the same place"),
    ],
)
def test_a_spoilt_folder_is_refused_with_a_remedy(spoil: Callable[[Path], object], message: str, folder: str) -> None:
    spoil(Path(folder))
    with pytest.raises(ConfigError, match=message):
        encode_texts(NAMES, folder)


@pytest.mark.parametrize(("encoder", "message"), [("/nowhere/bert", "is not a folder here"), ("s3://bucket/bert", "fetch it first"), ("", "bert-base-chinese")])
def test_a_path_that_is_no_folder_is_refused(encoder: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encode_texts(NAMES, encoder)


def test_a_hub_that_cannot_be_reached_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"encoder = 'nobody/bert'.*could not be had .*connect to the model hub once, or give a local folder, or set encoder = 'random'"
    ):
        encode_texts(NAMES, "nobody/bert")


@pytest.mark.parametrize("text", ["", "  ", "\u200b"])
@pytest.mark.parametrize("encoder", ["random", "folder"])
def test_a_text_without_a_token_is_refused(text: str, encoder: str, folder: str) -> None:
    with pytest.raises(ConfigError, match=r"has no token.*give the class a name in words"):
        encode_texts(["a", text], folder if encoder == "folder" else encoder)


# ---- The contrastive term.


def doubly(z_BD: Tensor, zh_BD: Tensor, class_B: list[int], margin: float, positive: str) -> float:
    """Equation 1 of the report, pair by pair."""
    total = 0.0
    for i, own in enumerate(class_B):
        for j, other in enumerate(class_B):
            cosine = float(cosine_similarity(z_BD[i], zh_BD[j if positive == "pairs" or own != other else i], dim=0))
            total += 1 - cosine if own == other else max(cosine - margin, 0)
    return total


@pytest.mark.parametrize("positive", ["pairs", "own"])
@pytest.mark.parametrize("class_B", [[0, 1, 0, 2, 1, 0], [3, 3, 3, 3, 3, 3], [0, 1, 2, 3, 4, 5]])
def test_the_contrastive_term_is_the_double_sum(positive: Any, class_B: list[int]) -> None:
    z_BD, zh_BD = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))
    found = semantic_sum(z_BD, zh_BD, torch.tensor(class_B), margin=0.1, positive=positive)
    assert float(found) == pytest.approx(doubly(z_BD, zh_BD, class_B, 0.1, positive), abs=1e-5)


def test_the_two_readings_differ_only_where_a_class_has_several_photos() -> None:
    z_BD, zh_BD = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2))
    both = [
        [float(semantic_sum(z_BD, zh_BD, torch.tensor(classes), margin=0.4, positive=word)) for word in ("pairs", "own")]
        for classes in ([0, 1, 2, 3], [0, 0, 1, 1])
    ]
    assert both[0][0] == pytest.approx(both[0][1], abs=1e-6)
    assert abs(both[1][0] - both[1][1]) > 0.01


def test_the_contrastive_term_is_float32_under_autocast_and_moves_both_vectors() -> None:
    z_BD, zh_BD = (tensor.requires_grad_() for tensor in torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(3)).unbind())
    classes = torch.tensor([0, 1, 0, 2, 1, 0])
    plain = semantic_sum(z_BD, zh_BD, classes, margin=0.4, positive="pairs")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(semantic_sum(z_BD, zh_BD, classes, margin=0.4, positive="pairs"), plain)
    plain.backward()
    assert z_BD.grad is not None
    assert zh_BD.grad is not None
    assert z_BD.grad.abs().sum() > 0
    assert zh_BD.grad.abs().sum() > 0
