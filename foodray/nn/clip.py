"""CLIP as a classifier of foods: an image against the prompt of every class, zero-shot or fine-tuned, and its symmetric loss.

In: uint8 images. Out: in training the vectors of images and of their classes' prompts, else one logit a class. The prompts' token ids are in the
state dict and the shape of the network is in `facts`, so that a bundle is loaded without hub and tokenizer.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from foodray.errors import ConfigError
from foodray.nn.backbone import PixelNorm
from foodray.nn.hub import load_config, load_network, load_tokenizer, seeded, tokenize

log = logging.getLogger(__name__)

PROMPT = "This is a photo of {label}, a type of food."
CLIP = "openai/clip-vit-base-patch32"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_SCALE = 100.0


class ClipNet(nn.Module):
    """CLIP with one prompt a class. `model` is a hub name, a folder with config.json, the tokenizer's files and model.safetensors, or "random":
    a tiny untrained CLIP over bytes, the same every time. `texts` are the classes' names as people write them; each is put into `PROMPT`.

    `side_px` is the side of the images; where it is not the model's own, the position embeddings are interpolated once, here.
    Raises `ConfigError` when the model cannot be had, or cannot see images of that side.
    """

    prompts: Tensor

    def __init__(self, model: str, *, texts: Sequence[str], side_px: int) -> None:
        super().__init__()
        config, tokenizer = _read(model, side_px)
        network = _tiny_network(config) if model == "random" else _published(model)
        _resize(network, side_px)
        self._assemble(network, _prompts(config, tokenizer, texts))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], *, num_classes: int) -> "ClipNet":
        """The network that `facts` tell of, with random weights and empty prompts: what a bundle's state dict is loaded into."""
        from transformers import CLIPConfig, CLIPModel

        network = cls.__new__(cls)
        nn.Module.__init__(network)
        clip = CLIPModel(CLIPConfig.from_dict(dict(facts["config"])))
        network._assemble(clip, torch.zeros(num_classes, facts["num_tokens"], dtype=torch.int64))
        return network

    def _assemble(self, clip: Any, prompt_CL: Tensor) -> None:
        self.pixels = PixelNorm(CLIP_MEAN, CLIP_STD)
        self.clip = clip.train()
        self.register_buffer("prompts", prompt_CL)
        self._kept: tuple[Any, Tensor] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What `from_facts` needs, as plain JSON values."""
        return _facts(self.clip.config, self.prompts)

    def forward(self, image_B3SS: Tensor, class_B: Tensor | None = None) -> dict[str, Tensor]:
        """With the classes of the images: `image_BD` and `text_BD` of length 1, and `scale`, at most 100. Without: `logits_BC`. All float32."""
        if torch.is_grad_enabled():  # the weights may be about to change: a fused optimizer does so without a trace
            self._kept = None
        image_BD = _unit(self.clip.get_image_features(pixel_values=self.pixels(image_B3SS)).pooler_output)
        if class_B is None:
            with torch.autocast(image_BD.device.type, enabled=False):
                return {"logits_BC": self._scale() * image_BD @ self._prompt_features().T}
        class_U, place_B = torch.unique(class_B, return_inverse=True)  # a prompt that several images share is encoded once
        return {"image_BD": image_BD, "text_BD": self._encode(self.prompts[class_U])[place_B], "scale": self._scale()}

    def _encode(self, prompt_CL: Tensor) -> Tensor:
        return _unit(self.clip.get_text_features(input_ids=prompt_CL).pooler_output)

    def _scale(self) -> Tensor:
        """exp(logit_scale), at most 100. The gradient passes at the bound too: published weights lie on it, and a plain clamp would freeze them there."""
        scale: Tensor = self.clip.logit_scale.float().exp()
        return scale - (scale - MAX_SCALE).clamp_min(0).detach()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prompt_features(self) -> Tensor:
        """The vectors of all prompts, (C, D), float32 whatever the precision of the images; kept in eval mode while no weight of the text side changes."""
        if torch.compiler.is_exporting() and self._kept is not None:  # a file of the network holds their vectors, not the side that reads texts
            return self._kept[1]
        if self.training or torch.is_grad_enabled() or self.prompts.is_inference():
            return self._encode(self.prompts)
        weights = (*self.clip.text_model.parameters(), self.clip.text_projection.weight, self.prompts)
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in weights)  # an average of weights is updated in eval mode
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._encode(self.prompts)
        return self._kept[1]

    def train(self, mode: bool = True) -> "ClipNet":
        """As of any module; what was kept of the prompts is dropped."""
        if mode:
            self._kept = None
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Of this module or of one that holds it; what was kept of the prompts is dropped."""
        self._kept = None
        super()._load_from_state_dict(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles carry: all but the kept vectors."""
        return {**self.__dict__, "_kept": None}


def clip_facts(model: str, *, texts: Sequence[str], side_px: int) -> dict[str, Any]:
    """The `facts` of `ClipNet(model, …)` without its weights: what a task keeps so that its bundle needs neither hub nor tokenizer."""
    config, tokenizer = _read(model, side_px)
    return _facts(config, _prompts(config, tokenizer, texts))


def clip_sum(image_BD: Tensor, text_BD: Tensor, scale: Tensor, class_B: Tensor, *, targets: Literal["diagonal", "multi_positive"]) -> Tensor:
    """CLIP's symmetric loss, half the cross entropy of images over texts and of texts over images, summed over B; float32.

    "diagonal": each image is a pair with its own text alone, so a second photo of a class counts as a wrong answer. "multi_positive": the target
    is shared evenly among the photos of the class; both are the same where each class is there once. Source: Radford et al. 2021, figure 3.
    """
    with torch.autocast(image_BD.device.type, enabled=False):
        logits_BB = scale.float() * image_BD.float() @ text_BD.float().T
    if targets == "diagonal":
        target = torch.arange(len(class_B), device=class_B.device)
    else:
        same_BB = (class_B[:, None] == class_B).float()
        target = same_BB / same_BB.sum(1, keepdim=True)
    return (cross_entropy(logits_BB, target, reduction="sum") + cross_entropy(logits_BB.T, target, reduction="sum")) / 2


def _unit(vector_ND: Tensor) -> Tensor:
    return normalize(vector_ND.float(), dim=1)


# ---- Where networks and tokenizers come from.


def _read(model: str, side_px: int) -> tuple[Any, Any]:
    """Config, for images of that side, and tokenizer."""
    from transformers import CLIPConfig, CLIPTokenizer

    if model == "random":
        log.warning("model = 'random': a tiny untrained CLIP; its answers are noise and good for tests alone")
        config, tokenizer = _tiny_config(), _byte_tokenizer()
    else:
        config = load_config(CLIPConfig, model, setting="model", example=CLIP, otherwise="model = 'random'")
        tokenizer = load_tokenizer(CLIPTokenizer, model, config.text_config.vocab_size, setting="model", example=CLIP)
    end = config.text_config.eos_token_id
    if end not in (2, tokenizer.eos_token_id):  # 2 is what old configs say for "the highest id"; else prompts would be read at their beginning
        raise ConfigError(f"model = {model!r}: its config ends a text with token {end}, its tokenizer with {tokenizer.eos_token_id}; take both from one place")
    patch_px = config.vision_config.patch_size
    if side_px < patch_px or side_px % patch_px:
        sides = sorted({max(1, side_px // patch_px) * patch_px, (side_px // patch_px + 1) * patch_px})
        raise ConfigError(f"side_px = {side_px} is no multiple of the {patch_px} px of a patch of {model!r}; set {' or '.join(map(str, sides))}")
    config.vision_config.image_size = side_px
    return config, tokenizer


def _published(model: str) -> Any:
    from transformers import CLIPModel

    return load_network(CLIPModel, model, setting="model", what="CLIP", example=CLIP, otherwise="model = 'random'")


def _prompts(config: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Token ids of every class's prompt, (C, L), L that of the longest one; what follows the end of a text is never looked at."""
    assert texts, "there is no class"
    prompts = [PROMPT.format(label=text) for text in texts]
    return tokenize(tokenizer, prompts, config.text_config.max_position_embeddings)["input_ids"]


def _resize(clip: Any, side_px: int) -> None:
    """Give the network position embeddings for images of another side."""
    old, config = clip.vision_model.embeddings, clip.config.vision_config
    if config.image_size == side_px:
        return
    cells = (side_px // config.patch_size) ** 2
    with torch.no_grad(), seeded():
        place_1ND = old.interpolate_pos_encoding(torch.empty(1, cells + 1, config.hidden_size), side_px, side_px)
        config.image_size = side_px
        new = type(old)(config)
    new.load_state_dict({**old.state_dict(), "position_embedding.weight": place_1ND[0]})
    clip.vision_model.embeddings = new


def _facts(config: Any, prompt_CL: Tensor) -> dict[str, Any]:
    return {"config": _plain(json.loads(config.to_json_string(use_diff=False))), "num_tokens": prompt_CL.shape[1]}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The shape of a network, without where it came from and how it was stored."""
    left_out = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version")
    return {key: _plain(value) if isinstance(value, dict) else value for key, value in values.items() if key not in left_out}


# ---- The untrained one.


def _byte_tokenizer() -> Any:
    """CLIP's tokenizer without a merge: its words are the 256 bytes, inside a word and at its end."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    signs = sorted(ByteLevel.alphabet())
    words = [*signs, *(f"{sign}</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])


def _tiny_config() -> Any:
    from transformers import CLIPConfig

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32}
    ends = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    return CLIPConfig(text_config={**shape, **ends, "vocab_size": 514}, vision_config={**shape, "image_size": 64, "patch_size": 16}, projection_dim=32)


def _tiny_network(config: Any) -> Any:
    from transformers import CLIPModel

    with seeded():
        return CLIPModel(config)
