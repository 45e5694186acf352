"""Slots for residues that are missing in a chain: how many, which letters, which ids."""

from __future__ import annotations

import math
from collections import Counter

from structok.names import letter
from structok.read.chains import Chain
from structok.read.table import MISSING, Residue
from structok.structure import Note, many

__all__ = ["with_gaps"]

_SHORT_GAP = 5  # numbering gaps up to this are taken at their word


def with_gaps(chain: Chain, letters: dict[tuple[str, int], str]) -> tuple[list[int], str, list[str], list[Note]]:
    """Slots of a chain: index of each slot's residue (-1 = added), letters, ids, and notes.

    A numbering gap of g residues adds g slots, or, where g is above 5, at most floor(1.2 d / 3.8) - 1 of them, d being
    the distance of the CAs (Pourmirzaei et al. 2025). An mmCIF with the full sequence, and REMARK 465 of a PDB file,
    say how many. Where that is too few to span the distance, as many are added as the distance needs.
    """
    residues, bonded = chain.residues, chain.bonded()
    rows: list[int] = []
    sequence: list[str] = []
    ids: list[str] = []
    gaps = numbered = 0
    for i, residue in enumerate(residues):
        before = residues[i - 1]
        if i and chain.may_miss(before, residue, bonded[i]):
            said = sorted((k for k in chain.unseen if before.key < k < residue.key), key=_place)
            if said:
                found = [(chain.unseen[k], f"{k[0]}{k[1]}") for k in said]
            else:
                distance = chain.ends.apart(residue, before)
                found = _gap(chain, before, residue, distance, letters)
            gap = len(found) if said or chain.exact else max(residue.number - before.number - 1, 0)
            gaps, numbered = gaps + bool(found), numbered + gap
            rows += [-1] * len(found)
            sequence += [one for one, _ in found]
            ids += [name for _, name in found]
        rows.append(i)
        sequence.append(letter(residue.name))
        ids.append(f"{residue.number}{residue.ins}")
    notes = []
    if added := rows.count(-1):
        why = "" if added == numbered else f", where numbers leave out {numbered}"
        text = f"{many(added, 'slot')} added in {many(gaps, 'gap')}{why}"
        notes.append(Note("slots added", added, text))
    if renamed := _number_anew(ids):
        notes.append(
            Note(
                "residue ids changed",
                renamed,
                f"{many(renamed, 'residue')} given insertion codes: their numbers come twice",
            )
        )
    return rows, "".join(sequence), ids, notes


def _place(key: tuple[int, str]) -> tuple[int, str, int]:
    code, _, added = key[1].partition("+")  # slots that were added when the file was made count up from 52+1
    return key[0], code, int(added or 0)


def _gap(
    chain: Chain, before: Residue, after: Residue, distance: float, letters: dict[tuple[str, int], str]
) -> list[tuple[str, str]]:
    """Letter and id of each slot to add between two residues."""
    step = after.place - before.place if chain.exact else after.number - before.number
    n = _missing(distance, step, chain)
    if chain.gaps_said:
        n = step - 1 if chain.exact else 0
    counted = n == after.number - before.number - 1
    known = chain.exact and n == step - 1
    found = []
    for k in range(1, n + 1):
        one = letters.get((after.entity, before.place + k), "X") if known else "X"
        found.append((one, str(before.number + k) if counted else f"{before.number}{before.ins}+{k}"))
    return found


def _missing(distance: float, step: int, chain: Chain) -> int:
    """Slots to add between two residues that are not bonded and whose numbers are `step` apart."""
    gap = max(step - 1, 0) if step != MISSING else 0
    if not math.isfinite(distance):  # one of the two is incomplete: only the numbers can tell
        return gap if chain.exact or gap <= 100 else 0
    if not chain.exact and gap > _SHORT_GAP:
        gap = min(gap, max(0, math.floor(1.2 * distance / chain.step) - 1))
    # a stretched bond (up to 5.1 Å between CAs) is not a gap
    needed = max(0, math.ceil(distance / chain.step - 0.35) - 1)
    if gap and (chain.exact or chain.step * (gap + 1) * 1.05 > distance):
        return gap
    return max(gap, needed)


def _number_anew(ids: list[str]) -> int:
    """Give residues that share an id the insertion codes A, B, ...; how many."""
    counts, used, renamed = Counter(ids), set(ids), 0
    if len(used) == len(ids):
        return 0
    seen: set[str] = set()
    for i, name in enumerate(ids):
        if counts[name] > 1 and name in seen:
            stem = name.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            codes = (stem + c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            free = next((c for c in codes if c not in used), f"{name}+{i}")
            ids[i] = free
            used.add(free)
            renamed += 1
        seen.add(name)
    return renamed
