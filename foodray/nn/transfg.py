"""TransFG (He et al., AAAI 2022): a vision transformer whose last block sees only the class token and the part each head looks at.

In: a timm ViT by name, and normalised float images. Out: the class token's features, for a head of the caller's, and the contrastive
loss on them. B photos, S side, N tokens (the class token first, then the patches row by row), H heads, K channels of a head, D channels,
M features that others hold.

Parts are those patches that the class token attends to through all blocks but the last: with A_l the attention of block l (after the
softmax, before dropout), row 0 of A_{L-1} ... A_1, head by head, without identity term and without renormalisation. Only that row is
computed: it is swept back through the blocks as a vector, each A_l made again from its queries and keys a few rows at a time, so that
blocks use fused attention and no map is ever whole in memory.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, scaled_dot_product_attention

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.backbone import make_backbone

PartBlock = Literal["random", "pretrained"]
NUM_ROWS = 128
"""Rows of an attention map that exist at a time in the sweep: 8.4 MB a photo for 12 heads and 1,370 tokens, where the map is 90 MB."""


class PartViT(nn.Module):
    """A timm VisionTransformer with overlapping patches whose last block sees only the class token and one part a head (TransFG).

    The last block is `part_block`, apart from `blocks`; everything else keeps timm's name. `pretrained_cfg` is timm's: its mean and std
    are what the published weights want of the pixels.
    """

    num_features: int

    def __init__(
        self,
        backbone: str | VisionTransformer,
        weights: str,
        *,
        side_px: int,
        stride_px: int,
        parts: bool = True,
        part_block: PartBlock = "random",
    ) -> None:
        """A network for images of `side_px`, cut into patches every `stride_px`: floor((S - P) / stride) + 1 a side, the patch P as the backbone has it.

        `backbone` is a timm name, with `weights` as in `make_backbone`, or a timm VisionTransformer, which is copied and brings its own weights
        (`weights` is then "random"). Position embeddings are resampled once to the new grid by timm, bicubic with antialiasing (the authors'
        are bilinear with aligned corners); that of the class token is kept. `parts=False` is the plain ViT on the same patches: all tokens go
        through the last block. `part_block="random"` initialises the last block anew, as the authors' code does (Xavier-uniform MLP, its
        biases normal with 1e-6; the rest by the framework's default), with parts or without; "pretrained" keeps it, as their text says.
        Raises `ConfigError` for a network of another build, and for an impossible size.
        """
        super().__init__()
        choose("part_block", part_block, get_args(PartBlock))
        network = _made(backbone, weights, side_px, stride_px)
        self.num_features, self.parts = int(network.embed_dim), parts
        self.pretrained_cfg: dict[str, Any] = getattr(network, "pretrained_cfg", {})
        self.no_embed_class = bool(network.no_embed_class)
        self.patch_embed = _restrided(network.patch_embed, side_px, stride_px)
        self.cls_token, self.pos_embed = network.cls_token, network.pos_embed
        self.pos_drop, self.patch_drop, self.norm_pre = network.pos_drop, network.patch_drop, network.norm_pre
        self.blocks = network.blocks[:-1]
        self.part_block = network.blocks[-1]
        self.norm, self.fc_norm = network.norm, network.fc_norm  # one of them, by the backbone's pooling
        if part_block == "random":
            _initialise(self.part_block)

    def forward(self, image_B3SS: Tensor, cls_BD: Tensor | None = None) -> Tensor:
        """Features (B, D): the class token after the final norm. `cls_BD` takes the place of the learned class token, position embedding included."""
        tokens_BND = self._embedded(image_B3SS, cls_BD)
        if self.parts:
            kept = []
            for block in self.blocks:
                tokens_BND, query_BHNK, key_BHNK = _step(block, tokens_BND)
                kept.append((query_BHNK, key_BHNK))
            token_BH = select_parts(kept)
            chosen_BHD = tokens_BND.gather(1, token_BH[:, :, None].expand(-1, -1, tokens_BND.shape[2]))
            tokens_BND = torch.cat([tokens_BND[:, :1], chosen_BHD], dim=1)
        else:
            tokens_BND = self.blocks(tokens_BND)
        features_BD: Tensor = self.fc_norm(self.norm(self.part_block(tokens_BND)[:, 0]))
        return features_BD

    def _embedded(self, image_B3SS: Tensor, cls_BD: Tensor | None) -> Tensor:
        patches_BND = self.patch_embed(image_B3SS)
        cls_B1D = self.cls_token.expand(patches_BND.shape[0], -1, -1) if cls_BD is None else cls_BD[:, None]
        if self.no_embed_class:
            tokens_BND = torch.cat([cls_B1D, patches_BND + self.pos_embed], dim=1)
        else:
            tokens_BND = torch.cat([cls_B1D, patches_BND], dim=1) + self.pos_embed
        embedded_BND: Tensor = self.norm_pre(self.patch_drop(self.pos_drop(tokens_BND)))
        return embedded_BND


@torch.no_grad()
def select_parts(kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The token that each head's class token looks at through all blocks, (B, H), in 1 … N - 1; two heads may choose the same.

    `kept` holds queries and keys (B, H, N, K) of every block but the last, from the first on, as they enter the product. All in float32,
    autocast or not: the row is a product of up to a dozen softmaxes.
    """
    query_BHNK, key_BHNK = kept[-1]
    with torch.autocast(query_BHNK.device.type, enabled=False):
        row_BH1N = _attention(query_BHNK[:, :, :1], key_BHNK.float())
        for query_BHNK, key_BHNK in reversed(kept[:-1]):
            key_BHNK = key_BHNK.float()
            shares = zip(torch.split(row_BH1N, NUM_ROWS, dim=3), torch.split(query_BHNK, NUM_ROWS, dim=2), strict=True)
            row_BH1N = sum((share @ _attention(queries, key_BHNK) for share, queries in shares), start=torch.zeros_like(row_BH1N))
        return row_BH1N[:, :, 0, 1:].argmax(dim=2) + 1


