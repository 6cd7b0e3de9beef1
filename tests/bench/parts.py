"""Choosing TransFG's parts: the row swept through the blocks against all attention maps kept and multiplied, ViT-B/16, patches every 12 px.

    python -m tests.bench.parts --sizes 224 448

Both forward passes, without gradients, are of the same weights and differ in nothing else: the one of the package uses fused attention and
keeps queries and keys; the other, written here, makes every map, keeps it, and multiplies them in full. They take turns, and
medians are compared, of CPU time on one thread, so that neighbours on a shared machine count for less. Memory is what a forward pass adds at
its peak to a process that holds the network: `VmHWM`, reset before, in a child of its own. Weights are random, queries and keys made larger
so that attention is not uniform.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from foodray.nn.transfg import PartViT, select_parts

STRIDE_PX = 12
NUM_PHOTOS = {224: 4, 448: 1}
"""Photos at a time; one where not named."""


def run(sizes: tuple[int, ...] = (224,), rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Rows, each when it is done, with name, ratio (kept maps / swept row, so that more is better), goal and detail."""
    for side_px in sizes:
        yield from _times(side_px, rounds)
        yield _memory(side_px)


def _times(side_px: int, rounds: int) -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network, plain, image = _network(side_px), _network(side_px, parts=False), _image(side_px)
    kept, maps = _recorded(network, image)
    ways: dict[str, Callable[[], Tensor]] = {
        "row": lambda: select_parts(kept),
        "product": lambda: _product(maps),
        "swept": lambda: network(image),
        "stored": lambda: _stored(network, image),
        "plain": lambda: plain(image),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            with torch.no_grad():
                way()
            spent[name].append(time.process_time() - started)
    torch.set_num_threads(threads)
    median = {name: statistics.median(times[1:]) for name, times in spent.items()}
    alike = int((select_parts(kept) == _product(maps)).sum())
    about = f"{image.shape[0]} photos of {maps[0].shape[-1]:,} tokens, one thread, {rounds} rounds"
    return [
        _row(
            f"parts at {side_px} px, choosing alone, time",
            median["product"],
            median["row"],
            f"s of CPU, {about}; {alike} of {kept[0][0][:, :, 0, 0].numel()} choices alike",
        ),
        _row(f"parts at {side_px} px, forward pass, time", median["stored"], median["swept"], f"s of CPU, plain ViT {median['plain']:.2f} s"),
    ]


def _memory(side_px: int) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        swept, stored, plain = (pool.apply(_peak_mib, (way, side_px)) for way in ("swept", "stored", "plain"))
    return _row(f"parts at {side_px} px, forward pass, memory", stored, swept, f"MiB at the peak over the network's own, plain ViT {plain:.0f}")


def _row(name: str, stored: float, swept: float, about: str) -> dict[str, Any]:
    digits = 0 if swept >= 10 else 3
    return {"name": name, "ratio": stored / swept, "goal": ">= 1", "detail": f"{stored:.{digits}f} : {swept:.{digits}f} {about}"}


def _network(side_px: int, *, parts: bool = True) -> PartViT:
    torch.manual_seed(0)
    network = PartViT("vit_base_patch16_224", "random", side_px=side_px, stride_px=STRIDE_PX, parts=parts).eval()
    for block in network.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.1)
    return network


def _image(side_px: int) -> Tensor:
    return torch.randn(NUM_PHOTOS.get(side_px, 1), 3, side_px, side_px, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _peak_mib(way: str, side_px: int) -> float:
    """What a forward pass adds at its peak, in a process of its own."""
    network, image = _network(side_px, parts=way != "plain"), _image(side_px)
    network.blocks[0](torch.zeros(1, 2, network.num_features))  # the libraries' own buffers
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
    before = _status_kib("VmRSS")
    _stored(network, image) if way == "stored" else network(image)
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


# The version that keeps its maps


def _stored(network: PartViT, image: Tensor) -> Tensor:
    tokens, maps = network._embedded(image, None), []
    for block in network.blocks:
        tokens, _, attention = _stored_step(block, tokens)
        maps.append(attention)
    token_BH = _product(maps)
    chosen = tokens.gather(1, token_BH[:, :, None].expand(-1, -1, tokens.shape[2]))
    last: Tensor = network.part_block(torch.cat([tokens[:, :1], chosen], dim=1))
    features: Tensor = network.norm(last[:, 0])
    return features


def _product(maps: list[Tensor]) -> Tensor:
    """A_{L-1} ... A_1 in full; then the class token's row."""
    product = maps[-1]
    for attention in reversed(maps[:-1]):
        product = product @ attention
    return product[:, :, 0, 1:].argmax(2) + 1


def _stored_step(block: Any, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """A block as it is without fused attention: its output, queries and keys, and its map."""
    count, length, width = tokens.shape
    query, key, value = block.attn.qkv(block.norm1(tokens)).view(count, length, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    attention = (query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)).softmax(-1)
    tokens = tokens + block.attn.proj((attention @ value).transpose(1, 2).reshape(count, length, width))
    return tokens + block.mlp(block.norm2(tokens)), (query, key), attention


@torch.no_grad()
def _recorded(network: PartViT, image: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    tokens, kept, maps = network._embedded(image, None), [], []
    for block in network.blocks:
        tokens, pair, attention = _stored_step(block, tokens)
        kept.append(pair)
        maps.append(attention)
    return kept, maps


def main(sizes: tuple[int, ...] = (224, 448), rounds: int = 5) -> None:
    """Measure and print.

    Args:
        sizes: Sides of the photo in px.
        rounds: Turns of each way, after one to warm up.
    """
    for row in run(sizes, rounds):
        print(f"{row['name']:45} {row['ratio']:6.2f} x  (goal {row['goal']})  {row['detail']}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
