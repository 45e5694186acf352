"""Complexes: entities in one frame, there and back."""

import json

import numpy as np
import pytest
import torch
from e3nn.o3 import rand_matrix
from rdkit import Chem

import structok
from structok.complex import Complex, read_complex
from structok.errors import InputError, TokensError
from structok.frame import decode_complex, encode_complex, far_atoms
from structok.geometry import apply, kabsch
from structok.read import structure
from structok.read.ligands import ligand_molecule
from structok.structure import Backbone, Ligand


@pytest.fixture(scope="module")
def ligand(request):
    folder = request.config.rootpath / "structok" / "examples"
    return next(iter(Chem.SDMolSupplier(str(folder / "ligand.sdf"), removeHs=False)))


def moved(mol, turn, shift):
    mol = Chem.Mol(mol)
    mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() @ turn.T + shift)
    return mol


@pytest.fixture(scope="module")
def together(request, ligand):
    """Two copies of the example chain, turned against each other, and a molecule between them."""
    [chain] = structok.read_structure(request.config.rootpath / "structok" / "examples" / "1a8o.cif.gz")
    turn = rand_matrix(dtype=torch.float64).numpy()
    centre = np.nanmean(chain.coords[:, 1], axis=0)
    other = Backbone((chain.coords - centre) @ turn.T + centre + [28, 5, 0], chain.sequence, "B", name=chain.name)
    docked = moved(ligand, turn, centre + np.array([14, 2, 9]) - ligand.GetConformer().GetPositions().mean(0) @ turn.T)
    return Complex([chain, other], [docked], "two")


def off(back, complex, order):
    """RMSD of chains and of the molecule after superposing the first chain only, Å."""
    first, truth = (np.asarray(x.polymers[0].coords, dtype=float).reshape(-1, 3) for x in (back, complex))
    seen = np.isfinite(first).all(1) & np.isfinite(truth).all(1)
    move = kabsch(torch.from_numpy(first[seen]), torch.from_numpy(truth[seen]))
    pairs = [(p.coords.reshape(-1, 3), q.coords.reshape(-1, 3)) for p, q in zip(back.polymers, complex.polymers)]
    pairs += [
        (m.GetConformer().GetPositions(), n.GetConformer().GetPositions()[order])
        for m, n in zip(back.ligands, complex.ligands)
    ]
    errors = []
    for x, y in pairs:
        there = apply(move, torch.from_numpy(np.asarray(x, dtype=float))).numpy()
        errors.append(np.sqrt(np.nanmean(((there - y) ** 2).sum(1))))
    return errors


def test_everything_comes_back_where_it_was(together):
    tokens = encode_complex(together)
    assert {t.frame for t in tokens} == {"two"} and len({t.radius for t in tokens}) == 1
    back = decode_complex(tokens)
    assert [p.chain_id for p in back.polymers] == ["A", "B"]
    assert max(off(back, together, tokens[2].atom_order)) < 0.6
    assert not any(p.repairs for p in back.polymers)


def test_tokens_do_not_depend_on_the_pose(together):
    turn = rand_matrix(dtype=torch.float64).numpy()
    polymers = [Backbone(p.coords @ turn.T + 9, p.sequence, p.chain_id, name=p.name) for p in together.polymers]
    again = encode_complex(Complex(polymers, [moved(together.ligands[0], turn, 9.0)], "two"))
    first = encode_complex(together)
    for a, b in zip(first, again):
        assert (a.codes == b.codes).mean() > 0.95 and a.radius == b.radius
    assert (first[2].anchors == again[2].anchors).mean() > 0.9


def test_an_entity_that_is_missing_leaves_the_others_in_place(together):
    tokens = encode_complex(together)
    alone = decode_complex([tokens[0], tokens[2]])
    whole = decode_complex(tokens)
    np.testing.assert_array_equal(alone.polymers[0].coords, whole.polymers[0].coords)
    np.testing.assert_array_equal(
        alone.ligands[0].GetConformer().GetPositions(), whole.ligands[0].GetConformer().GetPositions()
    )


def test_a_record_goes_through_json_and_text(together):
    tokens = encode_complex(together)
    records = [structok.Tokens.from_dict(json.loads(json.dumps(t.to_dict()))) for t in tokens]
    assert records == tokens
    for t in tokens:
        read = structok.Tokens.from_text(t.to_text(anchors="inline"), spacing=t.spacing)
        assert (read.anchors == t.anchors).all() and read.radius == t.radius


