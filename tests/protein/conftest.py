"""Fixtures for proteins: residues of the component dictionary."""

import pytest
from biotite.sequence import ProteinSequence
from biotite.structure import info

from structok.protein.sidechain_atoms import ATOMS


@pytest.fixture(scope="session")
def ideal():
    """ideal(letter): heavy atoms of the component dictionary, without OXT, in our order: an independent source."""

    def residue(letter):
        found = info.residue(ProteinSequence.convert_letter_1to3(letter))
        names = found.atom_name.tolist()
        return found[[names.index(name) for name in ATOMS[letter]]]

    return residue
