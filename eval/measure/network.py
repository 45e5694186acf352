"""What a GCP-VQVAE network is worth: chains from its codes, whole and damaged, with anchors and without, and refined.

    python -m eval.measure.network gcp-vqvae
    python -m eval.measure.network runs/plain runs/no-jitter --chains 60      further runs, as rows of the same table

Validation chains (split 1; settings were chosen on it) of all lengths that a model takes, of a cluster one complete
chain and one with gaps at most; CASP14 apart. Damage replaces each code and each anchor with the same probability.
`refine` tries codes near the latent.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Float

import structok
from eval import RESULTS
from eval.clock import cpu_seconds
from eval.measure.anchors import compare
from eval.measure.damage import damage
from eval.measure.sets import protein_sets
from eval.measure.stats import by_bins
from structok.metrics import codebook_spread, codebook_use
from structok.structure import Backbone
from structok.tokens import Tokens

__all__ = ["bonds", "measure_network"]

RATES = (0.01, 0.03, 0.05, 0.1)
NOISE = (0.05, 0.1, 0.2)
CUT = 20  # residues
LENGTHS = (0, 64, 128, 256, 512, 4096)


def bonds(chains: list[Backbone], rebuilt: list[Backbone]) -> float:
    """Share of CA-CA distances within 0.2 Å of 3.8, where the original's are."""
    share = []
    for a, b in zip(chains, rebuilt):
        near = np.abs(_steps(a) - 3.8) < 0.2
        share.append(np.abs(_steps(b) - 3.8)[near] < 0.2)
    return float(np.concatenate(share).mean())


def _steps(chain: Backbone) -> Float[np.ndarray, " l"]:
    with np.errstate(invalid="ignore"):
        return np.linalg.norm(np.diff(chain.coords[:, 1], axis=0), axis=-1)


def _kept(tok: Any, chains: list[Backbone], tokens: list[Tokens], random: np.random.Generator) -> dict[str, float]:
    """Share of codes that noise, and the loss of the first residues, leave as they are."""
    found = {}
    for noise in NOISE:
        moved = [
            Backbone((c.coords + noise * random.standard_normal(c.coords.shape)).astype(np.float32), c.sequence)
            for c in chains
        ]
        same = [(a.codes == b.codes)[a.codes >= 0] for a, b in zip(tokens, tok.encode_batch(moved))]
        found[f"noise {noise:g}"] = float(np.concatenate(same).mean())
    long = [i for i, c in enumerate(chains) if len(c) >= 2 * CUT]
    short = tok.encode_batch([Backbone(chains[i].coords[CUT:], chains[i].sequence[CUT:]) for i in long])
    same = [(tokens[i].codes[CUT:] == s.codes)[s.codes >= 0] for i, s in zip(long, short)]
    return found | {f"first {CUT} cut off": float(np.concatenate(same).mean())}


def measure_network(tok: Any, chains: list[Backbone], refine: int, some: int, seed: int = 0) -> dict[str, Any]:
    """Everything about one tokenizer on chains; `refine` sweeps on the first `some` of them, 0 = none."""
    random = np.random.default_rng(seed)
    chains = [c for c in chains if len(c) <= tok.max_length]
    tokens = tok.encode_batch(chains)
    anchored = tokens[0].anchors is not None
    back = tok.decode_batch(tokens)
    residues = sum(map(len, chains))
    rmsd = [float(structok.metrics.rmsd(a, b)) for a, b in zip(back, chains)]
    codes = np.concatenate([t.codes[t.codes >= 0] for t in tokens])
    report: dict[str, Any] = {
        "chains": len(chains),
        "residues": residues,
        "parameters": sum(p.numel() for p in tok.model.parameters()),
        "codes": {
            **compare(chains, back),
            "rmsd by length": by_bins([len(c) for c in chains], rmsd, LENGTHS),
            "CA-CA": bonds(chains, back),
        },
        "use": codebook_use(codes, tok.codebook_size),
        "vectors": codebook_spread(tok.model.quantizer.codebook.float()),
        "kept": _kept(tok, chains, tokens, random),
        "residues per cpu second": {
            "encode": residues / cpu_seconds(lambda: tok.encode_batch(chains), repeats=1),
            "decode": residues / cpu_seconds(lambda: tok.decode_batch(tokens), repeats=1),
        },
    }
    if anchored:
        alone = tok.decode_batch([t.without_anchors() for t in tokens])
        report["more tokens"] = sum(len(t.anchors) + 1 for t in tokens) / residues
        report["without anchors"] = {**compare(chains, alone), "CA-CA": bonds(chains, alone)}
    sizes = {s.name: s.size for s in tok.streams}
    for rate in RATES:
        hurt = [damage(t, rate, sizes["codes"], sizes.get("anchors", 1), random) for t in tokens]
        report[f"{rate:g} wrong"] = compare(chains, tok.decode_batch(hurt))
        if anchored:
            lost = [replace(h, anchors=t.anchors) for h, t in zip(hurt, tokens)]
            report[f"{rate:g} wrong"]["codes only"] = compare(chains, tok.decode_batch(lost))
    if refine:
        few = chains[:some]
        better = tok.encode_batch(few, refine=refine)
        report["refined"] = {
            "sweeps": refine,
            "before": compare(few, back[:some]),
            "after": compare(few, tok.decode_batch(better)),
            "changed": float(np.mean(np.concatenate([a.codes != b.codes for a, b in zip(better, tokens)]))),
        }
    return report


def main(
    models: Annotated[list[str], typer.Argument(help="names or folders of GCP-VQVAE tokenizers")],
    chains: Annotated[int, typer.Option(help="complete validation chains, and half as many with gaps")] = 250,
    refine: Annotated[int, typer.Option(help="sweeps of the search for better codes")] = 2,
    refined: Annotated[int, typer.Option(help="chains that are refined")] = 20,
    out: Annotated[Path, typer.Option(help="results; other models stay")] = RESULTS / "network.json",
) -> None:
    """Measure, print, merge into the results."""
    results = json.loads(out.read_bytes()) if out.exists() else {}
    sets = {s.name: s.structures for s in protein_sets(None, chains, 0)}
    groups: dict[str, list[Backbone]] = {"validation": [], "CASP14": sets.pop("CASP14", [])}
    for found in sets.values():
        groups["validation"] += found
    for model in models:
        tok = structok.load(model)
        name = Path(model).name
        results[name] = {
            kind: measure_network(tok, some, refine if kind == "validation" else 0, refined)
            for kind, some in groups.items()
            if some
        }
        whole = results[name]["validation"]
        print(name, whole["codes"]["rmsd"], whole["kept"], file=sys.stderr)
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
