"""Heavy atoms of nucleotides: which there are, in which order, which of them make the frame."""

from __future__ import annotations

__all__ = ["ATOMS", "BACKBONE", "BASES", "FRAME", "IN_FRAME", "LETTERS", "PHOSPHATE", "SLOTS", "names_of"]

# slots of a nucleotide: the backbone, then the base from the glycosidic N on; O2' is empty in DNA
BACKBONE = ("P", "OP1", "OP2", "O5'", "C5'", "C4'", "O4'", "C3'", "O3'", "C2'", "O2'", "C1'")
PHOSPHATE = (0, 1, 2)
SLOTS = 23

BASES: dict[str, tuple[str, ...]] = {
    "A": ("N9", "C8", "N7", "C5", "C6", "N6", "N1", "C2", "N3", "C4"),
    "C": ("N1", "C2", "O2", "N3", "C4", "N4", "C5", "C6"),
    "G": ("N9", "C8", "N7", "C5", "C6", "O6", "N1", "C2", "N2", "N3", "C4"),
    "U": ("N1", "C2", "O2", "N3", "C4", "O4", "C5", "C6"),
    "T": ("N1", "C2", "O2", "N3", "C4", "O4", "C5", "C7", "C6"),
}

# one letter for each nucleotide: capitals are RNA, small letters DNA
LETTERS = "ACGUTacgut"

# the rigid frame of a nucleotide, in the part that N, CA and C play in a protein
FRAME = ("C4'", "C3'", "C1'")
IN_FRAME = tuple(BACKBONE.index(name) for name in FRAME)


def names_of(letter: str) -> tuple[str, ...]:
    """Names by slot, '' where a slot is not used; of an unknown base ('X', 'x') the backbone only."""
    backbone = tuple("" if letter.islower() and name == "O2'" else name for name in BACKBONE)
    base = BASES.get(letter.upper(), ())
    return backbone + base + ("",) * (SLOTS - len(backbone) - len(base))


ATOMS = {letter: tuple(filter(None, names_of(letter))) for letter in LETTERS}
