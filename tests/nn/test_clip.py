"""CLIP with one prompt a class: against transformers' own model, its kept vectors, its way through a bundle, and its symmetric loss."""

import copy
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torchvision.transforms.v2.functional import normalize as normalize_pixels
from transformers import CLIPModel, CLIPTokenizer

from foodray.errors import ConfigError
from foodray.nn.clip import CLIP_MEAN, CLIP_STD, PROMPT, ClipNet, clip_facts, clip_sum
from foodray.nn.runtime import make_runtime
from foodray.storage.bundle import read_bundle, write_bundle
from foodray.storage.store import Store

TEXTS = ["apple pie", "寿司", "pizza 🍕", "crème brûlée"]


def images(count: int, side_px: int = 64, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, side_px, side_px), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The tiny CLIP with its tokenizer, as `save_pretrained` writes them."""
    from foodray.nn.clip import _byte_tokenizer

    path = tmp_path / "clip"
    ClipNet("random", texts=TEXTS, side_px=64).clip.save_pretrained(path)
    _byte_tokenizer().save_pretrained(path)
    return str(path)


def edit_config(folder: Path, **of_text: Any) -> None:
    """Change settings of the text side in config.json."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(of_text)
    (folder / "config.json").write_text(json.dumps(config))


@torch.inference_mode()
def logits(network: ClipNet, image_B3SS: Tensor) -> Tensor:
    return network.eval()(image_B3SS)["logits_BC"]  # type: ignore[no-any-return]


@torch.inference_mode()
def theirs(folder: str, image_B3SS: Tensor, texts: list[str]) -> Tensor:
    """The logits of transformers' own forward pass, prompts padded to the whole context."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer([PROMPT.format(label=text) for text in texts], padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    pixels = normalize_pixels(image_B3SS.float() / 255, list(CLIP_MEAN), list(CLIP_STD))
    return CLIPModel.from_pretrained(folder).eval()(input_ids=ids, pixel_values=pixels, interpolate_pos_encoding=True).logits_per_image  # type: ignore[no-any-return]


# ---- The network.


def test_the_prompt_is_the_published_one() -> None:
    assert PROMPT.format(label="apple pie") == "This is a photo of apple pie, a type of food."


@pytest.mark.parametrize("side_px", [64, 96, 48])
def test_zero_shot_logits_are_those_of_transformers_at_any_side(side_px: int, folder: str) -> None:
    network, image_B3SS = ClipNet(folder, texts=TEXTS, side_px=side_px), images(3, side_px)
    found = logits(network, image_B3SS)
    torch.testing.assert_close(found, theirs(folder, image_B3SS, TEXTS), atol=1e-4, rtol=1e-4)
    assert found.std() > 0.1  # the tiny network tells prompts and images apart


def test_an_old_config_that_ends_texts_with_2_reads_them_to_their_end(folder: str) -> None:
    """As openai's published ones do."""
    first = logits(ClipNet(folder, texts=TEXTS, side_px=64), images(2))
    edit_config(Path(folder), eos_token_id=2)
    torch.testing.assert_close(logits(ClipNet(folder, texts=TEXTS, side_px=64), images(2)), first)


def test_training_gives_the_vectors_that_the_logits_are_made_of() -> None:
    network, image_B3SS, classes = ClipNet("random", texts=TEXTS, side_px=64), images(5), torch.tensor([2, 0, 2, 3, 1])
    outputs = network.train()(image_B3SS, classes)
    assert outputs["image_BD"].shape == outputs["text_BD"].shape == (5, 32)
    for name in ("image_BD", "text_BD"):
        torch.testing.assert_close(outputs[name].norm(dim=1), torch.ones(5))
    own = outputs["scale"] * (outputs["image_BD"] * outputs["text_BD"]).sum(1)
    torch.testing.assert_close(own.detach(), logits(network, image_B3SS)[range(5), classes])


def test_the_gradient_reaches_every_weight_of_vision_text_and_scale() -> None:
    network, classes = ClipNet("random", texts=TEXTS, side_px=64), torch.tensor([0, 1, 2, 3])
    outputs = network(images(4), classes)
    clip_sum(**outputs, class_B=classes, targets="diagonal").backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert {name for name in without if not name.endswith("k_proj.bias")} == set()  # a softmax does not feel the bias of its keys


