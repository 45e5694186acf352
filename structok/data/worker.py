"""What a worker process needs, imported once for all of them."""

import biotite.structure.io.pdb
import biotite.structure.io.pdbx  # noqa: F401

import structok.data.records
import structok.read  # noqa: F401
