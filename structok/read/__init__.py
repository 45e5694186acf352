"""Files to structures: one table of suffixes, one way from a path, an archive or stdin to `Structure`."""

from structok.read.structures import as_backbone, parse_structures, read_structure, structure, structures

__all__ = ["as_backbone", "parse_structures", "read_structure", "structure", "structures"]