def contrastive_sum(z_BD: Tensor, class_B: Tensor, *, margin: float, others_MD: Tensor | None = None, others_class_M: Tensor | None = None) -> Tensor:
    """The contrastive loss of TransFG as a sum over pairs, in float32; the caller divides by their number, B x M.

    A pair of one class adds 1 - cos, one of two classes max(cos - margin, 0). Pairs are those of `z_BD` with `others_MD`, for example the
    features of all ranks (`gather_features`) or of another pass; without others those of `z_BD` with itself, i = j included, which add 0
    (to the rounding of a cosine).
    """
    assert (others_MD is None) == (others_class_M is None), "features of others come with their classes"
    others_MD, others_class_M = (z_BD, class_B) if others_MD is None or others_class_M is None else (others_MD, others_class_M)
    with torch.autocast(z_BD.device.type, enabled=False):
        cos_BM = normalize(z_BD.float(), dim=1) @ normalize(others_MD.float(), dim=1).mT
    same_BM = class_B[:, None] == others_class_M[None, :]
    return torch.where(same_BM, 1 - cos_BM, (cos_BM - margin).clamp(min=0)).sum()


def gather_features(z_BD: Tensor, class_B: Tensor) -> tuple[Tensor, Tensor]:
    """Features and classes of all ranks, (M, D) and (M,), in the order of ranks, whatever the share of each; those given without torch.distributed.

    A feature's gradient is the sum over the ranks that used it: the sum of all ranks' losses has the gradient of one process that holds the
    whole batch. Every rank must call it, and every rank or none must go backward through it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return z_BD, class_B
    count_1 = torch.tensor([len(z_BD)], device=z_BD.device)
    counts = [torch.empty_like(count_1) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count_1)
    rows = [int(count) for count in counts]
    return _Gathered.apply(z_BD, rows), _all_rows(class_B, rows)


class _Gathered(torch.autograd.Function):
    """`_all_rows` with a gradient; torch's own gathering with one is deprecated, and wants equal shares."""

    @staticmethod
    def forward(ctx: Any, own_BD: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _all_rows(own_BD, counts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor, None]:
        grad_MD = grad_MD.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad_MD)
        return torch.split(grad_MD, ctx.counts)[dist.get_rank()], None


def _all_rows(own: Tensor, counts: list[int]) -> Tensor:
    """The rows of all ranks below one another."""
    padded = pad(own, (0, 0) * (own.ndim - 1) + (0, max(counts) - len(own)))
    everyone = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyone, padded)
    return torch.cat([rows[:count] for rows, count in zip(everyone, counts, strict=True)])