def test_classes_of_the_same_text_have_the_same_logit() -> None:
    found = logits(ClipNet("random", texts=["pie", "soup", "pie"], side_px=64), images(2))
    assert torch.equal(found[:, 0], found[:, 2])
    assert (found[:, 0] - found[:, 1]).abs().min() > 1e-3


def test_a_text_that_looks_like_an_end_is_read_to_its_end() -> None:
    found = logits(ClipNet("random", texts=["<|endoftext|> pie", "<|endoftext|> soup"], side_px=64), images(2))
    assert (found[:, 0] - found[:, 1]).abs().min() > 1e-3


def test_a_label_with_braces_is_put_into_the_prompt_as_it_is() -> None:
    assert logits(ClipNet("random", texts=["{label}", "{0}"], side_px=64), images(1)).shape == (1, 2)


def test_a_prompt_longer_than_the_context_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    network = ClipNet("random", texts=["pie", "苹果" * 40], side_px=64)
    assert network.prompts.shape == (2, 77)
    assert "1 texts are longer than 77 tokens" in caplog.text
    assert torch.isfinite(logits(network, images(1))).all()


def test_the_random_network_says_so_and_is_the_same_every_time(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = ClipNet("random", texts=TEXTS, side_px=64)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = ClipNet("random", texts=TEXTS, side_px=64)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert "untrained" in caplog.text


def test_the_scale_is_at_most_100_and_can_still_fall() -> None:
    network = ClipNet("random", texts=TEXTS, side_px=64)
    with torch.no_grad():
        network.clip.logit_scale.fill_(4.7)
    scale = network(images(1), torch.tensor([0]))["scale"]
    scale.backward()
    assert scale.item() == 100
    assert network.clip.logit_scale.grad > 0


def test_autocast_leaves_logits_and_prompts_in_float32() -> None:
    network, image_B3SS = ClipNet("random", texts=TEXTS, side_px=64), images(3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, outputs = logits(network, image_B3SS), network.train()(image_B3SS, torch.tensor([0, 1, 2]))
    assert {mixed.dtype, *(tensor.dtype for tensor in outputs.values())} == {torch.float32}
    torch.testing.assert_close(mixed, logits(network, image_B3SS), atol=0.3, rtol=0)


# ---- What is kept of the prompts.


def changed_by_a_step(network: ClipNet) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    classes = torch.tensor([0, 1])
    clip_sum(**network.train()(images(2), classes), class_B=classes, targets="diagonal").backward()
    optimizer.step()


def changed_in_eval_mode(network: ClipNet) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, fused=True)
    classes = torch.tensor([0, 1])
    clip_sum(**network.eval()(images(2), classes), class_B=classes, targets="diagonal").backward()
    optimizer.step()


def changed_in_place(network: ClipNet) -> None:
    with torch.no_grad():  # as an average of weights is updated, without a call of train()
        torch._foreach_mul_(list(network.clip.text_model.parameters()), 0.9)


def loaded(network: ClipNet) -> None:
    network.load_state_dict({name: tensor * 0.9 if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()})


def loaded_by_assignment(network: ClipNet) -> None:
    state = {name: tensor * 0.9 if tensor.is_floating_point() else tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state, assign=True)


def with_other_prompts(network: ClipNet) -> None:
    network.prompts.copy_(network.prompts.flip(0))


def with_other_storage(network: ClipNet) -> None:
    network.clip.text_projection.weight.data = network.clip.text_projection.weight.data.roll(1, 0)


@pytest.mark.parametrize(
    "change", [changed_by_a_step, changed_in_eval_mode, changed_in_place, loaded, loaded_by_assignment, with_other_prompts, with_other_storage]
)
def test_kept_vectors_follow_every_change_of_the_weights(change: Callable[[ClipNet], None]) -> None:
    network, image_B3SS = ClipNet("random", texts=TEXTS, side_px=64), images(2)
    before = logits(network, image_B3SS)
    change(network)
    fresh = ClipNet.from_facts(network.facts, num_classes=4)
    fresh.load_state_dict(network.state_dict())
    after = logits(network, image_B3SS)
    torch.testing.assert_close(after, logits(fresh, image_B3SS), atol=1e-5, rtol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_a_loaded_state_drops_what_is_kept_wherever_its_tensors_lie() -> None:
    network = ClipNet("random", texts=TEXTS, side_px=64)
    logits(network, images(1))
    assert network._kept is not None
    torch.nn.ModuleDict({"student": network}).load_state_dict({f"student.{name}": tensor for name, tensor in network.state_dict().items()}, assign=True)
    assert network._kept is None


def test_prompts_are_encoded_once_in_eval_mode_and_dropped_by_train() -> None:
    network, image_B3SS = ClipNet("random", texts=TEXTS, side_px=64), images(2)
    calls: list[int] = []
    network.clip.text_model.register_forward_hook(lambda *_: calls.append(1))
    first = logits(network, image_B3SS)
    assert torch.equal(logits(network, image_B3SS), first)
    assert len(calls) == 1
    network.train()
    assert torch.equal(logits(network, image_B3SS), first)
    assert len(calls) == 2


def test_a_network_made_for_inference_alone_keeps_nothing_and_answers() -> None:
    with torch.inference_mode():
        network = ClipNet("random", texts=TEXTS, side_px=64)
        torch.testing.assert_close(logits(network, images(1)), logits(ClipNet("random", texts=TEXTS, side_px=64), images(1)))
    assert network._kept is None


def test_with_gradients_nothing_is_kept() -> None:
    network = ClipNet("random", texts=TEXTS, side_px=64)
    logits(network, images(1))
    network.eval()(images(1))["logits_BC"].sum().backward()
    assert network.clip.text_projection.weight.grad.any()


def test_copies_and_pickles_carry_no_kept_vectors_and_answer_alike() -> None:
    network, image_B3SS = ClipNet("random", texts=TEXTS, side_px=64), images(2)
    first = logits(network, image_B3SS)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin._kept is None
        assert torch.equal(logits(twin, image_B3SS), first)


def test_the_kept_vectors_are_not_part_of_the_state() -> None:
    network = ClipNet("random", texts=TEXTS, side_px=64)
    names = set(network.state_dict())
    logits(network, images(1))
    assert set(network.state_dict()) == names
    assert {name.split(".")[0] for name in names} == {"prompts", "pixels", "clip"}


# ---- The way through a bundle.


def test_a_bundle_is_loaded_without_hub_folder_and_tokenizer(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image_B3SS = ClipNet(folder, texts=TEXTS, side_px=96), images(2, 96)
    write_bundle(Store(str(tmp_path / "bundle")), {"task": "longtail", "config": {}, "state": {"facts": network.facts}}, network.state_dict())
    first = logits(network, image_B3SS)
    for file in Path(folder).iterdir():
        file.unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bundle = read_bundle(str(tmp_path / "bundle"))
    again = ClipNet.from_facts(bundle.card["state"]["facts"], num_classes=len(TEXTS))
    assert bundle.card["state"]["facts"] == network.facts == again.facts
    again.load_state_dict(dict(bundle.weights))
    assert torch.equal(logits(again, image_B3SS), first)


@pytest.mark.parametrize("model", ["random", "folder"])
def test_facts_are_plain_and_the_same_without_the_weights(model: str, folder: str) -> None:
    name = folder if model == "folder" else model
    facts = clip_facts(name, texts=TEXTS, side_px=96)
    assert facts == json.loads(json.dumps(facts)) == ClipNet(name, texts=TEXTS, side_px=96).facts
    assert folder not in json.dumps(facts)


@pytest.mark.parametrize("runtime", ["bf16", "openvino"])
def test_the_runtimes_of_scoring_run_it(runtime: Any) -> None:
    network = ClipNet("random", texts=TEXTS, side_px=64)
    made = make_runtime(runtime, network, lambda net, batch: net(batch["image"]), {"image": images(2)})
    assert made({"image": images(3)})["logits_BC"].shape == (3, 4)


def test_half_precision_weights_are_read_as_float32(folder: str) -> None:
    CLIPModel.from_pretrained(folder).half().save_pretrained(folder)
    assert {parameter.dtype for parameter in ClipNet(folder, texts=TEXTS, side_px=64).parameters()} == {torch.float32}


# ---- Refusals.


def with_another_end(folder: Path) -> None:
    edit_config(folder, eos_token_id=7)


def of_another_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "its config could not be had"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model = .*weights of CLIP could not be had .* or set model = 'random'"),
        (of_another_type, "is of type 'siglip', not 'clip'; give one such as 'openai/clip-vit-base-patch32'"),
        (without_tokenizer, "its tokenizer knows no words"),
        (with_another_end, "its config ends a text with token 7, its tokenizer with 513; take both from one place"),
    ],
)
def test_a_spoilt_folder_is_refused_with_a_remedy(spoil: Callable[[Path], object], message: str, folder: str) -> None:
    spoil(Path(folder))
    with pytest.raises(ConfigError, match=message):
        ClipNet(folder, texts=TEXTS, side_px=64)


@pytest.mark.parametrize(("side_px", "sides"), [(70, "64 or 80"), (8, "16")])
def test_a_side_that_patches_do_not_fill_is_refused(side_px: int, sides: str) -> None:
    with pytest.raises(ConfigError, match=f"side_px = {side_px} is no multiple of the 16 px of a patch of 'random'; set {sides}"):
        ClipNet("random", texts=TEXTS, side_px=side_px)


def test_a_hub_that_cannot_be_reached_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"model = 'nobody/clip'.*connect to the model hub once, or give a local folder, or set model = 'random'"):
        ClipNet("nobody/clip", texts=TEXTS, side_px=64)


