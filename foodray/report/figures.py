"""Pictures of a finished training run, for its folder: learning curves, and truth against prediction on the test side."""

import io
import json
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

UNITS = {"energy_kcal": "kcal", "mass_g": "g", "volume_ml": "mL"}


def draw_run(store: Store) -> list[str]:
    """Draw a run's figures into its `figures` folder and return their locations."""
    metrics = json.loads(store.read("metrics.json"))
    table = read_parquet(store, "predictions.parquet").to_pandas() if metrics["test"] is not None else pd.DataFrame()
    note = "rendered sample data: not a result" if metrics["sample_data"] else ""
    drawn = {"learning_curves.png": _learning_curves(metrics["history"], note)}
    for target in UNITS:
        if f"pred_{target}" in table:
            drawn["portion.png"] = _portion(table.dropna(subset=[target]), target, note)
    if "pred_class_name" in table:
        drawn["confusion.png"] = _confusion(table.dropna(subset=["class_name"]), note)
    if taken := sorted((key for key in store.list("parts/pictures") if key.endswith(".npz")), key=lambda key: int(key.rpartition("/")[2].split("-")[0])):
        arrays = [dict(np.load(io.BytesIO(store.read(key)))) for key in taken]
        drawn |= _pictures(arrays, taken, note)
    return [store.write(f"figures/{name}", data, replace=True) for name, data in drawn.items()]


def _pictures(arrays: Sequence[dict[str, np.ndarray]], taken: Sequence[str], note: str) -> dict[str, bytes]:
    """What the network showed of a few photos at the start and after each stage: label maps, or where teacher and student look."""
    if "map_teacher" in arrays[-1]:
        last = arrays[-1]
        return {"activation_maps.png": activation_maps(last["photo"], {"teacher": last["map_teacher"], "student": last["map_student"]}, note)}
    times = [key.rpartition("/")[2].partition("-")[2].removesuffix(".npz") for key in taken]
    predicted = {when if when == "start" else f"after {when}": one["prediction"] for when, one in zip(times, arrays, strict=True)}
    return {"overlays.png": overlays(arrays[0]["photo"], {"truth": arrays[0]["truth"], **predicted}, arrays[0]["labels"].tolist(), note)}


def activation_maps(photos_NSS3: np.ndarray, maps: dict[str, np.ndarray], note: str = "") -> bytes:
    """Photos, and beside each where networks look in it for what it shows, a column a network, (N, M, M), as a PNG: bright is most."""
    count = len(photos_NSS3)
    figure, axes = plt.subplots(count, 1 + len(maps), figsize=(2.1 * (1 + len(maps)), 2.05 * count + 0.5), layout="constrained", squeeze=False)
    side = photos_NSS3.shape[1]
    for row, photo in enumerate(photos_NSS3):
        for axis, (title, values) in zip(axes[row], [("photo", None), *maps.items()], strict=True):
            axis.imshow(photo)
            if values is not None:
                axis.imshow(values[row], cmap="inferno", alpha=0.55, extent=(0, side, side, 0), interpolation="bilinear")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    return png(figure, note)


def png(figure: Figure, note: str) -> bytes:
    """A figure as a PNG, with a note in its corner; the figure is closed."""
    if note:
        figure.text(0.995, 0.005, note, ha="right", va="bottom", fontsize=8, color="0.4")
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    plt.close(figure)
    return sink.getvalue()


def _learning_curves(history: list[dict[str, Any]], note: str) -> bytes:
    frame = pd.DataFrame(history)
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    names = [str(name) for name in frame.columns]
    panels = {"training loss by term": [c for c in names if c.endswith("_loss")], "validation accuracy": [c for c in names if c == "val_accuracy"]}
    panels |= {"validation F1 and mean average precision": [c for c in names if c in ("val_sample_f1", "val_map")]}
    panels |= {
        f"validation {c.removeprefix('val_').replace('_', ' ')}": [c] for c in names if c.startswith("val_mae_") and not c.endswith(("correct", "accuracy"))
    }
    panels |= {"validation mean IoU": [c for c in ("val_miou", "val_miou_food") if c in names]}
    panels = {title: columns for title, columns in panels.items() if columns}
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), layout="constrained", squeeze=False)
    for axis, (title, columns) in zip(axes[0], panels.items(), strict=True):
        for column in columns:
            values = frame[column].dropna()
            axis.plot(
                values.index, values, label=column.removeprefix("train_").removeprefix("val_").removesuffix("_loss"), marker="." if len(values) < 40 else None
            )
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if len(columns) > 1:
            axis.set_yscale("log" if "loss" in title else "linear")
            axis.legend()
    return png(figure, note)


