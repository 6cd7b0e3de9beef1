"""A model bundle: everything that is needed to use a trained network, and nothing that can run code.

    bundle.json           task, whole config, what the task learned from the data (labels, target scale), preprocessing,
                          metrics, digests of data and code, and the hash of the weights
    weights.safetensors   the network's parameters and buffers

Both files are verified against their hashes on load; one flipped byte anywhere is an error. Pickle is never read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from foodray.config import digest, nearest
from foodray.errors import BundleError
from foodray.storage.store import Store

FORMAT = "foodray-bundle/1"
CARD = "bundle.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle in memory."""

    card: Mapping[str, Any]
    """The content of bundle.json."""
    weights: Mapping[str, Tensor]
    """The network's state by name."""

    @property
    def bundle_id(self) -> str:
        """Identity: the digest of the card, which holds the hash of the weights."""
        return str(self.card["card_sha256"])


def write_bundle(store: Store, card: Mapping[str, Any], weights: Mapping[str, Tensor], *, replace: bool = False) -> Bundle:
    """Write a bundle into an empty place; `card` must hold task, config and state. Raises `ExistsError` unless `replace`."""
    data = save_safetensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()})
    full = {
        "format": FORMAT,
        **card,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    full["card_sha256"] = digest(full)
    store.write(WEIGHTS, data, replace=replace)
    store.write(CARD, _text(full), replace=replace)
    return Bundle(card=full, weights=dict(weights))


def read_bundle(location: str, *, task: str | None = None) -> Bundle:
    """Read and verify the bundle at a location; `task` names the only kind that is accepted.

    Raises `BundleError` when a file is missing, altered, pickled, or the bundle is of another task.
    """
    if location.endswith((".pt", ".pth", ".ckpt", ".pkl", ".bin")):
        raise BundleError(f"{location}: foodray never loads pickled weights, they can run code; use a bundle folder ({CARD} + {WEIGHTS})")
    store = Store(location)
    card = _read_card(store)
    if task is not None and card["task"] != task:
        raise BundleError(f"{location} is a bundle of task {card['task']!r}, not {task!r}; {nearest(task, [card['task']])}")
    try:
        data = store.read(WEIGHTS)
    except FileNotFoundError as error:
        raise BundleError(f"{store.uri(WEIGHTS)} is missing: the bundle is incomplete; copy the whole folder again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != card["weights_sha256"]:
        raise BundleError(f"{store.uri(WEIGHTS)} was altered: its hash is {found[:12]}…, bundle.json says {card['weights_sha256'][:12]}…; copy it again")
    return Bundle(card=card, weights=load_safetensors(data))


def _text(card: Mapping[str, Any]) -> bytes:
    """The one text of a card, so that every byte counts: 1e-05 and 1E-05 are the same number."""
    return json.dumps(card, indent=2, ensure_ascii=False).encode()


def _read_card(store: Store) -> dict[str, Any]:
    try:
        data = store.read(CARD)
        card = json.loads(data)
    except FileNotFoundError as error:
        raise BundleError(f"{store.uri(CARD)} is missing: {store.root} is not a bundle folder") from error
    except ValueError as error:
        raise BundleError(f"{store.uri(CARD)} was altered: it is not JSON any more; copy it again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise BundleError(f"{store.uri(CARD)} is not a {FORMAT} file; it was written by another version or altered")
    found = digest({key: value for key, value in card.items() if key != "card_sha256"})
    if found != card.get("card_sha256") or _text(card) != data:
        raise BundleError(f"{store.uri(CARD)} was altered: its content does not match its own digest; copy it again")
    return card
