"""A photo's items after corrections: what a dietitian may say of an item, whether it can be so, and what then holds.

In: the answer for a photo (`PhotoReply`), never changed, and corrections in the order in which they came. Out: the effective items with
their review status (study.md section 2.2). An interval was fitted to what the model said; where anything of an item is corrected, it has none.
"""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from foodray.analyzer.messages import AMOUNTS, Amount, Item, Message, PhotoReply, Portion, Totals, Versions
from foodray.serving.problems import RequestError

FieldName = Literal["class_name", "energy_kcal", "mass_g", "volume_ml", "bbox_xywh_px", "deleted", "confirmed", "added", "no_food"]
Status = Literal["none", "confirmed", "corrected", "rejected", "added"]
Box = tuple[float, float, float, float]
VALUES = ("class_name", "bbox_xywh_px", *AMOUNTS)
"""What an item has that can be corrected."""
LARGEST_AMOUNT = 1e6
"""kcal, g or ml that no item of a meal reaches."""
MOST_ITEMS = 500
"""Items that may be added to one photo."""


class NewItem(Message):
    """An item that the model missed."""

    class_name: str
    bbox_xywh_px: Box | None = Field(None, description="box in px of the oriented photo; null for the whole photo")
    energy_kcal: float | None = None
    mass_g: float | None = None
    volume_ml: float | None = None


class Correction(Message):
    """One thing that a reviewer says of an item, or of the photo."""

    item_id: str | None = Field(None, max_length=200, description="the item; null for added and no_food, which speak of the photo")
    field: FieldName
    new: JsonValue = Field(
        description="class_name: text; energy_kcal, mass_g, volume_ml: a number, null for unknown; bbox_xywh_px: four numbers, null for the whole photo; "
        "deleted, confirmed, no_food: true or false; added: an object with class_name and, where known, bbox_xywh_px, energy_kcal, mass_g, volume_ml"
    )
    free_label: bool = Field(False, description="whether class_name may be none of the endpoint's labels")
    reason: str = Field("", max_length=300)
    seconds: float = Field(0.0, ge=0, le=86_400, allow_inf_nan=False, description="time the reviewer took for it")


class Save(Message):
    """Corrections that are kept together, or not at all."""

    based_on: int = Field(ge=0, description="num_corrections of the state that the reviewer saw; when it has grown since, nothing is kept (conflict)")
    reviewer: str = Field(min_length=1, max_length=80, description="who corrects: a name or initials")
    corrections: list[Correction] = Field(min_length=1, max_length=500)


class CorrectionRow(Message):
    """A correction as it was kept."""

    correction_id: str
    analysis_id: str
    item_id: str | None
    field: FieldName
    old: JsonValue = Field(description="what held before, filled in by the endpoint")
    new: JsonValue
    reviewer: str
    key_id: str = Field(description="API key with which it was sent")
    ts: str = Field(description="time, UTC")
    reason: str
    seconds: float


class ReviewedItem(Message):
    """An item as it holds after all corrections."""

    item_id: str
    review_status: Status
    deleted: bool = Field(description="whether a reviewer deleted it; it is rejected too while the photo is marked as without food")
    confirmed: bool
    class_name: str | None
    bbox_xywh_px: Box | None = Field(description="null for the whole photo")
    portion: Portion = Field(description="without intervals where anything of the item was corrected")
    reviewer: str | None = Field(description="who spoke of it last")
    reviewed_at: str | None
    predicted: Item | None = Field(description="what the model said; null for an item that a reviewer added")


class Reviewed(Message):
    """A kept analysis and what holds after all corrections."""

    analysis_id: str
    created_at: str = Field(description="time, UTC")
    has_photo: bool = Field(description="whether its photo was kept too")
    photo: PhotoReply = Field(description="the answer as it was given")
    versions: Versions
    items: list[ReviewedItem] | None = Field(description="every item with its review status, rejected ones too; null where the photo could not be analysed")
    no_food: bool | None = Field(description="whether a reviewer says that the photo shows no food; null: nobody spoke of it")
    totals: Totals | None = Field(description="sums over the items that are there after the corrections")
    needs_review: bool = Field(description="whether nobody has spoken of some item, or of there being none")
    corrections: list[CorrectionRow] = Field(description="in the order in which they came; their number is num_corrections")