def _portion(table: pd.DataFrame, target: str, note: str) -> bytes:
    truth, predicted = table[target].to_numpy(), table[f"pred_{target}"].to_numpy()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.4), layout="constrained")
    limit = float(np.nanmax([truth.max(), predicted.max()])) * 1.03
    left.plot([0, limit], [0, limit], color="0.6", lw=1)
    left.scatter(truth, predicted, s=9, alpha=0.5)
    left.set(xlabel=f"truth ({UNITS[target]})", ylabel=f"prediction ({UNITS[target]})", title=f"test side, {len(table)} items", xlim=(0, limit))
    groups = table.assign(error=np.abs(predicted - truth)).groupby("class_name")["error"].agg(["mean", "size"]).sort_values("mean")
    right.barh([f"{name} (n={size})" for name, size in zip(groups.index, groups["size"], strict=True)], groups["mean"])
    right.set(xlabel=f"MAE ({UNITS[target]})", title="by class")
    right.tick_params(axis="y", labelsize=7)
    return png(figure, note)


def overlays(photos_NSS3: np.ndarray, maps: dict[str, np.ndarray], labels: Sequence[str], note: str = "") -> bytes:
    """Photos, and beside each its label maps, (N, S, S) with ids of `labels`, painted over it, a column a map, as a PNG with a legend."""
    count = len(photos_NSS3)
    figure, axes = plt.subplots(count, 1 + len(maps), figsize=(2.1 * (1 + len(maps)), 2.05 * count + 0.9), layout="constrained", squeeze=False)
    for row, photo in enumerate(photos_NSS3):
        for axis, (title, values) in zip(axes[row], [("photo", None), *maps.items()], strict=True):
            axis.imshow(photo if values is None else painted(photo, values[row]))
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    shown = sorted({int(index) for values in maps.values() for index in np.unique(values) if index > 0})
    handles = [Patch(color=color_of(index), label=labels[index]) for index in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, max(1, len(handles))), fontsize=8)
    return png(figure, note)


def color_of(index: int) -> tuple[float, float, float]:
    """The colour of an id, red, green and blue in 0 to 1, the same in every picture: hues a golden angle apart, so that neighbours differ."""
    red, green, blue = hsv_to_rgb((index * 0.61803399 % 1, 0.9 if index % 2 else 0.65, 0.95 if index % 3 else 0.75)).tolist()
    return red, green, blue


def painted(photo_HW3: np.ndarray, label_HW: np.ndarray) -> np.ndarray:
    """A photo with its foods half covered by their colour; background and unlabelled px stay as they are."""
    out_HW3 = photo_HW3.astype(np.float32)
    for index in np.unique(label_HW[label_HW > 0]):
        out_HW3[label_HW == index] = 0.45 * out_HW3[label_HW == index] + 0.55 * 255 * np.array(color_of(int(index)), np.float32)
    return out_HW3.round().astype(np.uint8)


def _confusion(table: pd.DataFrame, note: str) -> bytes:
    names = sorted(set(table["class_name"]) | set(table["pred_class_name"]))
    counts = pd.crosstab(table["class_name"], table["pred_class_name"]).reindex(index=names, columns=names, fill_value=0).to_numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(0.32 * len(names) + 3, 0.32 * len(names) + 2.4), layout="constrained")
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color="white" if share[row, column] > 0.5 else "black")
    axis.set(xlabel="predicted", ylabel="true", title="items of the test side")
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    return png(figure, note)
