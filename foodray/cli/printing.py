"""What the command line prints: progress lines and result tables, from records and runs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foodray.scoring.archive import Scored
    from foodray.scoring.plan import Plan
    from foodray.training.run import Run
    from foodray.training.search import Found


def print_progress(record: dict[str, Any]) -> None:
    """One line: where the run is, how fast, how long still, and the latest validation."""
    latest = record["latest"]
    shown = {
        "val_accuracy": "accuracy {:.1%}",
        "val_miou": "mIoU {:.1%}",
        "val_sample_f1": "F1 by photo {:.1%}",
        **{name: name.removeprefix("val_mae_").join(["MAE {:.1f} ", ""]) for name in latest if name in MAE_COLUMNS},
    }
    validation = ", ".join(text.format(latest[name]) for name, text in shown.items() if latest.get(name) is not None)
    eta = f"{record['eta_s'] // 60}:{record['eta_s'] % 60:02d} left" if record["eta_s"] is not None else "starting"
    speed = f"{record['samples_per_s']:.0f} samples/s" if record["samples_per_s"] else ""
    parts = [
        f"{record['stage']} epoch {record['epoch']}/{record['epochs']}",
        f"step {record['step']}/{record['steps']}",
        speed,
        eta,
        f"validation: {validation}" if validation else "",
    ]
    print("     " + " · ".join(part for part in parts if part), flush=True)


def print_runs(record: dict[str, Any]) -> None:
    """One line: how many runs are done and how long the others will take."""
    print(f"     {record['done']} of {record['total']} runs · {record['name']} · {record['eta_s'] // 60}:{record['eta_s'] % 60:02d} left", flush=True)


def print_trial(record: dict[str, Any]) -> None:
    """One line: a trial that ended, and how well it did."""
    told = [f"{name.removeprefix('val_')} {record[name]:.4g}" for name in SHOWN if record.get(name) is not None]
    epochs = f"epoch {record['num_epochs']}" if record["num_epochs"] else ""
    print("     " + " · ".join(filter(None, [f"{record['ended']} ended", record["trial"], record["state"], epochs, ", ".join(told)])), flush=True)


def print_search(found: "Found", run: "Run") -> None:
    """The best trials as a table, and the one that is delivered with its look at the test side."""
    rows = found.trials.to_pylist()
    states = {state: sum(row["state"] == state for row in rows) for state in dict.fromkeys(row["state"] for row in rows)}
    print(f"\n{len(rows)} trials: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    for row in rows:
        if row["state"] == "failed":
            print(f"  {row['trial']} failed: {row['error']}")
    metrics = [name for name in SHOWN if name in rows[0]]
    print("\nfinished trials on the validation side, the front marked *\n" + "".join(f"{name.removeprefix('val_'):>12}" for name in metrics) + "   settings")
    finished = sorted((row for row in rows if row["state"] == "finished"), key=lambda row: row["val_objective"])
    for row in finished:
        told = ", ".join(f"{field.removeprefix('task.')} {_short(row[field])}" for field in found.fields)
        print("".join(f"{_cell(row, name, '{:.4g}'):>12}" for name in metrics) + f" {'*' if row['trial'] in found.front else ' '} {told}")
    print(f"\nthe best trial, {found.best}, and the test side, which was looked at for it alone:")
    print_run(run)
    print(f"search       {found.store.root} (trials.csv, history.parquet, figures, best.json)")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_scoring(record: dict[str, Any]) -> None:
    """One line: how many photos are done, how fast, how long still, how many in quarantine."""
    eta = f"{record['eta_s'] // 60}:{record['eta_s'] % 60:02d} left" if record["eta_s"] is not None else "starting"
    speed = f"{record['photos_per_s']:.0f} photos/s" if record["photos_per_s"] else ""
    parts = [f"{record['photos']} of {record['total']} photos", speed, eta, f"{record['quarantined']} in quarantine"]
    print("     " + " · ".join(part for part in parts if part), flush=True)


def print_plan(plan: "Plan") -> None:
    """What a submission would find and do."""
    size = "unknown" if plan.num_bytes is None else f"{plan.num_bytes / 1e6:,.1f} MB"
    fixed = ", ".join(f"{count} {status}" for status, count in plan.num_fixed.items())
    lost = f"; {plan.num_not_listed} are not there" if plan.num_not_listed else ""
    print(f"run          {plan.run}\nmanifest     {plan.num_photos} photos{f' ({fixed} without looking)' if fixed else ''}")
    print(f"done         {plan.num_done}\nto score     {plan.num_to_score} photos, {size}{lost}")
    if plan.photos_per_s and plan.seconds is not None:
        formats = ", ".join(f"{count} {name}" for name, count in plan.formats.items())
        print(f"pilot        {plan.num_pilot} photos at {plan.photos_per_s:.1f}/s on one worker; {formats}")
        print(f"estimate     {plan.seconds / 60:.1f} minutes with {plan.num_workers} workers, their start not counted")
    print("nothing was written")


def print_scored(run: "Scored") -> None:
    """The account of a scored archive, the size of its tables and where they are."""
    from foodray.scoring.accounting import account_lines

    print("\n" + "\n".join(account_lines(run.info["accounting"])))
    if run.info["sample_data"]:
        print("\nTHE PHOTOS ARE RENDERED SAMPLE DATA: the tables show that the software works, they are not a result.")
    print(f"\n{'table':14}{'rows':>9}")
    for name, table in run.tables.items():
        print(f"{name:14}{table.num_rows:>9}")
    work = run.info["submissions"][-1]
    print(f"\nscored now   {work['num_scored']} photos in {work['seconds']:.0f} s")
    print(f"run folder   {run.store.root}\ntables       {run.store.uri('tables')} (Parquet, CSV, dictionary)")


MAE_COLUMNS = ("val_mae_kcal", "val_mae_g", "val_mae_ml")
MOST_CLASSES, NUM_ENDS = 40, 10
"""A longer list of classes is shown by its ends."""
SHOWN = ("val_objective", "val_accuracy", *MAE_COLUMNS, "val_miou", "val_sample_f1")


def print_run(run: "Run") -> None:
    """The result of a run as a short table, with what it is and is not."""
    metrics = run.metrics
    num, people = metrics["num_samples"], metrics["num_participants"]
    sides = [f"{num[side]} samples of {people[side]} participants" for side in ("test", "train", "val")]
    print(f"\ntest side: {sides[0]}\ntrained on {sides[1]}, epoch {metrics['kept_epoch']} chosen on {sides[2]}")
    if metrics["sample_data"]:
        print("THE PHOTOS ARE RENDERED SAMPLE DATA: these numbers show that the software works, they are not a result.")
    if run.info["split"]["method"] == "by_photo":
        print("split photo by photo: photos of one participant, or one dish, may be on both sides.")
    if metrics.get("num_left_out"):
        print(f"{metrics['num_left_out']} samples without a class are on no side, so that no class is on two.")
    if run.info["split"]["method"] == "augment_then_split_leaky":
        print("THE SPLIT LEAKS (the paper's own protocol): copies of test photos were trained on; do not compare these numbers.")
    test = metrics["test"]
    if test is None:
        print("the test side was left alone: below, the validation side, on which the epoch was chosen")
    rows = {"this model": test or metrics["val"], **metrics["baselines"]}
    columns = [(name, title, form) for name, title, form in _COLUMNS if any(name in row for row in rows.values())]
    print("\n" + f"{'':38}" + "".join(f"{title:>16}" for _, title, _ in columns))
    for label, row in rows.items():
        print(f"{label:38}" + "".join(f"{_cell(row, name, form):>16}" for name, _, form in columns))
    if test and "mccr" in test:
        counts = f"|I| = {test['num_correct']:.0f} correct of N = {test['num_both']:.0f}"
        mccr = "undefined" if test["mccr"] is None else f"{test['mccr']:.4f}"
        print(f"\nMCCR {mccr} with C = {test['mccr_constant']:g}, {counts}: comparable on this test side only")
    if metrics.get("by_class"):
        _print_classes(metrics["by_class"], run.store.uri("metrics.json"))
    if test:
        unit = next((name for name in ("kcal", "g", "ml") if f"mae_{name}" in test), "")
        _print_reliability(run.info.get("calibration"), metrics.get("reliability", {}), unit=unit)
    print("\nrun folder   " + run.store.root)
    for title, key in (("bundle", "bundle"), ("pictures", "figures"), *((("predictions", "predictions.parquet"),) if test else ())):
        print(f"{title:12} {run.store.uri(key)}")


def _print_classes(by_class: dict[str, dict[str, float | None]], place: str) -> None:
    """One line a class or tag, the one with most px, photos or training samples first; of many the best and the worst, and where the others are."""
    first = next(iter(by_class.values()))
    counts = [name for name in first if name.startswith("num_")]
    scores = [name for name in first if name not in counts]
    what = "tag" if "num_photos" in first else "class"
    rows = sorted(by_class.items(), key=lambda entry: -(entry[1][counts[-1]] or 0))
    if is_long := len(rows) > MOST_CLASSES:
        known = sorted((entry for entry in rows if entry[1][scores[0]] is not None), key=lambda entry: -(entry[1][scores[0]] or 0))
        rows = [*known[:NUM_ENDS], *known[NUM_ENDS:][-NUM_ENDS:]]
    print("\n" + f"{what:38}" + "".join(f"{name.removeprefix('num_'):>16}" for name in scores + counts))
    for index, (label, row) in enumerate(rows):
        if is_long and index == NUM_ENDS:
            print("…")
        print(
            f"{label:38}" + "".join(f"{_cell(row, name, '{:.1%}'):>16}" for name in scores) + "".join(f"{_cell(row, name, '{:,.0f}'):>16}" for name in counts)
        )
    if is_long:
        print(f"the best and the worst of {len(by_class)}; all are in {place} under by_class")


def print_export(place: str, facts: dict[str, Any]) -> None:
    """The files of an export with their sizes and speeds, and how near they are to the network and to each other."""
    print(f"{place}: {facts['num_parameters'] / 1e6:,.2f} M parameters, {facts['num_flops'] / 1e9:,.3f} GFLOPs a photo (a multiply-add counts as two)")
    times, other = facts["latency"], facts.get("against")
    for name, time_ms in times["median_ms"].items():
        size = f"{facts['num_bytes'][name] / 1e6:8.2f} MB" if name in facts["num_bytes"] else " " * 11
        beside = f", {other['times_as_fast'][name]:.2f} times as fast as the other" if other else ""
        print(f"  {name:18}{size}{time_ms:10.2f} ms a photo on one thread, {times['times_as_fast_as_eager'][name]:.2f} times as fast as eager{beside}")
    if other:
        more = f"{other['num_parameters'] / facts['num_parameters']:.2f} times the parameters, {other['num_flops'] / facts['num_flops']:.2f} times the FLOPs"
        print(f"  the other, eager  {' ' * 11}{other['median_ms']:10.2f} ms a photo; {more}")
    print(f"model.onnx differs from eager by at most {facts['difference_to_eager']:.1g} of the largest output")
    if "int8" not in facts:
        print("no int8 version was made: it needs photos, --corpus CORPUS")
        return
    near = facts["int8"]
    counts = f"{near['num_measured']} squares ({near['sides'][1]}), its ranges from {near['num_ranges']} ({near['sides'][0]})"
    print(f"int8 against fp32 on {counts}: {_nearness(near)}")
    for name, found in facts.get("against", {}).get("agreement", {}).items():
        print(f"{name} against the other on the same: {_nearness(found)}")


def _nearness(found: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.2%}" for name, value in found.items() if name.endswith(("_agreement", "_difference")))


def _print_reliability(fitted: dict[str, Any] | None, found: dict[str, Any], *, unit: str) -> None:
    """What was calibrated on the validation side, and how it holds on the test side."""
    if not fitted:
        return
    if "ece_tags" in found:
        print(f"\ncalibration error of the tags' probabilities on the test side {found['ece_tags']:.1%}; common threshold {fitted['one']:.2f}")
        return
    if found.get("ece") is not None:
        print(f"\ntemperature {fitted['temperature']:.2f}; calibration error of the top class on the test side {found['ece']:.1%}")
    if found.get("tau") is not None:
        print(f"strength of the rule after training, chosen on the validation side: tau = {found['tau']:.1f}")
    people = f"fitted on {fitted['num_participants']} participants"
    if fitted["portion_halfwidth"] is not None:
        shares = f"{found['coverage']:.1%} of the test items, mean over participants {found['coverage_participants']:.1%}, least {found['coverage_least']:.1%}"
        print(f"{fitted['level']:.0%} intervals, {people}: hold {shares}; mean width {found[f'mean_width_{unit}']:.0f} {unit}")
    elif unit:
        print(f"no {fitted['level']:.0%} intervals, {people}: that level needs {fitted['level'] / (1 - fitted['level']):.0f}")
    if found.get("day_coverage") is not None:
        print(f"{fitted['level']:.0%} intervals of day totals: hold {found['day_coverage']:.1%} of {found['num_days']} test days")


_COLUMNS = [
    ("miou", "mIoU", "{:.1%}"),
    ("miou_food", "mIoU food", "{:.1%}"),
    ("pixel_accuracy", "pixel accuracy", "{:.1%}"),
    ("mean_accuracy", "mean accuracy", "{:.1%}"),
    ("iou_food_photo", "food IoU/photo", "{:.1%}"),
    ("sample_f1", "F1 by photo", "{:.1%}"),
    ("f1_micro", "F1 micro", "{:.1%}"),
    ("f1_macro", "F1 macro", "{:.1%}"),
    ("map", "mAP", "{:.1%}"),
    ("subset_accuracy", "all tags right", "{:.1%}"),
    ("hamming", "wrong decisions", "{:.1%}"),
    ("accuracy", "accuracy", "{:.1%}"),
    *((f"accuracy_{group}", group, "{:.1%}") for group in ("frequent", "common", "rare")),
    ("accuracy_macro", "mean of classes", "{:.1%}"),
    ("accuracy_top5", "top-5", "{:.1%}"),
    *((f"mae_{unit}", f"MAE {unit}", "{:.1f}") for unit in ("kcal", "g", "ml")),
    ("mae_correct", "MAE correct", "{:.1f}"),
    ("ep_item", "EP, item level", "{:.1%}"),
]


def _cell(row: dict[str, float | None], name: str, form: str) -> str:
    value = row.get(name)
    return "-" if value is None else form.format(value)
