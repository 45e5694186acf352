"""From token files to pretraining texts: views, fields by chance, bad records reported, memory bounded."""

import json
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

import structok
from structok import Tokens
from structok.cli import app
from structok.errors import InputError, StructokError
from structok.files import TokenWriter
from structok.lm import Vocabulary
from structok.lm.annotations import Annotations, read_annotations
from structok.lm.composing import Composer
from structok.lm.corpus import load_vocabulary, write_corpus

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


class Log:
    """Collects errors."""

    def __init__(self):
        self.done, self.errors = 0, []

    def error(self, error):
        self.errors.append(str(error))


def protein(i, length=None):
    random = np.random.default_rng(i)
    length = length or int(random.integers(5, 40))
    codes = random.integers(0, 4096, length)
    return Tokens(codes, model="chain-vq-4096", id=f"p{i}", chain="A", sequence="".join(random.choice(LETTERS, length)))


@pytest.fixture(scope="module")
def molecule(example):
    return structok.load("molstructok").encode(example.parent / "ligand.sdf", closed_loop=False)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.preset("biomatrix")


def write(path, records):
    with open(path, "wb") as file:
        writer = TokenWriter(file, path.suffix[1:])
        for record in records:
            writer.write(record)
        writer.close()
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_protein_in_three_views(vocabulary):
    made = [i for n in range(40) for i in Composer(vocabulary).instances(protein(n))]
    assert Counter(i.view for i in made) == {"sequence": 40, "structure": 40, "both": 40}
    first = Counter()
    for n in range(40):
        sequence, structure, both = made[3 * n : 3 * n + 3]
        tokens = protein(n)
        assert sequence.text == vocabulary.wrap_sequence(tokens.sequence)
        assert vocabulary.unwrap(structure.text).codes.tolist() == tokens.codes.tolist()
        assert sorted(both.text.split("\n")) == sorted([sequence.text, structure.text])
        first[both.text.startswith(sequence.text)] += 1
        assert both.counts == {"control": 4, "amino_acid": len(tokens), "structure": len(tokens)}
    assert min(first.values()) > 8  # both orders come


def test_a_structure_without_sequence_has_one_view(vocabulary):
    [only] = Composer(vocabulary).instances(Tokens(np.arange(5), id="x"))
    assert only.view == "structure"


def test_molecules_come_as_string_and_structure(vocabulary, molecule):
    kinds = Counter()
    for seed in range(30):
        string, structure, both = Composer(vocabulary, seed=seed).instances(molecule)
        assert [string.view, structure.view, both.view] == ["string", "structure", "both"]
        assert vocabulary.parse(structure.text).structures[0].codes.tolist() == molecule.codes.tolist()
        assert structure.text in both.text.split("\n")
        kinds[string.text.split("_")[1]] += 1
        if string.text.startswith("<|mol_smi_start|>"):
            smiles = vocabulary.unwrap(string.text)
            assert "[H]" not in smiles and string.counts["text_characters"] == len(smiles)
        else:
            assert vocabulary.unwrap(string.text) == molecule.selfies
    assert set(kinds) == {"smi", "sfi"}
    texts = {Composer(vocabulary, seed=s).instances(molecule, {"smiles": "OCC"})[0].text for s in range(30)}
    assert vocabulary.wrap_smiles("OCC") in texts and len(texts) == 2


def test_fields_join_by_chance_and_are_never_tokens(vocabulary):
    fields = {"organism_name": "E. coli", "note": "see <S 12> and [C] and <|prot_3d_start|>"}
    composer = Composer(vocabulary, keep=0.5)
    made = [i for n in range(200) for i in composer.instances(protein(n), fields)]
    kept = np.mean(["Organism name: E. coli" in i.text for i in made])
    assert 0.43 < kept < 0.57
    positions = Counter(i.text.split("\n").index("Organism name: E. coli") for i in made if "E. coli" in i.text)
    assert len(positions) >= 3
    for instance in made:
        found = vocabulary.parse(instance.text)
        assert found.ok and len(found.items) == (2 if instance.view == "both" else 1)
    assert all("E. coli" in i.text for i in Composer(vocabulary, keep=1).instances(protein(1), fields))
    assert not any("E. coli" in i.text for i in Composer(vocabulary, keep=0).instances(protein(1), fields))
    with pytest.raises(InputError, match="probability"):
        Composer(vocabulary, keep=1.5)


