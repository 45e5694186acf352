"""The example's chain as PDB lines, to be spoiled in the ways of real programs, and what reading says about it."""

from typing import NamedTuple

import numpy as np
import pytest

from structok.read import structure
from structok.read.inputs import read_inputs


class Atom(NamedTuple):
    """One atom line of a PDB file."""

    name: str
    residue: str
    number: int | str
    xyz: tuple[float, float, float]
    chain: str = "A"
    alt: str = ""
    insertion: str = ""
    occupancy: float = 1.0
    het: bool = False
    element: str = "C"

    def __str__(self) -> str:
        name = self.name if len(self.name) == 4 or len(self.element) == 2 else f" {self.name}"
        x, y, z = self.xyz
        record = "HETATM" if self.het else "ATOM"
        residue = f"{self.residue:>3} " if len(self.residue) < 4 else self.residue
        head = f"{record:<6}    1 {name:<4}{self.alt:1}{residue}"
        head = head[: 22 - len(self.chain)] + self.chain if self.chain else head + " "
        return (
            f"{head:<22}{self.number:>4}{self.insertion:1}   {x:8.3f}{y:8.3f}{z:8.3f}{self.occupancy:6.2f}"
            f"{20:6.2f}          {self.element:>2}"
        )


@pytest.fixture(scope="session")
def atoms(example) -> list[Atom]:
    """All 556 atoms of the example's 70 residues, 151 to 220 of chain A; MSE as HETATM."""
    array = structure(example).proteins[0].atoms
    return [
        Atom(name, res, int(number), tuple(map(float, xyz)), het=bool(het), element=element)
        for name, res, number, xyz, het, element in zip(
            array.atom_name, array.res_name, array.res_id, array.coord, array.hetero, array.element
        )
    ]


def pdb(atoms, *more) -> str:
    """Text of a PDB file; `more` are strings or lists of atoms that follow."""
    parts = [atoms, *more, "END"]
    return "\n".join("\n".join(map(str, p)) if isinstance(p, list) else p for p in parts) + "\n"


def moved(atoms, by=(50.0, 0.0, 0.0), **fields):
    """The atoms elsewhere; `fields` are changed, a function is called with each atom."""
    return [
        a._replace(xyz=tuple(np.add(a.xyz, by)), **{k: v(a) if callable(v) else v for k, v in fields.items()})
        for a in atoms
    ]


def said(found, *words):
    """Whether one of the notes has all these words."""
    return any(all(w in note for w in words) for note in found.notes)


def same(back, chain, *, sequence=True):
    assert len(back) == len(chain) and back.mask.all()
    assert np.allclose(back.coords, chain.coords, atol=2e-3)
    assert not sequence or back.sequence == chain.sequence


def cif(atoms, columns, first=(), last="#\n", **values):
    """mmCIF text with these columns of atom_site; `values` are functions of an atom and its row number."""
    known = {
        "group_PDB": lambda a, i: "HETATM" if a.het else "ATOM", "id": lambda a, i: str(i),
        "type_symbol": lambda a, i: a.element, "label_atom_id": lambda a, i: a.name,
        "label_alt_id": lambda a, i: a.alt or ".", "label_comp_id": lambda a, i: a.residue,
        "label_asym_id": lambda a, i: a.chain, "label_entity_id": lambda a, i: "1",
        "label_seq_id": lambda a, i: str(a.number), "pdbx_PDB_ins_code": lambda a, i: a.insertion or "?",
        "Cartn_x": lambda a, i: f"{a.xyz[0]:.3f}", "Cartn_y": lambda a, i: f"{a.xyz[1]:.3f}",
        "Cartn_z": lambda a, i: f"{a.xyz[2]:.3f}", "occupancy": lambda a, i: f"{a.occupancy:.2f}",
        "auth_asym_id": lambda a, i: a.chain, "auth_seq_id": lambda a, i: str(a.number),
        "pdbx_PDB_model_num": lambda a, i: "1",
    } | values  # fmt: skip
    rows = [" ".join(known[c](a, i) for c in columns) for i, a in enumerate(atoms, 1)]
    return "\n".join([*(first or ["data_x"]), "loop_", *(f"_atom_site.{c}" for c in columns), *rows]) + "\n" + last


FULL = (
    "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
    "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy auth_asym_id auth_seq_id pdbx_PDB_model_num"
)


class Found(NamedTuple):
    """What came of a file: chains or molecules, notes, errors."""

    items: list
    notes: list[str]
    errors: list[str]


class _Log:
    def __init__(self):
        self.notes, self.errors = [], []

    def error(self, error, source=""):
        self.errors.append(str(error))

    def note(self, note, source):
        if not note.routine:
            self.notes.append(str(note))


@pytest.fixture
def read(tmp_path):
    """read(content, name="x.pdb"): what `structok quantize` sees of such a file, with backbones or all atoms."""

    def call(content, name="x.pdb", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        log = _Log()
        items = [x for _, _, x in read_inputs([str(path)], log, **({"chain": None, "add_hs": False} | options))]
        return Found(items, log.notes, log.errors)

    return call
