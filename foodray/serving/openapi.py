"""What the OpenAPI description says beyond what FastAPI knows: which problems an operation can answer with, keys, and an example.

A route says its codes with `responses=answers(…)`; a test holds that what is documented and what is answered agree.
"""

from typing import Any

from fastapi import FastAPI

from foodray.serving.problems import PROBLEMS

SCHEMAS = "#/components/schemas/{model}"
"""Where pydantic shall look for the parts of a schema: give it as `ref_template`, and `describe` puts the parts there."""
WITH_KEY = ("unauthorized", "forbidden", "rate_limited", "overloaded", "not_ready")
"""What every operation answers that needs a key."""
REVIEWED = (*WITH_KEY, "not_configured", "storage_error")
"""What every operation on kept analyses or on jobs answers."""
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457, with a stable code",
    "required": ["type", "title", "status", "code", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": list(PROBLEMS)},
        "detail": {"type": "string"},
        "request_id": {"type": ["string", "null"]},
        "reason": {"type": "string", "description": "of a photo that was refused: the reason code of the quarantine table"},
        "image_id": {"type": "string", "description": "of a photo that was refused"},
        "num_corrections": {"type": "integer", "description": "of corrections that others overtook"},
    },
    "additionalProperties": False,
}
EXAMPLE_ANSWER: dict[str, Any] = {
    "request_id": "5f9717bb01714cf2a7cb697559cef326",
    "photos": [
        {
            "image_id": "day1-lunch",
            "status": "ok",
            "image_sha256": "d4042a0b7bf0202cfaf61cb1e76d4a1c54643a8db14e83a353e4f9ce5830ac64",
            "num_bytes": 48213,
            "format": "JPEG",
            "width_px": 1600,
            "height_px": 1200,
            "exif_orientation": 1,
            "quality": {"marker_found": True, "px_per_mm": 4.1},
            "items": [
                {
                    "item_id": "day1-lunch#0",
                    "item_index": 0,
                    "bbox_xywh_px": [410.0, 300.0, 620.0, 540.0],
                    "box_source": "segmentation",
                    "detection_score": 0.93,
                    "class_name": "rice",
                    "class_prob": 0.81,
                    "labels": [{"class_name": "rice", "prob": 0.81}, {"class_name": "bulgur", "prob": 0.12}],
                    "portion": {"energy_kcal": {"value": 214.0, "lo": 158.0, "hi": 270.0, "level": 0.8}},
                }
            ],
            "tags": [{"tag": "carbs", "prob": 0.94, "given": True}, {"tag": "dessert", "prob": 0.08, "given": False}],
            "totals": {"energy_kcal": 214.0, "num_items": 1, "num_items_without_energy": 0},
            "decode_ms": 21.4,
            "infer_ms": 63.0,
        }
    ],
    "versions": {
        "model_id": "segmentation-e7149a04+mtl-1f0c22b7",
        "model_sha256": "9a3f…+07bd…",
        "code_version": "0.1.0+58653ee0a1b2",
        "config_sha256": "c0ffee…",
    },
}
"""An answer of /v1/analyze, shortened."""


def answers(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation can answer with, for its `responses`; internal_error is one of every operation's."""
    found: dict[int | str, list[str]] = {}
    for code in sorted({*codes, "internal_error"}):
        found.setdefault(PROBLEMS[code][0], []).append(code)
    return {status: _refusal(status, found[status]) for status in sorted(found)}


def _refusal(status: int | str, codes: list[str]) -> dict[str, Any]:
    examples = {code: {"summary": PROBLEMS[code][1], "value": _example(code)} for code in codes}
    content = {"schema": {"$ref": SCHEMAS.format(model="Problem")}, "examples": examples}
    return {"description": "; ".join(f"{code}: {PROBLEMS[code][1]}" for code in codes), "content": {"application/problem+json": content}}


def _example(code: str) -> dict[str, Any]:
    status, title = PROBLEMS[code]
    return {"type": "about:blank", "title": title, "status": status, "code": code, "detail": "what was wrong", "request_id": "5f9717bb01714cf2a7cb697559cef326"}


def describe(app: FastAPI) -> None:
    """Add problems and keys to the OpenAPI description, which FastAPI makes when it is first asked for."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        described = made()
        parts = described.setdefault("components", {})
        schemas = parts.setdefault("schemas", {})
        schemas["Problem"] = _PROBLEM
        parts["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "made with `foodray keys add`"},
            "key_as_user": {"type": "http", "scheme": "basic", "description": "the key as user, the password empty"},
        }
        for path, operations in described["paths"].items():
            for operation in operations.values():
                if scheme := "key" if path.startswith("/v1/") else "key_as_user" if path.startswith("/api/v2/") else None:
                    operation["security"] = [{scheme: []}]
                _without_fastapis_own(operation["responses"])
                _hoist(operation.get("requestBody", {}), schemas)
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        return described

    app.openapi = openapi  # type: ignore[method-assign]


def _without_fastapis_own(responses: dict[str, Any]) -> None:
    """FastAPI promises a 422 of its own wherever there is a parameter; ours are in `answers`."""
    if "application/problem+json" not in responses.get("422", {"content": {"application/problem+json": None}})["content"]:
        responses.pop("422")


def _hoist(node: Any, schemas: dict[str, Any]) -> None:
    """Move the parts of schemas that routes wrote themselves to where `SCHEMAS` looks for them."""
    if isinstance(node, dict):
        for name, part in node.pop("$defs", {}).items():
            schemas.setdefault(name, part)
        for value in node.values():
            _hoist(value, schemas)
    elif isinstance(node, list):
        for value in node:
            _hoist(value, schemas)
