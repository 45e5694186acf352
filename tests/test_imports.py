"""What is light stays light: no torch, rdkit or biotite before something needs them."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "rdkit", "biotite", "selfies", "e3nn", "torch_geometric", "pyarrow", "lightning"]


@pytest.mark.parametrize(
    "code",
    [
        "import structok",
        "import structok; structok.list_models()",
        "import structok.tokens, structok.files",
        "import sys; sys.argv = ['structok', '--help']; from structok.cli import main; main()",
        "import sys; sys.argv = ['structok', 'models']; from structok.cli import main; main()",
    ],
)
def test_loads_no_heavy_package(code):
    check = f"import atexit, sys\natexit.register(lambda: print('LOADED', *({HEAVY!r} & sys.modules.keys())))\n"
    check = check.replace(repr(HEAVY), f"set({HEAVY!r})")
    done = subprocess.run([sys.executable, "-c", check + code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "LOADED"


@pytest.mark.parametrize("name", ["Backbone", "read_structure"])
def test_public_names_resolve_first(name):
    """In a process that has imported nothing yet, so that a circle of imports would show."""
    done = subprocess.run([sys.executable, "-c", f"import structok; structok.{name}"], capture_output=True, text=True)
    assert not done.stderr


def test_public_names_all_resolve():
    import structok

    assert set(structok.__all__) <= set(dir(structok))
    for name in structok.__all__:
        assert getattr(structok, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = structok.no_such_name