@dataclass(kw_only=True)
class _State:
    """An item while corrections are applied."""

    predicted: Item | None
    values: dict[str, Any]
    first: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False
    confirmed: bool = False
    reviewer: str | None = None
    reviewed_at: str | None = None

    @property
    def changed(self) -> bool:
        return self.values != self.first

    def portion(self) -> Portion:
        if self.predicted is not None and not self.changed:
            return self.predicted.portion
        known = {name: self.values[name] for name in AMOUNTS if self.values[name] is not None}
        return Portion(**{name: Amount(value=value, lo=None, hi=None, level=None) for name, value in known.items()})


class Review:
    """The items of one photo; `take` applies a new correction, `replay` one that was kept."""

    def __init__(self, photo: PhotoReply) -> None:
        self.photo = photo
        self.no_food: bool | None = None
        self._states = {item.item_id: _predicted(item) for item in photo.items or ()}

    def replay(self, row: CorrectionRow) -> None:
        """Apply a correction that was checked when it was kept."""
        self._apply(row.item_id, row.field, row.new)
        self.sign(row)

    def take(self, correction: Correction, labels: Collection[str]) -> tuple[str | None, JsonValue, JsonValue]:
        """Check a correction and apply it; returns the id of the item it speaks of, what held before and what holds now.

        Raises `RequestError` (invalid_option), and then nothing is applied.
        """
        if self.photo.items is None:
            raise _refused("the photo was not analysed, so there is nothing to correct")
        named = {item.class_name for item in self.reviewed() if item.class_name}
        new = self._checked(correction, {*labels, *named})
        return *self._apply(correction.item_id, correction.field, new), new

    def sign(self, row: CorrectionRow) -> None:
        """Note on the item, or on all where it speaks of the photo, who spoke of it last."""
        for state in [self._states[row.item_id]] if row.item_id else self._states.values():
            state.reviewer, state.reviewed_at = row.reviewer, row.ts

    def reviewed(self) -> list[ReviewedItem]:
        """Every item, those that were rejected too: the model's first, in its order, then those that were added."""
        return [
            ReviewedItem(
                item_id=item_id,
                review_status=self._status(state),
                deleted=state.deleted,
                confirmed=state.confirmed,
                class_name=state.values["class_name"],
                bbox_xywh_px=state.values["bbox_xywh_px"],
                portion=state.portion(),
                reviewer=state.reviewer,
                reviewed_at=state.reviewed_at,
                predicted=state.predicted,
            )
            for item_id, state in self._states.items()
        ]

    def effective(self) -> list[ReviewedItem]:
        """The items that are there."""
        return [item for item in self.reviewed() if item.review_status != "rejected"]

    def totals(self) -> Totals:
        """Sums over the items that are there."""
        items = self.effective()
        known = [item.portion.energy_kcal.value for item in items if item.portion.energy_kcal is not None]
        return Totals(energy_kcal=sum(known) if known or not items else None, num_items=len(items), num_items_without_energy=len(items) - len(known))

    def needs_review(self) -> bool:
        """Whether nobody has spoken of some item yet, or of there being none."""
        if self.photo.items is None:
            return False
        return not self.no_food if not self._states else any(item.review_status == "none" for item in self.reviewed())

    def uncertainty(self) -> tuple[float, float]:
        """What is uncertain in the items that nobody has spoken of: the sum of interval width times portion, and the least confidence in a
        class as its distance from 1 (study.md section E)."""
        waiting = [item for item in self.reviewed() if item.review_status == "none"]
        return sum(map(_spread, waiting)), max((1 - _confidence(item) for item in waiting), default=0.0)

    # ---- Applying.

    def _apply(self, item_id: str | None, name: str, new: Any) -> tuple[str | None, JsonValue]:
        if name == "no_food":
            old, self.no_food = self.no_food, new
            return None, old
        if name == "added":
            item_id = f"{self.photo.image_id}#r{sum(state.predicted is None for state in self._states.values())}"
            self._states[item_id] = _State(predicted=None, values={key: _plain(new.get(key)) for key in VALUES})
            return item_id, None
        assert item_id is not None
        state = self._states[item_id]
        if name in ("deleted", "confirmed"):
            old = getattr(state, name)
            setattr(state, name, new)
            return item_id, old
        before, state.values[name] = state.values[name], _plain(new)
        return item_id, list(before) if isinstance(before, tuple) else before

    def _status(self, state: _State) -> Status:
        if state.deleted or self.no_food:
            return "rejected"
        if state.predicted is None:
            return "added"
        return "corrected" if state.changed else "confirmed" if state.confirmed else "none"

    # ---- Checking.

    def _checked(self, correction: Correction, labels: Collection[str]) -> Any:
        name, new = correction.field, correction.new
        if (correction.item_id is None) != (name in ("added", "no_food")):
            raise _refused(f"{name} {'speaks of the photo: item_id has to be null' if correction.item_id else 'needs an item_id'}")
        if name != "no_food" and self.no_food:
            raise _refused("the photo is marked as without food: take that back first (no_food false)")
        if correction.item_id is not None and correction.item_id not in self._states:
            raise _refused(f"the photo has no item {correction.item_id!r}")
        if name in ("deleted", "confirmed", "no_food"):
            if not isinstance(new, bool):
                raise _refused(f"{name} has to be true or false")
            return new
        if name == "added":
            return self._checked_item(new, correction, labels)
        return self._checked_value(name, new, None if correction.free_label else labels)

    def _checked_item(self, new: JsonValue, correction: Correction, labels: Collection[str]) -> dict[str, Any]:
        if sum(state.predicted is None for state in self._states.values()) >= MOST_ITEMS:
            raise _refused(f"{MOST_ITEMS} items were added to the photo, there can be no more")
        try:
            item = NewItem.model_validate(new)
        except ValidationError as error:
            first = error.errors()[0]
            raise _refused(f"added: {'.'.join(map(str, first['loc'])) or 'the item'}: {first['msg']}") from error
        return {name: self._checked_value(name, _listed(getattr(item, name)), None if correction.free_label else labels) for name in VALUES}

    def _checked_value(self, name: str, new: Any, labels: Collection[str] | None) -> Any:
        if name == "class_name":
            text = plain_text(new, "class_name", 100)
            if labels is not None and text not in labels:
                raise _refused(f"{text!r} is none of the labels (/v1/labels); send free_label = true to use it all the same")
            return text
        if name in AMOUNTS:
            if new is not None and not (_is_number(new) and 0 <= new < LARGEST_AMOUNT):
                raise _refused(f"{name} has to be a number from 0 to below {LARGEST_AMOUNT:,.0f}, or null")
            return new if new is None else abs(float(new))  # -0.0 is 0
        return self._checked_box(new)

    def _checked_box(self, new: Any) -> list[float] | None:
        if new is None:
            return None
        wide, high = self.photo.width_px or 0, self.photo.height_px or 0
        if not (isinstance(new, list) and len(new) == 4 and all(_is_number(number) and 0 <= number < LARGEST_AMOUNT for number in new)):
            raise _refused("bbox_xywh_px has to be four numbers x, y, width, height that are not negative, or null")
        x, y, width, height = (float(number) for number in new)
        if not (width > 0 and height > 0 and x + width <= wide + 0.01 and y + height <= high + 0.01):
            raise _refused(f"the box {new} is not inside the photo of {wide} x {high} px")
        return [x, y, width, height]


