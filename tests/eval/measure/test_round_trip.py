"""quantize -> decode -> quantize of the examples, and a chain with a gap."""

import numpy as np

from eval.measure.round_trip import round_trip
from structok import Backbone
from structok.read.molecules import read_molecules


def test_examples_come_back_the_same(tmp_path, chain, example):
    coords = chain.coords.copy()
    coords[30:38] = np.nan
    chains = [Backbone(chain.coords, chain.sequence, "A", chain.residue_ids, name="x.1")]
    chains += [Backbone(chain.coords[:40], chain.sequence[:40], "B", range(-9, 31), name="x.2")]
    found = round_trip(chains, tmp_path / "chains", ("pdb", "cif"), "chain-vq-4096")
    assert found["records"] == 2 and not found["errors"]
    for format in ("pdb", "cif"):
        assert found[format] == {"equal": 2, "differ": {}, "examples": {}, "errors": []}
    gapped = [Backbone(coords, chain.sequence, "A", chain.residue_ids, name="gap")]
    found = round_trip(gapped, tmp_path / "gap", ("pdb", "cif"), "chain-vq-4096")
    for format in ("pdb", "cif"):
        assert set(found[format]["differ"]) <= {"codes"}  # bridges are searched again
    [(_, mol)] = read_molecules(example.parent / "ligand.sdf")
    found = round_trip([mol], tmp_path / "mol", ("sdf",), "molstructok")
    assert found["sdf"]["errors"] == [] and set(found["sdf"]["differ"]) <= {"codes"}