def test_what_the_vocabulary_lacks_is_spelled_and_counted(vocabulary):
    missing = Tokens(np.array([3, -1, 5]), id="gap", sequence="AXA", model="gcp")
    [_, structure, _] = Composer(vocabulary).instances(missing)
    assert structure.counts == {"control": 2, "structure": 2, "spelled": 1}
    with pytest.raises(StructokError):
        Composer(vocabulary).instances(Tokens(np.array([3, 70000]), sequence="AA"))


def test_scimind_has_strings_only(molecule):
    composer = Composer(Vocabulary.preset("scimind"))
    [only] = composer.instances(protein(0))
    assert only.view == "sequence" and only.counts == {"amino_acid": len(protein(0))}
    [only] = composer.instances(molecule)
    assert only.view == "string" and only.text.startswith("{|") and only.counts["smiles"] == len(only.text) // 5


def test_the_same_however_the_input_is_cut(vocabulary, tmp_path):
    records = [protein(n) for n in range(30)]
    whole = write(tmp_path / "all.jsonl", records)
    parts = [write(tmp_path / f"{n}.parquet", records[10 * n : 10 * n + 10]) for n in range(3)]
    notes = tmp_path / "notes.jsonl"
    notes.write_text("".join(json.dumps({"id": f"p{n}", "a": "x", "b": "y"}) + "\n" for n in range(30)))
    outs = [tmp_path / name for name in ("1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl")]
    logs = [Log() for _ in outs]
    write_corpus([whole], outs[0], vocabulary, logs[0], annotations=notes)
    write_corpus(parts, outs[1], vocabulary, logs[1], annotations=notes)
    write_corpus(reversed(parts), outs[2], vocabulary, logs[2], annotations=notes)
    write_corpus([whole], outs[3], vocabulary, logs[3], annotations=notes, seed=1)
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[3].read_bytes()
    assert sorted(outs[0].read_text().splitlines()) == sorted(outs[2].read_text().splitlines())
    assert all(log.done == 30 and not log.errors for log in logs)


def test_parquet_and_jsonl_hold_the_same_and_datasets_reads_both(vocabulary, tmp_path):
    datasets = pytest.importorskip("datasets")
    source = write(tmp_path / "t.parquet", [protein(n) for n in range(20)])
    texts = []
    for suffix, kind in ((".jsonl", "json"), (".parquet", "parquet")):
        out = tmp_path / f"corpus{suffix}"
        write_corpus([source], out, vocabulary, Log())
        options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
        found = datasets.load_dataset(kind, data_files=str(out), **options)
        assert found.column_names == ["text", "id", "view"] and len(found) == 60
        streamed = datasets.load_dataset(kind, data_files=str(out), **options, streaming=True)
        assert [row["text"] for row in streamed] == found["text"][:]
        texts.append(found["text"][:])
    assert texts[0] == texts[1]


def test_counts_are_those_of_the_texts(vocabulary, molecule, tmp_path):
    source = write(tmp_path / "t.jsonl", [protein(n) for n in range(12)] + [molecule])
    stats = write_corpus([source], tmp_path / "c.jsonl", vocabulary, Log())
    rows = read(tmp_path / "c.jsonl")
    everything = "\n".join(row["text"] for row in rows)
    assert stats["tokens"]["amino_acid"] == everything.count("<A ") == 2 * sum(len(protein(n)) for n in range(12))
    assert stats["tokens"]["structure"] == everything.count("<S ")
    assert stats["tokens"]["control"] == everything.count("<|")
    assert stats["instances"] == len(rows) == 39
    assert stats["records"] == {"protein": 12, "nucleic": 0, "molecule": 1, "annotated": 0, "complex": 0}
    assert json.loads((tmp_path / "c.jsonl.stats.json").read_text()) == stats
    assert stats["llama_factory"] == {"c": {"file_name": "c.jsonl", "columns": {"prompt": "text"}}}


