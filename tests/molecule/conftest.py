"""Molecules, models and reference data for the tests of the molecule room."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from structok.molecule.convert import convert
from structok.molecule.model import MolStrucTokConfig, MolStrucTokModel
from structok.molecule.tokenizer import MolStrucTok
from structok.molecule.topo import TopoDecoder

Chem = pytest.importorskip("rdkit.Chem")
AllChem = pytest.importorskip("rdkit.Chem.AllChem")

SHARED = Path(os.environ.get("STRUCTOK_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def embed(smiles: str, name: str = "") -> Chem.Mol:
    """Molecule with explicit hydrogens and an ETKDG conformer."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7, useRandomCoords=True) == 0
    mol.SetProp("_Name", name or smiles[:30])
    return mol


DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "C[C@H](N)C(=O)O",
    "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",
    "N#CC#CC",
    "C[N+](C)(C)CC(=O)[O-]",
    "C1CC2CCC1CC2",
    "CS(=O)(=O)c1ccc(F)cc1Br",
)


@pytest.fixture(scope="session")
def drugs() -> list[Chem.Mol]:
    return [embed(s) for s in DRUGS]


@pytest.fixture(scope="session")
def expected() -> list[dict]:
    """Molecules with what the published implementation makes of them."""
    path = SHARED / "reference" / "molstructok" / "expected.json"
    if not path.exists():
        pytest.skip("reference values are not here")
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> MolStrucTok:
    """The released weights, converted."""
    path = SHARED / "reference" / "molstructok" / "weights.safetensors"
    if not path.exists():
        pytest.skip("released weights are not here")
    return convert(path, tmp_path_factory.mktemp("official") / "molstructok-official")


def random_plain(decoder: str = "branch") -> MolStrucTok:
    """Plain tokenizer of random weights, with batch-norm statistics of its own codes."""
    torch.manual_seed(0)
    config = MolStrucTokConfig(decoder=decoder, codebook_size=64, dim=16)
    model = MolStrucTokModel(config).train()
    for _ in range(20):
        model.decoder(model.codebook)
    return MolStrucTok(model, config, f"random-{decoder}")


def random_topo() -> MolStrucTok:
    """Topology-conditioned tokenizer of random weights, its codes spread around each atom."""
    torch.manual_seed(0)
    config = MolStrucTokConfig(
        decoder="topo", codebook_size=64, width=16, hidden=16, n_fixed=8, closed_loop=True, beam=2, bond_weight=1.0
    )
    model = TopoDecoder(64, 8, 16, 16, config.rounds)
    with torch.no_grad():
        model.table_out.bias.copy_(torch.randn(56 * 3))
        model.fixed.copy_(1.5 * torch.nn.functional.normalize(torch.randn(8, 3), dim=1))
    return MolStrucTok(model, config, "random-topo")


@pytest.fixture(scope="session", params=["branch", "shared", "topo"])
def tokenizer(request: pytest.FixtureRequest) -> MolStrucTok:
    """A small tokenizer of each kind."""
    return random_topo() if request.param == "topo" else random_plain(request.param)