def plain_text(value: object, name: str, longest: int) -> str:
    """Text from a client without spaces around it; raises `RequestError` for what is no text, empty, too long, or holds control characters."""
    text = value.strip() if isinstance(value, str) else ""
    if not 0 < len(text) <= longest or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise _refused(f"{name} has to be text of 1 to {longest} characters in one line")
    return text


def _predicted(item: Item) -> _State:
    amounts = {name: getattr(item.portion, name) for name in AMOUNTS}
    values = {name: None if amount is None else amount.value for name, amount in amounts.items()}
    values |= {"class_name": item.class_name or item.mask_class_name, "bbox_xywh_px": item.bbox_xywh_px}
    return _State(predicted=item, values=dict(values), first=values)


def _spread(item: ReviewedItem) -> float:
    given: Sequence[Amount | None] = [getattr(item.portion, name) for name in AMOUNTS]
    known = [amount for amount in given if amount is not None and amount.lo is not None and amount.hi is not None]
    return (known[0].hi - known[0].lo) * known[0].value if known else 0.0  # type: ignore[operator]


def _confidence(item: ReviewedItem) -> float:
    assert item.predicted is not None, "an added item waits for nobody"
    sure = item.predicted.class_prob
    return sure if sure is not None else item.predicted.detection_score or 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refused(detail: str) -> RequestError:
    return RequestError("invalid_option", detail)
