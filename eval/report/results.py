"""What the results files hold, as rows for tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval import RESULTS

__all__ = ["ROOT", "load", "load_config", "of_modality", "ranked", "rows_of", "sets_of", "shipped"]

ROOT = RESULTS.parents[1]
Results = dict[str, Any]


def load(name: str, folder: Path = RESULTS) -> Results:
    """One results file, empty when it was never made."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def load_config(name: str) -> Results:
    """Settings of a checkpoint in the clone."""
    return json.loads((ROOT / "checkpoints" / name / "config.json").read_text())


def of_modality(models: Mapping[str, Results], modality: str) -> Results:
    """Those models, most codes first."""
    found = {n: m for n, m in models.items() if m["modality"] == modality}
    return dict(sorted(found.items(), key=lambda item: (-item[1]["codes"], item[0])))


def ranked(modality: str) -> Results:
    """The shipped models of a modality that were measured in full mode, most codes first."""
    found = of_modality(load("benchmark").get("models", {}), modality)
    return {name: model for name, model in found.items() if shipped(name)}


def shipped(name: str) -> bool:
    """Whether a checkpoint of that name lies in the clone; README shows no others."""
    return (ROOT / "checkpoints" / name).is_dir()


def rows_of(models: Results, chosen: str | None = None) -> list[Results]:
    """Every assignment of every model, the defaults marked; joined with the figures of a set that has them."""
    rows = [
        {"tokenizer": name, "assignment": label, "mark": "best" * (label == model["default"]), "model": model, **found}
        for name, model in models.items()
        for label, found in model["assignments"].items()
    ]
    return rows if chosen is None else [row | row["sets"][chosen] for row in rows if chosen in row["sets"]]


def sets_of(models: Results) -> list[str]:
    """Names of all sets that were measured."""
    return list(dict.fromkeys(name for row in rows_of(models) for name in row["sets"]))
