"""The data card: what a data set holds, where it came from, what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from structok.data.columns import columns
from structok.data.options import KINDS, BuildOptions

__all__ = ["card_text", "made_by", "summary"]

Json = dict[str, Any]


def made_by() -> str:
    """Version of the installed package."""
    try:
        return version("structok")
    except PackageNotFoundError:  # run from a checkout
        return "(not installed)"


def summary(
    inputs: list[str],
    options: BuildOptions,
    counts: Mapping[str, int],
    dropped: Mapping[str, int],
    splits: Json,
    how: str,
) -> Json:
    """The card's content as JSON; it has no date and no timing, so that equal builds have equal cards."""
    return {
        "structok": made_by(),
        "inputs": inputs,
        "options": asdict(options),
        "counts": dict(counts),
        "dropped": dict(sorted(dropped.items())),
        "clusters": how,
        "splits": splits,
        "columns": {k: v[1] for k, v in columns(options).items()},
    }


def card_text(card: Json) -> str:
    """The card as Markdown."""
    kind = KINDS[card["options"]["modality"]]
    what, unit = kind.noun, kind.unit
    title = "Proteins with side chains" if card["options"]["atoms"] == "all" and unit == "residues" else kind.title
    counts, dropped = card["counts"], card["dropped"]
    splits = "\n".join(
        f"| {s} | {v['rows']:,} | {v['clusters']:,} | {v[unit]:,} | {v['shards']} |" for s, v in card["splits"].items()
    )
    reasons = "\n".join(f"| {reason} | {n:,} |" for reason, n in dropped.items()) or "| nothing | 0 |"
    options = card["options"]
    shown = ", ".join(f"`{k}` {v}" for k, v in options.items() if v is not None)
    table = "\n".join(f"| `{k}` | {v} |" for k, v in card["columns"].items())
    numbers = "float32 in Å, missing residues are NaN"
    if options["coords"] == "int16":
        numbers = "int16 in 0.01 Å about `centre`, missing residues are -32768"
    aside = f" {counts['aside']:,} structures of the other kind were left aside." if counts["aside"] else ""
    return f"""# {title}

{counts["kept"]:,} {what} in parquet shards, made by `structok data build` of structok {card["structok"]}.

Inputs: {", ".join(f"`{i}`" for i in card["inputs"])}

| split | {what} | clusters | {unit} | shards |
| --- | --- | --- | --- | --- |
{splits}

Clusters: {card["clusters"]}. Whole clusters go to train or validation, by a hash of the cluster and the seed.

## Kept and dropped

{counts["read"]:,} structures were read; {counts["failed"]:,} of them failed (`failures.jsonl` says which and why), the
others held {counts["found"]:,} {what}, of which {counts["kept"]:,} were kept.{aside}

| dropped because | {what} |
| --- | --- |
{reasons}

Options: {shown}.

## Columns

Coordinates are {numbers}.

| column | meaning |
| --- | --- |
{table}

```python
from structok.data.dataset import ShardDataset

for batch in ShardDataset("this_folder", split="train"):
    ...
```
"""