def test_written_files_hold_everything(together, tmp_path):
    back = decode_complex(encode_complex(together))
    for name in ("x.cif", "x.pdb", "x.bcif"):
        back.write(tmp_path / name)
        found = structure(tmp_path / name)
        assert [p.chain_id for p in found.proteins] == ["A", "B"] and len(found.ligands) == 1
    with pytest.raises(InputError, match="unknown suffix"):
        back.write(tmp_path / "x.txt")


def test_command_line_puts_a_complex_back(run, tmp_path, example, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sdf = example.parent / "ligand.sdf"
    done = run("quantize", "--complex", example, sdf, "-o", "t.jsonl")
    assert done.status == 0
    records = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert {r["frame"] for r in records} == {"1a8o"} and [r["modality"] for r in records] == ["protein", "molecule"]
    assert run("decode", "t.jsonl", "-o", "back.cif").status == 0
    assert len(structure(tmp_path / "back.cif").ligands) == 1
    assert run("decode", "t.jsonl", "-o", "out/").status == 0
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".pdb", ".sdf"]
    assert run("quantize", "--complex", example, "nothing.sdf").status == 1
    assert run("quantize", "--complex", example, "-o", "folder/").status == 2
    text = run("quantize", example, "-f", "text", "--anchors", "inline").out
    assert text.startswith("<|prot_3d_start|><R ") and "<X " in text


def test_bad_complexes(together):
    tokens = encode_complex(together)
    renamed = structok.Tokens.from_dict(tokens[1].to_dict() | {"frame": "other"})
    with pytest.raises(TokensError, match="share a frame"):
        decode_complex([tokens[0], renamed])
    smaller = structok.Tokens.from_dict(tokens[1].to_dict() | {"radius": tokens[1].radius - 1})
    with pytest.raises(TokensError, match="of different files"):
        decode_complex([tokens[0], smaller])
    bare = {k: v for k, v in tokens[1].to_dict().items() if k not in ("anchors", "spacing", "radius")}
    with pytest.raises(TokensError, match="has no anchors"):
        decode_complex([tokens[0], structok.Tokens.from_dict(bare)])
    wide = structok.Tokens.from_dict(tokens[2].to_dict() | {"radius": 99})
    with pytest.raises(TokensError, match="out of range"):
        decode_complex([wide])
    far = Backbone(together.polymers[1].coords + 8000, chain_id="B")
    with pytest.raises(InputError, match="tokenize its parts"):
        encode_complex(Complex([together.polymers[0], far], name="far"))
    broken = Chem.MolFromSmiles("CC")
    skipped = []
    kept = encode_complex(Complex([together.polymers[0]], [broken], "some"), skipped=skipped.append)
    assert len(kept) == 1 and "conformer" in str(skipped[0])
    with pytest.raises(InputError):
        encode_complex(Complex([together.polymers[0]], [broken], "some"))
    with pytest.raises(InputError, match="no such file"):
        read_complex("nothing.cif")


def component(name):
    from biotite.structure.info import residue

    atoms = residue(name)
    return atoms[atoms.element != "H"]


def test_ligands_of_files_get_bonds_and_hydrogens():
    atoms = component("BEN")  # benzamidine
    mol = ligand_molecule(Ligand("BEN", "A", "1", atoms))
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "N=C(N)c1ccccc1"
    np.testing.assert_allclose(mol.GetConformer().GetPositions()[: len(atoms)], atoms.coord, atol=1e-3)
    assert mol.GetNumAtoms() == 17


def test_ligands_that_would_be_guesses_are_refused():
    atoms = component("BEN")
    with pytest.raises(InputError, match="not in the component dictionary"):
        ligand_molecule(Ligand("X?X", "A", "1", atoms))
    with pytest.raises(InputError, match="lacks"):
        ligand_molecule(Ligand("BEN", "A", "1", atoms[1:]))
    with pytest.raises(InputError, match=r"covalently \(an atom 1.5"):
        out = atoms.coord - atoms.coord.mean(0)
        out = out[np.linalg.norm(out, axis=1).argmax()]
        beside = out * (1 + 1.5 / np.linalg.norm(out)) + atoms.coord.mean(0)
        ligand_molecule(Ligand("BEN", "A", "1", atoms), [beside[None]])


def test_anchored_atoms_are_far_apart_and_the_same_for_any_conformer(ligand):
    tok = structok.load("molstructok")
    tokens = tok.encode(ligand)
    chosen = far_atoms(tokens)
    assert len(chosen) == 8 and len(set(chosen.tolist())) == 8
    mol = tok.decode(tokens)
    assert all(mol.GetAtomWithIdx(int(i)).GetAtomicNum() > 1 for i in chosen)
    spread = mol.GetConformer().GetPositions()[chosen]
    assert np.linalg.svd(spread - spread.mean(0))[1][1] > 1  # not on a line