def test_bad_records_are_skipped_and_reported(vocabulary, tmp_path):
    source = write(tmp_path / "t.jsonl", [protein(0), protein(1)])
    good = source.read_text()
    source.write_text(good + '{"id": "cut", "codes": [1, 2\n' + '{"id": "far", "codes": [99999], "sequence": "A"}\n')
    notes = tmp_path / "notes.csv"
    notes.write_text("id,family\np0,kinase\np0,again\n,nameless\np1,a,b\np1,phosphatase\n")
    log = Log()
    stats = write_corpus([source, tmp_path / "gone.jsonl"], tmp_path / "c.jsonl", vocabulary, log, annotations=notes)
    assert log.done == 2 and stats["records"]["annotated"] == 2
    told = "\n".join(log.errors)
    for part in ("line 3", "far", "gone.jsonl", "'p0' comes twice", "notes.csv, line 4", "notes.csv, line 5"):
        assert part in told
    assert len(log.errors) == 6
    empty = tmp_path / "e.jsonl"
    with pytest.raises(InputError, match="not written"):
        write_corpus([tmp_path / "gone.jsonl"], empty, vocabulary, Log())
    assert not empty.exists()


def test_annotations_by_chain_or_structure(tmp_path):
    file = tmp_path / "a.jsonl"
    records = [
        {"id": "p1", "note": "whole"},
        {"id": "p1_B", "note": "B only"},
        {"id": "p2", "ec": ["1.1.1.1", 2], "n": 3},
    ]
    records += [{"id": "p3", "deep": {"a": 1}}, {"id": "p4", "none": None, "text": " two\nlines \ud800"}]
    file.write_text("\n".join(map(json.dumps, records)))
    bad = []
    with Annotations(file, bad.append) as notes:
        assert notes.of(Tokens(np.arange(2), id="p1", chain="A")) == {"note": "whole"}
        assert notes.of(Tokens(np.arange(2), id="p1", chain="B")) == {"note": "B only"}
        assert notes.of(Tokens(np.arange(2), id="p2")) == {"ec": "1.1.1.1, 2", "n": "3"}
        assert notes.of(Tokens(np.arange(2), id="p4")) == {"text": "two lines ?"}
        assert notes.of(Tokens(np.arange(2), id="p5")) == {}
    assert len(bad) == 1 and "'deep'" in str(bad[0])
    for path in (tmp_path / "gone.csv", tmp_path / "a.txt"):
        with pytest.raises(InputError, match=path.name):
            list(read_annotations(path))


def test_parquet_annotations(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pa.table({"id": ["p1", "p2"], "go": [["a", "b"], None], "pH": [7.5, None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert list(read_annotations(tmp_path / "a.parquet")) == [("p1", {"go": "a, b", "pH": "7.5"}), ("p2", {})]
    (tmp_path / "b.parquet").write_text("no")
    with pytest.raises(InputError, match=r"b\.parquet"):
        list(read_annotations(tmp_path / "b.parquet"))


def test_memory_does_not_grow_with_the_input(vocabulary, tmp_path):
    peaks = []
    for count in (100, 800):
        source = write(tmp_path / f"{count}.jsonl", [protein(n, 30) for n in range(count)])
        notes = tmp_path / f"{count}.csv"
        notes.write_text("id,note\n" + "".join(f"p{n},{'word ' * 20}\n" for n in range(count)))
        tracemalloc.start()
        write_corpus([source], tmp_path / "c.jsonl", vocabulary, Log(), annotations=notes)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000  # bytes; the larger input is 0.7 MB


def test_command(vocabulary, tmp_path):
    source = write(tmp_path / "t.jsonl", [protein(0), protein(1)])
    out = tmp_path / "c.jsonl"
    run = CliRunner()
    done = run.invoke(app, ["corpus", str(source), "-o", str(out), "--seed", "3"])
    assert done.exit_code == 0 and not done.stdout
    assert "6 texts of 2 structures" in done.stderr and "structure" in done.stderr
    assert run.invoke(app, ["corpus", str(source), "-o", str(out)]).exit_code == 2
    piped = run.invoke(app, ["corpus", str(source), "--seed", "3"])
    assert piped.stdout.encode() == out.read_bytes()
    source.write_text(source.read_text() + "{}\n")
    assert run.invoke(app, ["corpus", str(source), "-o", str(out), "--force"]).exit_code == 1
    assert run.invoke(app, ["corpus", str(source), "-o", str(tmp_path / "c.txt")]).exception is not None
    folder = tmp_path / "vocabulary.json"
    vocabulary.save(folder)
    assert load_vocabulary(str(folder)).tokens == vocabulary.tokens
    with pytest.raises(InputError, match="biomatrix"):
        load_vocabulary("nothing")
