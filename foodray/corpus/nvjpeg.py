"""Full pixels of a JPEG from nvJPEG, for the one decoder (`foodray.corpus.photo`): a GPU may do its work, not its judging.

In: a JPEG in which libjpeg-turbo found nothing lost, and its picture at 1/8 from that. Out: the same photo's full pixels, or
None: then the CPU decodes it as it would have done anyway. nvJPEG is lenient about damage and takes fewer kinds of JPEG, so its
picture counts only where the means of 8 x 8 px are that picture at 1/8; an error of CUDA is no photo's fault.

What can be gained: judging at 1/8 costs 0.37 (smooth) to 0.64 (detailed) of a full decode at 12 megapixels and 0.54 at 0.5
(`python -m tests.bench.decode`), so decoding gets at most 1.6 to 2.7 times as fast, less the way to the GPU and back. Progressive
files gain nothing (0.76, and nvJPEG reads them on the CPU too), nor does what is wanted at 1/2 or less. Pixels differ: torchvision's nvJPEG
repeats halved chroma where libjpeg-turbo smooths it (that alone: 0.16 of 255 in the mean on ECUSTFD, up to 41 at coloured edges).

One photo at a time on a stream of its own, read back before the next. torchvision holds a lock of its own while it decodes, but
writes into memory that work queued on the caller's stream may still be reading (pytorch/vision 9606): here nothing is queued.
"""

import logging
import threading
from contextlib import nullcontext, suppress
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from foodray.corpus.resize import Rgb, Size

log = logging.getLogger(__name__)

MIN_PX = 2_000_000
"""Px below which a photo stays on the CPU: a GPU saves at most 1.1 to 1.3 ms a megapixel, and one call takes it 1.2 ms (pytorch/vision 9606, H100)."""
MAX_APART = 3.0
"""Largest difference to the CPU's picture at 1/8 of 255. On photos of ECUSTFD it is at most 0.75 for every sampling, with and without smoothed chroma."""
LUMA = np.array((0.299, 0.587, 0.114), np.float32)
"""Brightness of red, green and blue (JFIF)."""
_turn = threading.Lock()
_told: set[str] = set()


def gains(image: Image.Image) -> bool:
    """Whether a JPEG, opened by Pillow, is of the kind that a GPU decodes faster than the CPU: large, not progressive, YCbCr or grey."""
    return image.mode in ("RGB", "L") and not image.info.get("progressive") and image.width * image.height >= MIN_PX


def full_pixels(data: bytes, size: Size, eighth_HW3: Rgb, device: str) -> Rgb | None:
    """The pixels (H, W, 3) as they lie in the file, `size` wide and high; None where nvJPEG fails or shows another picture than `eighth_HW3`."""
    with _turn:
        try:
            rgb, means = _decoded(data, device)
        except Exception as error:
            _settle(device)
            _tell(type(error).__name__, " ".join(str(error).split())[:300])
            return None
    rows, columns = size[1] // 8, size[0] // 8
    if rgb.shape[1::-1] != size or eighth_HW3.shape[:2] != (-(-size[1] // 8), -(-size[0] // 8)) or not rows * columns:
        return None
    away = means - eighth_HW3[:rows, :columns]
    # Brightness by rows of blocks, as damage lies; colour over all: where chroma is halved one way only, its means are not those at 1/8.
    apart = max(np.abs(away @ LUMA).mean(1).max(), np.abs(away.mean((0, 1))).max())
    if not apart <= MAX_APART:
        _tell("another picture", f"it is {apart:.1f} of 255 away from the CPU's")
        return None
    return rgb


def _decoded(data: bytes, name: str) -> tuple[Rgb, np.ndarray]:
    """Pixels (H, W, 3), and the means of whole blocks of 8 x 8 px (H // 8, W // 8, 3); any device of torch, the CPU too."""
    import torch  # a process that only cuts photos on the CPU does without
    from torchvision.io import decode_jpeg

    device = torch.device(name)
    stream: Any = torch.cuda.stream(_stream(device)) if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), stream:
        planes_3HW = decode_jpeg(torch.from_numpy(np.frombuffer(data, np.uint8).copy()), mode="RGB", device=device)
        rows, columns = planes_3HW.shape[1] // 8, planes_3HW.shape[2] // 8
        blocks = planes_3HW[:, : 8 * rows, : 8 * columns].reshape(3, rows, 8, columns, 8)
        means_HW3 = blocks.mean((2, 4), dtype=torch.float32).permute(1, 2, 0).cpu().numpy()
        return planes_3HW.permute(1, 2, 0).contiguous().cpu().numpy(), means_HW3


@cache
def _stream(device: Any) -> Any:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _settle(device: str) -> None:
    """After an error wait for what was begun: it may still write into memory that the next photo gets."""
    if device.startswith("cuda"):
        with suppress(Exception):
            import torch

            torch.cuda.synchronize(device)


def _tell(kind: str, detail: str) -> None:
    """Say once a process, for each kind of failure, that the option does not do what was asked."""
    if kind not in _told:
        _told.add(kind)
        log.warning("nvJPEG did not decode a photo, the CPU does (said once): %s: %s", kind, detail)
