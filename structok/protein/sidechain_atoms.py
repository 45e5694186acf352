"""Heavy atoms of the twenty residue types: their order, their bonds, their chi angles, which names are alike."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["ALIKE", "ATOMS", "BONDS", "CHIS", "LETTERS"]

BACKBONE = ("N", "CA", "C", "O")

# atom14 order, as AlphaFold has it; the side chain is what follows the backbone
_SIDE_CHAINS = {
    "A": "CB",
    "R": "CB CG CD NE CZ NH1 NH2",
    "N": "CB CG OD1 ND2",
    "D": "CB CG OD1 OD2",
    "C": "CB SG",
    "Q": "CB CG CD OE1 NE2",
    "E": "CB CG CD OE1 OE2",
    "G": "",
    "H": "CB CG ND1 CD2 CE1 NE2",
    "I": "CB CG1 CG2 CD1",
    "L": "CB CG CD1 CD2",
    "K": "CB CG CD CE NZ",
    "M": "CB CG SD CE",
    "F": "CB CG CD1 CD2 CE1 CE2 CZ",
    "P": "CB CG CD",
    "S": "CB OG",
    "T": "CB OG1 CG2",
    "W": "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
    "Y": "CB CG CD1 CD2 CE1 CE2 CZ OH",
    "V": "CB CG1 CG2",
}

LETTERS = "".join(_SIDE_CHAINS)

ATOMS: dict[str, tuple[str, ...]] = {letter: (*BACKBONE, *names.split()) for letter, names in _SIDE_CHAINS.items()}

# longest path of rotatable bonds: each four neighbours define a chi angle (IUPAC-IUB 1970)
_PATHS = {
    "R": "N CA CB CG CD NE CZ",
    "N": "N CA CB CG OD1",
    "D": "N CA CB CG OD1",
    "C": "N CA CB SG",
    "Q": "N CA CB CG CD OE1",
    "E": "N CA CB CG CD OE1",
    "H": "N CA CB CG ND1",
    "I": "N CA CB CG1 CD1",
    "L": "N CA CB CG CD1",
    "K": "N CA CB CG CD CE NZ",
    "M": "N CA CB CG SD CE",
    "F": "N CA CB CG CD1",
    "P": "N CA CB CG CD",
    "S": "N CA CB OG",
    "T": "N CA CB OG1",
    "W": "N CA CB CG CD1",
    "Y": "N CA CB CG CD1",
    "V": "N CA CB CG1",
}

CHIS: dict[str, tuple[tuple[str, ...], ...]] = {
    letter: tuple(tuple(path.split()[i : i + 4]) for i in range(len(path.split()) - 3))
    for letter, path in _PATHS.items()
}

_BRANCHES = {
    "A": "CA-CB",
    "R": "CZ-NH1 CZ-NH2",
    "N": "CG-ND2",
    "D": "CG-OD2",
    "Q": "CD-NE2",
    "E": "CD-OE2",
    "H": "CG-CD2 ND1-CE1 CE1-NE2 NE2-CD2",
    "I": "CB-CG2",
    "L": "CG-CD2",
    "F": "CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ",
    "P": "CD-N",
    "T": "CB-CG2",
    "W": "CG-CD2 CD1-NE1 NE1-CE2 CE2-CD2 CD2-CE3 CE3-CZ3 CZ3-CH2 CH2-CZ2 CZ2-CE2",
    "Y": "CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ CZ-OH",
    "V": "CB-CG2",
}


def _bonds(letter: str) -> tuple[tuple[str, str], ...]:
    path = list(pairwise(_PATHS.get(letter, "").split()))[1:]  # N-CA is in every residue
    branches = [tuple(bond.split("-")) for bond in _BRANCHES.get(letter, "").split()]
    return (("N", "CA"), ("CA", "C"), ("C", "O"), *path, *branches)  # type: ignore[arg-type]


BONDS: dict[str, tuple[tuple[str, str], ...]] = {letter: _bonds(letter) for letter in LETTERS}

# names that may be exchanged without changing the molecule; VAL and LEU are not among them, since their two methyl
# groups differ by handedness
ALIKE: dict[str, tuple[tuple[str, str], ...]] = {
    "D": (("OD1", "OD2"),),
    "E": (("OE1", "OE2"),),
    "F": (("CD1", "CD2"), ("CE1", "CE2")),
    "R": (("NH1", "NH2"),),
    "Y": (("CD1", "CD2"), ("CE1", "CE2")),
}
