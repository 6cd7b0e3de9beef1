"""TransFG: the swept row chooses what the product of all stored attentions chooses, and the loss is the authors' double loop."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from foodray.errors import ConfigError
from foodray.nn.backbone import make_backbone
from foodray.nn.runtime import make_runtime
from foodray.nn.transfg import PartViT, contrastive_sum, gather_features, select_parts

# B = 3 images of 64 px, patches of 8 px, H = 4 heads, D = 64.
B, SIDE, PATCH, HEADS, DEPTH, D = 3, 64, 8, 4, 4, 64
STRIDE = 6  # 10 x 10 patches


def tiny(seed: int = 0, **changes: Any) -> VisionTransformer:
    """A ViT whose attention is far from uniform, so that choices are decided by more than rounding."""
    torch.manual_seed(seed)
    plain: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": D, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}
    network = VisionTransformer(**{**plain, **changes})
    for block in network.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.3)
    return network.eval()


def net(network: VisionTransformer | None = None, **changes: Any) -> PartViT:
    torch.manual_seed(1)
    plain: dict[str, Any] = {"side_px": SIDE, "stride_px": STRIDE, "part_block": "pretrained"}
    return PartViT(network or tiny(), "random", **{**plain, **changes}).eval()


def images(count: int = B, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is given while the context lasts."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach()))
    yield seen
    handle.remove()


def stored_attentions(network: PartViT, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """The attention (B, H, N, N) of every block but the last in float64, and the tokens the last block was given, from hooks on the forward."""
    maps: list[Tensor] = []

    def keep(attn: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        count, length, _ = output.shape
        query, key = (attn_norm(part) for attn_norm, part in zip(norms[attn], output.detach().view(count, length, 3, HEADS, -1).unbind(2), strict=False))
        scores = torch.einsum("bqhk,bnhk->bhqn", query.double(), key.double()) / query.shape[-1] ** 0.5
        maps.append(scores.softmax(-1))

    norms = {block.attn.qkv: (block.attn.q_norm, block.attn.k_norm) for block in network.blocks}
    handles = [block.attn.qkv.register_forward_hook(keep) for block in network.blocks]
    with inputs_of(network.part_block) as seen, torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return maps, seen[0]


def chosen_by_product(maps: list[Tensor]) -> Tensor:
    """A_{L-1} ... A_1 in full, the class token's row, the patches' columns."""
    product = maps[0]
    for attention in maps[1:]:
        product = attention @ product
    return product[:, :, 0, 1:].argmax(2) + 1


# Part selection


@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm": True}, {"no_embed_class": True, "pre_norm": True}, {"init_values": 0.5}], ids=["plain", "qk_norm", "clip", "scale"]
)
def test_the_last_block_sees_the_tokens_that_the_full_product_of_attentions_chooses(changes: dict[str, Any]) -> None:
    network = net(tiny(**changes))
    maps, seen = stored_attentions(network, images())
    assert [tuple(attention.shape) for attention in maps] == [(B, HEADS, 101, 101)] * (DEPTH - 1)
    tokens = tokens_before_the_last(network, images())
    chosen = chosen_by_product(maps)
    assert chosen.unique().numel() > HEADS  # heads and photos differ, or there would be nothing to choose
    wanted = torch.stack([torch.cat([one[:1], one[at]]) for one, at in zip(tokens, chosen, strict=True)])
    torch.testing.assert_close(seen, wanted, rtol=1e-5, atol=1e-5)


def tokens_before_the_last(network: PartViT, image: Tensor) -> Tensor:
    """All tokens that timm's own blocks make."""
    plain = copy.deepcopy(network)
    plain.parts = False
    with inputs_of(plain.part_block) as seen, torch.no_grad():
        plain(image)
    return seen[0]


