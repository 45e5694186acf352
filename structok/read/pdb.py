"""PDB and PDBQT text to a `Table`, by columns, as tolerant as the programs that write it are inventive."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from structok.names import component_kind, is_four_letters, letter
from structok.read.formats import GAPS_SAID
from structok.read.table import BACKBONE, MISSING, Table
from structok.structure import Note, many

__all__ = ["read_pdb"]

_ATOM = (b"ATOM  ", b"HETATM")
_RECORDS = b"""
HEADER OBSLTE TITLE SPLIT CAVEAT COMPND SOURCE KEYWDS EXPDTA NUMMDL MDLTYP AUTHOR REVDAT SPRSDE JRNL REMARK DBREF
DBREF1 DBREF2 SEQADV SEQRES MODRES HET HETNAM HETSYN FORMUL HELIX SHEET TURN SSBOND LINK CISPEP SITE CRYST1 ORIGX1
ORIGX2 ORIGX3 SCALE1 SCALE2 SCALE3 MTRIX1 MTRIX2 MTRIX3 TVECT MODEL ANISOU SIGATM SIGUIJ TER ENDMDL CONECT MASTER
END ROOT ENDROOT BRANCH ENDBRANCH TORSDOF USER PARENT LINKR HYDBND SLTBRG FTNOTE
"""
_KNOWN = frozenset(_RECORDS.split())


def read_pdb(content: bytes, only_backbone: bool) -> Table:
    """First frame of a file.

    `only_backbone` passes over rows that are not N, CA, C or O, except the first of each chain.

    Raises
    ------
    ValueError
        If there are no atoms, or a row has no coordinates.
    """
    rows, segments, closed, notes, header, small = _first_frame(content.splitlines(), only_backbone)
    if not rows:
        raise ValueError("it has no ATOM lines")
    fields = [row[17:22] for row in rows]
    ids = _two_letter_ids(set(fields))
    known = {field: _name_and_chain(field, ids) for field in set(fields)}
    residue = [known[field] for field in fields]
    xyz = _coordinates(rows)
    table = Table(
        name=_strings(rows, 12, 16),
        res_name=[name for name, _ in residue],
        chain=[chain for _, chain in residue],
        number=_numbers(rows),
        ins=_strings(rows, 26, 27),
        alt=_strings(rows, 16, 17),
        element=_strings(rows, 76, 78),
        hetero=[row.startswith(b"H") for row in rows],
        segment=segments,
        xyz=xyz,
        occupancy=_floats(rows, 54, 60, 1.0),
        b_factor=_floats(rows, 60, 66, np.nan),
        closed=frozenset(closed),
        notes=notes,
        components=sorted(_name_and_chain(r[:5].ljust(5), ids)[0] for r in small - {row[17:27] for row in rows}),
    )
    _read_header(table, header)
    return table


def _first_frame(
    lines: list[bytes], only_backbone: bool
) -> tuple[list[bytes], list[int], set[int], list[Note], list[bytes], set[bytes]]:
    """Rows of the first frame, the segment of each, segments that a TER ends, notes, other lines, HETATM residues."""
    wanted = {pad.encode() for name in BACKBONE for pad in (f" {name:<3}", f"{name:<4}", f"{name:>4}", f"  {name:<2}")}
    rows: list[bytes] = []
    segments: list[int] = []
    header: list[bytes] = []
    closed: set[int] = set()
    chains: set[bytes] = set()
    small: set[bytes] = set()
    strange: Counter[bytes] = Counter()
    segment = frames = 0
    chain = system = b""
    ended = own = False  # END came; a MODEL line has begun the frame
    for number, line in enumerate(lines):
        record = line[:6]
        if record in _ATOM:
            if ended:
                ended = False
                if own or line[20:22] in chains or not line[20:22].strip():
                    frames += _frames_after(lines[number:])
                    break
                segment += 1  # another chain behind an END
            if record == b"HETATM":
                small.add(line[17:27])
            if line[72:76] != system:  # CHARMM's segments, where nothing else keeps chains apart
                if _is_other_system(system, line[72:76]):
                    segment += 1
                    chain = b""
                system = line[72:76]
            if line[20:22] != chain:
                chain = line[20:22]
                chains.add(chain)
            elif only_backbone and line[12:16] not in wanted:
                continue
            if len(line) < 80:
                if len(line) < 54:
                    raise ValueError(f"line {number + 1} ends within its coordinates")
                line = line.ljust(80)
            rows.append(line)
            segments.append(segment)
        elif record.startswith(b"TER"):
            if rows:
                closed.add(segment)
            segment += 1
            chain = b""
        elif record.startswith(b"MODEL"):
            if rows:
                frames += _frames_after(lines[number:])
                break
            own = True
        elif record.startswith((b"END", b"ENDMDL")) and not record.startswith(b"ENDB"):
            ended = ended or (bool(rows) and record.rstrip() in (b"END", b"ENDMDL"))
            own = own or record == b"ENDMDL"
        elif record[:5] == b"ATOM " and line[5:11].isdigit():
            raise ValueError(f"line {number + 1} has a serial number of six digits, which leaves no room after ATOM")
        elif record.split(b" ")[0] not in _KNOWN and record.strip():
            strange[record.strip()] += len(line) >= 54 and line[34:35] == b"."
        else:
            header.append(line)
    notes = []
    if frames:
        text = f"{many(frames, 'further frame')} ignored, the first is read"
        notes.append(Note("frames ignored", frames, text))
    if lost := sum(strange.values()):
        names = ", ".join(n.decode("latin-1") for n, count in strange.items() if count)[:60]
        notes.append(Note("lines ignored", lost, f"{many(lost, 'line')} of an unknown record ignored ({names})"))
    return rows, segments, closed, notes, header, small


def _is_other_system(before: bytes, after: bytes) -> bool:
    """Whether columns 73 to 76 name two segments: words, not the charges of PDBQT."""
    return before.strip().isalnum() and after.strip().isalnum()


def _frames_after(lines: Iterable[bytes]) -> int:
    """Frames in the rest of a file, without the one that it may stand in."""
    found, filled = 0, False
    for line in lines:
        if line.startswith(_ATOM):
            filled = True
        elif line.startswith((b"END", b"MODEL")) and filled:
            found, filled = found + 1, False
    return found + filled


def _strings(rows: list[bytes], start: int, stop: int) -> list[str]:
    known: dict[bytes, str] = {}
    out = []
    for row in rows:
        raw = row[start:stop]
        text = known.get(raw)
        if text is None:
            text = known[raw] = raw.decode("latin-1").strip()
        out.append(text)
    return out


def _two_letter_ids(fields: Iterable[bytes]) -> set[str]:
    """What of columns 21 and 22 are chain ids: most residues with them have names that make sense without column 21."""
    votes: Counter[str] = Counter()
    names: Counter[str] = Counter()
    plain = set()
    for text in (field.decode("latin-1") for field in fields):
        if text[3] == " ":
            plain.add(text[4])
        elif text[4] != " " or component_kind(text[:3].strip()) != "ligand":
            names[text[3:]] += 1
            votes[text[3:]] += -1 if is_four_letters(text[:4].strip()) else 1
    return {ids for ids, vote in votes.items() if vote > 0 and (names[ids] > 1 or ids[1] not in plain)}


def _name_and_chain(field: bytes, two_letter_ids: set[str]) -> tuple[str, str]:
    """Residue name and chain id. Column 21 belongs to names of four letters, or to chain ids of two."""
    text = field.decode("latin-1")
    at = 3 if text[3:] in two_letter_ids else 4
    return text[:at].strip(), text[at:].strip()


def _coordinates(rows: list[bytes]) -> np.ndarray:
    text = b"".join([row[30:54] for row in rows])
    try:
        if b"_" in text:
            raise ValueError  # Python takes 36.3_6 for a number
        values = np.frombuffer(text, "S8").astype(np.float64)
    except ValueError:
        values = np.array([v for row in rows for v in _triple(row[30:60])])
    return values.reshape(-1, 3).astype(np.float32)


# coordinates that need more than their eight columns push the next ones to the right
_WIDE = re.compile(rb"( {0,3}-?\d+\.\d{3})" + 2 * rb"( {0,3}-?\d+\.\d{3})")


def _triple(field: bytes) -> list[float]:
    try:
        if b"_" in field[:24]:
            raise ValueError
        return [float(field[i : i + 8]) for i in (0, 8, 16)]
    except ValueError:
        if match := _WIDE.match(field):
            return [float(value) for value in match.groups()]
        text = field[:24].decode("latin-1").strip()
        raise ValueError(f"an atom with the coordinates {text!r}") from None


def _floats(rows: list[bytes], start: int, stop: int, default: float) -> np.ndarray:
    """A column of numbers; `default` where it is blank or overflows."""
    fields = [row[start:stop] for row in rows]
    try:
        return np.array(fields, dtype=f"S{stop - start}").astype(np.float32)
    except ValueError:
        return np.array([_float(field, default) for field in fields], dtype=np.float32)


def _float(field: bytes, default: float) -> float:
    try:
        return float(field)
    except ValueError:
        return default


def _numbers(rows: list[bytes]) -> list[int]:
    """Residue numbers: decimal, hybrid-36, or hexadecimal where they count on; else `MISSING`."""
    fields = [row[22:26] for row in rows]
    last, hexadecimal = MISSING, False
    known: dict[bytes, int] = {}
    out: list[int] = []
    for field in fields:
        number = known.get(field)
        if number is None:
            if last >= 9999 and _hexadecimal(field) in (last, last + 1):
                hexadecimal = True
            number = _hexadecimal(field) if hexadecimal else _number(field)
            known[field] = number
        out.append(number)
        last = number
    return out


def _hexadecimal(field: bytes) -> int:
    try:
        return int(field, 16)
    except ValueError:
        return MISSING


def _number(field: bytes) -> int:
    try:
        return int(field)
    except ValueError:
        pass
    try:  # hybrid-36: A000 is 10000, a000 follows ZZZZ
        text = field.decode("ascii")
        if len(text.strip()) == 4 and text[0].isalpha() and (text == text.upper() or text == text.lower()):
            value = int(text, 36)
            return value - 10 * 36**3 + 10_000 + (26 * 36**3 if text[0].islower() else 0)
    except ValueError:
        pass
    return MISSING


_UNSEEN = re.compile(rb"REMARK 465\s+(?:\d+\s+)?(\w{1,3})\s+(\S{0,2})\s+(-?\d+)([A-Za-z]?(?:\+\d+)?)\s*$")


def _read_header(table: Table, lines: list[bytes]) -> None:
    """Resolution, residues that were not seen, and whether the title says that this is a prediction."""
    title, experiment = b"", False
    for line in lines:
        if line.startswith(b"REMARK   2 RESOLUTION."):
            value = _float(line[23:30], 0.0)
            table.resolution = value if value > 0 else None
        elif line.startswith((b"TITLE", b"HEADER")):
            title += line[10:].upper()
        elif line.startswith(GAPS_SAID.encode()):
            table.gaps_said = True
        elif match := _UNSEEN.match(line):
            name, chain, number, code = (field.decode() for field in match.groups())
            table.unseen.setdefault(chain, {})[int(number), code] = letter(name)
        experiment |= line.startswith(b"EXPDTA")
    table.predicted = b"PREDICTION" in title and not experiment
