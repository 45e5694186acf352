"""Names of residues: THE table of those that programs write, and what kind of component a name stands for.

Sources: the wwPDB Chemical Component Dictionary as biotite ships it; beside it the names of protonation states and
chain ends in AMBER (ff14SB, ff19SB and constant-pH libraries), CHARMM (top_all22 and top_all36), GROMOS and OPLS-AA
as GROMACS ships them (residuetypes.dat), and Rosetta's variants.
"""

from __future__ import annotations

from functools import cache

__all__ = [
    "LETTERS",
    "PEPTIDE_NUCLEIC",
    "component_kind",
    "is_four_letters",
    "letter",
    "nucleotide_atom",
    "parent",
    "three_letters",
]

LETTERS = {
    "ALA": "A", "CYS": "C", "ASP": "D", "GLU": "E", "PHE": "F", "GLY": "G", "HIS": "H", "ILE": "I",
    "LYS": "K", "LEU": "L", "MET": "M", "ASN": "N", "PRO": "P", "GLN": "Q", "ARG": "R", "SER": "S",
    "THR": "T", "VAL": "V", "TRP": "W", "TYR": "Y", "SEC": "U", "PYL": "O", "ASX": "B", "GLX": "Z",
    "MSE": "M", "UNK": "X",
}  # fmt: skip

_THREE = {one: name for name, one in LETTERS.items() if name not in ("MSE", "UNK")}

_STATES = {
    "HIS": "HSD HSE HSP HSC HID HIE HIP HIDH HIEH HISA HISB HISD HISE HISH HISP HIS1 HIS2 HISX HIN HISN",
    "CYS": "CYX CYM CYN CYS1 CYS2 CYSH CYSX CYD CYZ CYSS CYF CYV",
    "ASP": "ASH ASPH ASPP AS4 AS2 ASPD",
    "GLU": "GLH GLUH GLUP GL4 GL2 GLUD",
    "LYS": "LYN LYP LYSH LSN LYSN LYSP LYD",
    "ARG": "ARN ARGN ARGP RN1 RN2 RN3",
    "TYR": "TYM TYRM TYRO TYD TYRD",
    "SER": "SERD SEM",
    "THR": "THRD",
    "ILE": "ILEU",
    "MET": "METH",
    "GLN": "GLNH",
    "ASN": "ASNH ASN1",
    "PRO": "PROH",
}  # fmt: skip
_NUCLEIC = {
    "A": "ADE RA A5 A3 RA5 RA3 RAN", "C": "CYT RC C5 C3 RC5 RC3 RCN", "G": "GUA RG G5 G3 RG5 RG3 RGN",
    "U": "URA URI RU U5 U3 RU5 RU3 RUN", "DA": "DA5 DA3 DAN", "DC": "DC5 DC3 DCN", "DG": "DG5 DG3 DGN",
    "DT": "THY DT5 DT3 DTN T T5 T3", "DU": "DU5 DU3", "I": "", "DI": "",
}  # fmt: skip
_WATER_NAMES = """
HOH DOD WAT H2O HHO TIP TIP2 TIP3 TIP4 TIP5 TP3 T3P T4P TP4 TP5 T5P SOL SPC SPCE SPC4 OPC OPC3 OH2 SWM4 SWM6
"""
_ION_NAMES = """
LI NA K RB CS MG CA SR BA MN FE FE2 CO 3CO NI 3NI CU CU1 ZN CD HG AG AU AL PB TL CR YB GD SM EU TB LU LA CE PR HO ER
F CL BR IOD IUM PT PD RH RU IR OS V W MO ZR GA IN SOD CLA POT CES LIT RUB CAL MG2 ZN2 CAD BAR NIO CIO KIO CA2 MN2
NA+ CL- K+ Na+ Cl- K+ Cs+ Li+ Rb+ Mg+ IB IM IP
"""
_WATER, _IONS = frozenset(_WATER_NAMES.split()), frozenset(_ION_NAMES.split())
PEPTIDE_NUCLEIC = frozenset(("APN", "CPN", "GPN", "TPN"))  # bases on a peptide: no sugar, no phosphate
_ATOMS = {"O1P": "OP1", "O2P": "OP2", "C5M": "C7"}  # of nucleotides, before version 3 of the PDB format and in CHARMM
_CAPS = frozenset(("ACE", "NME", "NMA", "NHE", "NH2", "FOR", "CT3", "CT2"))


def _variants() -> dict[str, str]:
    table = {name: parent for parent, names in _STATES.items() for name in names.split()}
    table |= {name: parent for parent, names in _NUCLEIC.items() for name in names.split()}
    residues = [n for n in LETTERS if n not in ("ASX", "GLX", "UNK", "MSE", "SEC", "PYL")]
    residues += [n for parent in _STATES for n in _STATES[parent].split() if len(n) == 3]
    for end in "NC":  # AMBER's residues of the chain's ends: NALA, CVAL, NHID, ...
        table |= {end + name: table.get(name, name) for name in residues}
    return table


_VARIANTS = _variants()


def is_four_letters(name: str) -> bool:
    """Whether a residue name of four letters is in the table."""
    return len(name) == 4 and (name in _VARIANTS or name in _WATER or name in _IONS)


def parent(name: str) -> str:
    """The PDB's name of what a program calls `name`, such as HIS for HSE; other names come back as they are."""
    return _VARIANTS.get(name, name)


def nucleotide_atom(name: str) -> str:
    """The PDB's name of an atom of a nucleotide: OP1 for O1P, C5' for C5*; other names come back as they are."""
    return _ATOMS.get(name) or name.replace("*", "'")


def three_letters(letter: str) -> str:
    """The PDB's name of a letter, 'UNK' for 'X' and others."""
    return _THREE.get(letter, "UNK")


@cache
def letter(name: str) -> str:
    """One letter of an amino acid or nucleotide: that of the parent of a modified one; 'X' if there is none."""
    known = parent(name) if name in LETTERS or name in _VARIANTS else parent(name.upper())
    if known in LETTERS:
        return LETTERS[known]
    if known in _NUCLEIC:
        return known[-1]
    from biotite.structure.info import one_letter_code

    found = one_letter_code(known)
    if not found and len(known) == 4 and known[:3].upper() in LETTERS | _VARIANTS:
        return letter(known[:3])  # a state that is not in the table, such as CYSD
    return (found or "X")[:1].upper()


@cache
def component_kind(name: str) -> str:
    """'protein', 'nucleic', 'water', 'ion', or 'ligand' for all other components."""
    known = parent(name) if name in _WATER or name in _IONS else parent(name.upper())
    if known in LETTERS:
        return "protein"
    if known in _NUCLEIC:
        return "nucleic"
    if name in _WATER:
        return "water"
    if name in _IONS:
        return "ion"
    if name in _CAPS or not name:
        return "ligand"
    from biotite.structure.info import amino_acid_names, nucleotide_names

    name = name.upper()
    if name in amino_acid_names():
        return "protein"
    return "nucleic" if name in nucleotide_names() else "ligand"