@pytest.mark.parametrize("num_tokens", [2, 128, 129, 300])
def test_the_swept_row_chooses_as_the_full_product_whatever_the_number_of_tokens(num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    kept = [(2 * torch.randn(2, HEADS, num_tokens, 16, generator=generator), torch.randn(2, HEADS, num_tokens, 16, generator=generator)) for _ in range(11)]
    maps = [(query.double() @ key.double().mT / 4).softmax(-1) for query, key in kept]
    assert torch.equal(select_parts(kept), chosen_by_product(maps))


def test_under_bf16_autocast_the_same_queries_and_keys_choose_the_same_parts() -> None:
    network = net()
    generator = torch.Generator().manual_seed(5)
    kept = [(torch.randn(B, HEADS, 101, 16, generator=generator), torch.randn(B, HEADS, 101, 16, generator=generator)) for _ in range(11)]
    plain = select_parts(kept)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(select_parts(kept), plain)
        maps, seen = stored_attentions(network, images())  # from queries and keys in bf16
        tokens = tokens_before_the_last(network, images())
    wanted = torch.stack([torch.cat([one[:1], one[at]]) for one, at in zip(tokens, chosen_by_product(maps), strict=True)])
    torch.testing.assert_close(seen, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("stride", "num_tokens"), [(16, 785), (12, 1370)])
def test_16_px_patches_at_448_px_are_785_or_1370_tokens_and_12_heads_show_13_to_the_last_block(stride: int, num_tokens: int) -> None:
    with torch.device("meta"):
        published = PartViT("vit_base_patch16_224", "random", side_px=448, stride_px=stride)
        assert published.patch_embed(torch.empty(2, 3, 448, 448)).shape == (2, num_tokens - 1, 768)
        assert published.pos_embed.shape == (1, num_tokens, 768)
    narrow = net(VisionTransformer(num_classes=0, embed_dim=24, depth=2, num_heads=12), side_px=448, stride_px=stride)
    with inputs_of(narrow.blocks[0].attn.qkv) as first, inputs_of(narrow.part_block) as last, torch.no_grad():
        assert narrow(images(1, 448)).shape == (1, narrow.num_features) == (1, 24)
    assert first[0].shape == (1, num_tokens, 24)
    assert last[0].shape == (1, 13, 24)


def test_two_heads_may_choose_the_same_part() -> None:
    query, key = torch.zeros(1, HEADS, 9, 16), torch.zeros(1, HEADS, 9, 16)
    query[..., 0], key[:, :, 3, 0] = 1, 100
    assert select_parts([(query, key)] * 3).tolist() == [[3] * HEADS]


def test_the_class_token_is_never_its_own_part() -> None:
    query, key = torch.zeros(1, HEADS, 9, 16), torch.zeros(1, HEADS, 9, 16)
    query[..., 0], key[:, :, 0, 0], key[:, :, 5, 0] = 1, 100, 1
    assert select_parts([(query, key)]).tolist() == [[5] * HEADS]


# The network


@pytest.mark.parametrize("parts", [True, False])
def test_every_parameter_gets_a_gradient(parts: bool) -> None:
    network = net(parts=parts).train()
    network(images()).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


@pytest.mark.parametrize(
    "changes", [{}, {"no_embed_class": True, "pre_norm": True}, {"global_pool": "avg"}, {"dynamic_img_size": True, "dynamic_img_pad": True}]
)
def test_without_parts_and_overlap_it_is_timm_s_own_network(changes: dict[str, Any]) -> None:
    network = tiny(**changes)
    ours = net(network, parts=False, stride_px=PATCH)
    with torch.no_grad():
        theirs = network.fc_norm(network.forward_features(images()))[:, 0]
        torch.testing.assert_close(ours(images()), theirs, rtol=0, atol=1e-6)


def test_parts_change_only_what_the_last_block_sees() -> None:
    network = tiny(init_values=0.5)
    with torch.no_grad():
        _, seen = stored_attentions(net(network), images())
        wanted = network.norm(network.blocks[-1](seen))[:, 0]
        torch.testing.assert_close(net(network)(images()), wanted, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(net(network, parts=False)(images()), wanted, atol=1e-3)


def test_a_given_class_token_takes_the_place_of_the_learned_one() -> None:
    network = net()
    assert network.cls_token is not None
    learned = network.cls_token.detach()[0].expand(B, -1)
    with torch.no_grad():
        torch.testing.assert_close(network(images(), learned), network(images()))
        assert not torch.allclose(network(images(), torch.randn(B, D)), network(images()), atol=1e-3)
    given = torch.randn(B, D, requires_grad=True)
    network(images(), given).square().sum().backward()
    assert given.grad is not None
    assert given.grad.any(1).all()
    assert network.cls_token.grad is None


def test_position_embeddings_are_resampled_and_the_class_token_keeps_its_own() -> None:
    network = tiny()
    ours = net(network)
    assert ours.pos_embed.shape == (1, 101, D)
    assert torch.equal(ours.pos_embed[:, 0], network.pos_embed[:, 0])
    grid = nn.functional.interpolate(network.pos_embed[:, 1:].mT.unflatten(2, (8, 8)), (10, 10), mode="bicubic", antialias=True)
    torch.testing.assert_close(ours.pos_embed[:, 1:], grid.flatten(2).mT)
    assert network.pos_embed.shape == (1, 65, D)  # the network that was given is left as it was
    assert network.patch_embed.proj.stride == (PATCH, PATCH)


def test_patches_overlap_and_keep_their_weights() -> None:
    network = tiny()
    with torch.no_grad():
        patches = net(network).patch_embed(images())
        windows = images().unfold(2, PATCH, STRIDE).unfold(3, PATCH, STRIDE)  # (B, 3, 10, 10, 8, 8)
        by_hand = torch.einsum("bcyxij,dcij->byxd", windows, network.patch_embed.proj.weight) + network.patch_embed.proj.bias
    torch.testing.assert_close(patches, by_hand.flatten(1, 2), rtol=1e-5, atol=1e-5)


def test_what_is_left_over_at_the_border_is_not_padded_to_another_patch() -> None:
    network = net(tiny(dynamic_img_size=True, dynamic_img_pad=True), side_px=67, stride_px=PATCH)
    with torch.no_grad():
        torch.testing.assert_close(network(images(side=67)), net(stride_px=PATCH)(images(side=67)[:, :, :64, :64]))


def test_the_last_block_is_new_or_kept_and_nothing_else_is() -> None:
    network = tiny(init_values=0.5)
    kept, new = net(network), net(network, part_block="random")
    last = network.blocks[-1].state_dict()
    assert all(torch.equal(last[name], value) for name, value in kept.part_block.state_dict().items())
    linear = [name for name in last if name.endswith("weight") and last[name].ndim == 2]
    assert len(linear) == 4
    assert not any(torch.equal(last[name], new.part_block.state_dict()[name]) for name in linear)
    assert new.part_block.mlp.fc1.bias.abs().max() < 1e-5
    others = [name for name in kept.state_dict() if not name.startswith("part_block.")]
    assert all(torch.equal(kept.state_dict()[name], new.state_dict()[name]) for name in others)
    assert set(others) == {name for name in network.state_dict() if not name.startswith(f"blocks.{DEPTH - 1}.")}


def test_a_copy_chooses_with_its_own_weights() -> None:
    network = net()
    twin = copy.deepcopy(network)
    before = network(images()).detach()
    with torch.no_grad():
        twin.blocks[0].attn.qkv.weight.mul_(-1)
    assert torch.equal(network(images()), before)
    assert not torch.allclose(twin(images()), before, atol=1e-3)


def test_openvino_serves_it_to_batches_of_any_size() -> None:
    network = net()
    runtime = make_runtime("openvino", network, lambda network, batch: {"z_BD": network(batch["image"])}, {"image": images()})
    torch.testing.assert_close(runtime({"image": images(5)})["z_BD"], network(images(5)), rtol=1e-3, atol=1e-3)


# Weights and refusals


def test_weights_made_at_another_size_are_resampled_once_to_the_grid_of_the_patches(tmp_path: Path) -> None:
    torch.manual_seed(4)
    source = make_backbone("test_vit", "random", img_size=96)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    network = PartViT("test_vit", str(tmp_path / "vit.safetensors"), side_px=64, stride_px=12, part_block="pretrained")
    assert network.pos_embed.shape[1] == 1 + 5 * 5
    direct = timm.layers.resample_abs_pos_embed(source.state_dict()["pos_embed"], [5, 5], [6, 6])
    torch.testing.assert_close(network.pos_embed.detach(), direct)
    assert torch.equal(network.patch_embed.proj.weight, source.state_dict()["patch_embed.proj.weight"])
    assert network(images()).shape == (B, network.num_features)


def test_weights_of_another_vit_are_refused_in_the_same_words(tmp_path: Path) -> None:
    save_file(tiny(patch_size=16).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match="do not fit test_vit"):
        PartViT("test_vit", str(tmp_path / "vit.safetensors"), side_px=64, stride_px=16)
    save_file(make_backbone("test_vit", "random", patch_size=8).state_dict(), tmp_path / "patch8.safetensors")
    with pytest.raises(ConfigError, match="do not fit test_vit"):  # timm would resample patches too
        make_backbone("test_vit", str(tmp_path / "patch8.safetensors"))


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("test_resnet", "ResNet has other parts"),
        ("vit_base_patch16_siglip_224", "no class token"),
        ("vit_small_patch14_reg4_dinov2", "tokens besides"),
        ("vit_base_patch16_xp_224", "blocks of another kind"),
        (tiny(depth=1), "no block before the last"),
        (tiny(pos_embed="none"), "no position embedding"),
    ],
    ids=["no vit", "no class token", "registers", "other blocks", "one block", "no positions"],
)
def test_a_network_of_another_build_is_refused_with_what_it_has(backbone: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PartViT(backbone, "random", side_px=224, stride_px=8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stride_px": 0}, "stride_px = 0"),
        ({"stride_px": 9}, "a stride is 1 to 8"),
        ({"side_px": 7}, "side_px = 7"),
        ({"part_block": "new"}, "part_block = 'new'"),
        ({"weights": "pretrained"}, "brings its own"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_setting_is_refused(changes: dict[str, Any], reason: str) -> None:
    settings: dict[str, Any] = {"weights": "random", "side_px": SIDE, "stride_px": STRIDE, **changes}
    with pytest.raises(ConfigError, match=reason):
        PartViT(tiny(), **settings)


# The contrastive loss


def double_loop(z: Tensor, classes: Tensor, margin: float) -> Tensor:
    """The paper's sum, pair by pair."""
    total = torch.zeros((), dtype=z.dtype)
    for i in range(len(z)):
        for j in range(len(z)):
            cos = torch.dot(z[i], z[j]) / (z[i].norm() * z[j].norm())
            total = total + (1 - cos if classes[i] == classes[j] else torch.relu(cos - margin))
    return total


def features() -> tuple[Tensor, Tensor]:
    """Seven of four classes, near enough to one another that some pairs pass the margin."""
    return torch.randn(7, D, generator=torch.Generator().manual_seed(6)) + 1, torch.tensor([0, 2, 0, 1, 1, 3, 0])


def test_the_contrastive_sum_is_the_double_loop_in_value_and_gradient() -> None:
    z, classes = features()
    ours, theirs = z.clone().requires_grad_(), z.double().requires_grad_()
    value, wanted = contrastive_sum(ours, classes, margin=0.4), double_loop(theirs, classes, 0.4)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)
    assert contrastive_sum(z, classes, margin=0.9).item() < 0.9 * value.item()


def test_a_feature_with_itself_adds_nothing_and_one_like_it_of_another_class_adds_the_rest_of_the_margin() -> None:
    one = features()[0][:1]
    assert contrastive_sum(one, torch.tensor([0]), margin=0.4).item() == pytest.approx(0, abs=1e-6)
    twice = contrastive_sum(torch.cat([one, 3 * one]), torch.tensor([0, 1]), margin=0.4)
    assert twice.item() == pytest.approx(2 * 0.6, abs=1e-6)


def test_autocast_does_not_round_the_cosine() -> None:
    z, classes = features()
    plain = contrastive_sum(z, classes, margin=0.4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive_sum(z, classes, margin=0.4), plain)


def test_alone_a_process_gathers_what_it_has() -> None:
    z, classes = features()
    assert gather_features(z, classes) == (z, classes)


def rank_process(rank: int, world: int, folder: str) -> None:
    """Each rank's share: five features and two, then none."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    z, classes = features()
    told = []
    for border in (5, 7):
        mine = slice(0, border) if rank == 0 else slice(border, 7)
        own = z[mine].clone().requires_grad_()
        others, others_class = gather_features(own, classes[mine])
        loss = contrastive_sum(own, classes[mine], margin=0.4, others_MD=others, others_class_M=others_class)
        loss.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        told.append({"loss": loss.detach(), "gradient": own.grad, "others": others.detach(), "classes": others_class})
    torch.save(told, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_any_shares_have_the_loss_and_the_gradient_of_one_process(tmp_path: Path) -> None:
    mp.spawn(rank_process, args=(2, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    z, classes = features()
    z.requires_grad_()
    alone = contrastive_sum(z, classes, margin=0.4)
    alone.backward()
    assert z.grad is not None
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for shares in zip(first, second, strict=True):
        assert all(torch.equal(share["others"], z) and torch.equal(share["classes"], classes) for share in shares)
        assert sum(share["loss"].item() for share in shares) == pytest.approx(alone.item(), rel=1e-6)
        torch.testing.assert_close(torch.cat([share["gradient"] for share in shares]), z.grad, rtol=1e-5, atol=1e-6)