def _attention(query_BHNK: Tensor, key_BHMK: Tensor) -> Tensor:
    """Attention (B, H, N, M) of queries to keys; the keys in float32."""
    scale = query_BHNK.shape[-1] ** -0.5
    return torch.softmax(query_BHNK.float() * scale @ key_BHMK.transpose(2, 3), dim=-1)


def _step(block: Any, tokens_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's output, with the queries and keys it used (B, H, N, K), which timm's own forward keeps to itself."""
    attn = block.attn
    query_BHNK, key_BHNK, value_BHNK = attn.qkv(block.norm1(tokens_BND)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    query_BHNK, key_BHNK = attn.q_norm(query_BHNK), attn.k_norm(key_BHNK)
    mixed_BHNK = scaled_dot_product_attention(query_BHNK, key_BHNK, value_BHNK, dropout_p=attn.attn_drop.p if block.training else 0.0)
    mixed_BND = attn.proj_drop(attn.proj(attn.norm(mixed_BHNK.transpose(1, 2).flatten(2))))
    tokens_BND = tokens_BND + block.drop_path1(block.ls1(mixed_BND))
    tokens_BND = tokens_BND + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens_BND))))
    if query_BHNK.requires_grad:  # autograd keeps the whole product for the backward pass
        return tokens_BND, query_BHNK.detach(), key_BHNK.detach()
    return tokens_BND, query_BHNK.clone(), key_BHNK.clone()  # as parts of the product they would keep the values too


def _made(backbone: str | VisionTransformer, weights: str, side_px: int, stride_px: int) -> Any:
    """The ViT, its position embeddings on the grid of the patches.

    timm is told the size whose plain split has as many patches: embeddings then come from the weights' own grid in one resampling.
    """
    if not isinstance(backbone, str):
        if weights != "random":
            raise ConfigError(f"weights = {weights!r}: a network that is given brings its own; say 'random', or give its timm name")
        network: Any = copy.deepcopy(backbone)
        network.set_input_size(img_size=_plain_size(backbone, side_px, stride_px))
        return network
    with torch.device("meta"):  # refused before weights are fetched
        size = _plain_size(make_backbone(backbone, "random"), side_px, stride_px)
    return make_backbone(backbone, weights, img_size=size)


def _plain_size(network: Any, side_px: int, stride_px: int) -> tuple[int, int]:
    """Height and width of the image whose plain split has as many patches; raises `ConfigError` for what cannot be cut, or has no parts."""
    if found := _exotic(network):
        raise ConfigError(
            f"backbone: parts need a timm VisionTransformer of the plain build, and {type(network).__name__} has {found}; try 'vit_base_patch16_224'"
        )
    patch: tuple[int, int] = network.patch_embed.patch_size
    if not 1 <= stride_px <= min(patch):
        raise ConfigError(
            f"stride_px = {stride_px}: patches are {patch[0]} x {patch[1]} px, so a stride is 1 to {min(patch)}; {min(patch)} cuts without overlap"
        )
    if side_px < max(patch):
        raise ConfigError(f"side_px = {side_px}: the image is smaller than one patch of {patch[0]} x {patch[1]} px")
    height, width = (((side_px - edge) // stride_px + 1) * edge for edge in patch)
    return height, width


def _exotic(network: Any) -> str:
    """What keeps a network from being cut into parts; nothing for those that can be."""
    if not isinstance(network, VisionTransformer) or type(network.patch_embed) is not PatchEmbed:
        return "other parts"
    if network.cls_token is None:
        return "no class token"
    if network.num_prefix_tokens != 1:
        return "tokens besides the class token and the patches"
    if network.pos_embed is None:
        return "no position embedding"
    if any(type(block) is not Block or type(block.attn) is not Attention or block.attn.gate is not None for block in network.blocks):
        return "blocks of another kind"
    return "" if len(network.blocks) > 1 else "no block before the last"


def _restrided(embed: Any, side_px: int, stride_px: int) -> nn.Module:
    """The patch embedding, cutting images of `side_px` every `stride_px`; its weights stay."""
    embed.proj.stride = (stride_px, stride_px)
    embed.img_size = (side_px, side_px)  # the grid is that of the plain split already
    embed.strict_img_size, embed.flatten, embed.dynamic_img_pad = True, True, False  # where timm would have taken any size
    made: nn.Module = embed
    return made


def _initialise(block: nn.Module) -> None:
    for module in block.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    for module in block.get_submodule("mlp").modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=1e-6)