# ---- The symmetric loss.


def pair(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    image_BD, text_BD = normalize(torch.randn(2, count, 8, generator=torch.Generator().manual_seed(seed)), dim=2)
    return image_BD, text_BD


def by_hand(image_BD: Tensor, text_BD: Tensor, scale: float, target_BB: Tensor) -> Tensor:
    """Half the cross entropies of rows and of columns."""
    logits_BB = scale * image_BD @ text_BD.T
    return -(target_BB * (logits_BB.log_softmax(1) + logits_BB.log_softmax(0))).sum() / 2


def test_the_diagonal_loss_is_half_of_both_cross_entropies() -> None:
    image_BD, text_BD = pair(6)
    found = clip_sum(image_BD, text_BD, torch.tensor(7.0), torch.arange(6), targets="diagonal")
    torch.testing.assert_close(found, by_hand(image_BD, text_BD, 7, torch.eye(6)))
    logits_BB = 7 * image_BD @ text_BD.T
    torch.testing.assert_close(found / 6, (cross_entropy(logits_BB, torch.arange(6)) + cross_entropy(logits_BB.T, torch.arange(6))) / 2)


def test_several_positives_share_the_target_evenly() -> None:
    image_BD, text_BD = pair(5)
    target_BB = torch.tensor([[0.5, 0, 0.5, 0, 0], [0, 0.5, 0, 0, 0.5], [0.5, 0, 0.5, 0, 0], [0, 0, 0, 1, 0], [0, 0.5, 0, 0, 0.5]])
    found = clip_sum(image_BD, text_BD, torch.tensor(3.0), torch.tensor([4, 7, 4, 1, 7]), targets="multi_positive")
    torch.testing.assert_close(found, by_hand(image_BD, text_BD, 3, target_BB))


def test_both_targets_are_the_same_where_each_class_is_there_once() -> None:
    image_BD, text_BD = pair(6)
    both = [clip_sum(image_BD, text_BD, torch.tensor(7.0), torch.tensor([5, 1, 3, 2, 0, 9]), targets=word) for word in ("diagonal", "multi_positive")]  # type: ignore[arg-type]
    torch.testing.assert_close(*both)


def test_the_loss_is_float32_under_autocast() -> None:
    image_BD, text_BD = pair(6)
    arguments = (image_BD, text_BD, torch.tensor(100.0), torch.tensor([0, 0, 1, 2, 2, 2]))
    plain = clip_sum(*arguments, targets="multi_positive")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clip_sum(*arguments, targets="multi_positive"), plain)


def test_a_tiny_network_learns_its_own_classes(caplog: pytest.LogCaptureFixture) -> None:
    """Four plain colours by four prompts: from chance to certainty in a few steps of the real loss."""
    caplog.set_level(logging.ERROR)
    network = ClipNet("random", texts=["red", "green", "blue", "white"], side_px=64)
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    image_B3SS = colours[classes][:, :, None, None].expand(-1, 3, 64, 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        (clip_sum(**network.train()(image_B3SS, classes), class_B=classes, targets="multi_positive") / 6).backward()
        optimizer.step()
    assert logits(network, image_B3SS).argmax(1).tolist() == classes.tolist()
