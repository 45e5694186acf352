"""A small tokenizer and model of the Qwen3 type, made here: nothing is downloaded."""

import random

import numpy as np
import pytest

from structok import Tokens
from structok.lm import Vocabulary

# how Qwen cuts text before its byte pairs
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = [
    "Begins a protein amino acid sequence. Ends a protein 3D structure. Begins a molecule SMILES string.",
    "The carbon atom [C] of the molecule binds to [N], see <S 12> and <A M> in table [3].",
    "Tryptophan, Selenocysteine, Aspartic acid or Asparagine, any amino acid, any nucleotide but Adenine",
    "[=C 132] [Branch1 -1] [C@@H1 7] [Ring1 -1] <S 4095> <S 0>",
]
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture
def make_tokenizer():
    """make_tokenizer(extra=[]) is a byte-level BPE tokenizer of the Qwen type; `extra` are its ordinary tokens."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def make(extra=()):
        base = Tokenizer(models.BPE())
        base.normalizer = normalizers.NFC()
        base.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        base.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
        base.train_from_iterator(TEXT * 3, trainer)
        base.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        base.add_tokens(["<think>", "</think>", *extra])
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=base, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT
        )

    return make


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer()


@pytest.fixture
def make_model():
    """make_model(rows, tied=True) is a random Qwen3 of 2 layers."""
    transformers = pytest.importorskip("transformers")
    import torch

    def make(rows, tied=True):
        torch.manual_seed(0)
        config = transformers.Qwen3Config(
            vocab_size=rows,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=tied,
        )
        return transformers.Qwen3ForCausalLM(config).eval()

    return make


@pytest.fixture(scope="session")
def biomatrix():
    return Vocabulary.preset("biomatrix")


@pytest.fixture(scope="session")
def scimind():
    return Vocabulary.preset("scimind")


@pytest.fixture(scope="session")
def small():
    """A biomatrix vocabulary with few molecule tokens and 64 structure codes."""
    joint = ["[C 0]", "[C 1]", "[=C 5]", "[H 3]", "[Branch1 -1]", "[Ring1 -1]", "[C -1]", "[=C -1]", "[O 2]"]
    return Vocabulary.biomatrix(["[C]", "[=C]", "[H]", "[O]", "[Branch1]", "[Ring1]"], joint, structure_codes=64)


@pytest.fixture(scope="session")
def random_proteins():
    """random_proteins(n) are n chains of random codes and letters."""

    def make(n, seed=0, codes=4096):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 200, n)
        letters = list("ACDEFGHIKLMNPQRSTVWYX")
        return [
            Tokens(rng.integers(0, codes, k), sequence="".join(rng.choice(letters, k)), id=f"p{i}")
            for i, k in enumerate(lengths)
        ]

    return make


@pytest.fixture(scope="session")
def random_molecules():
    """random_molecules(vocabulary, n) are n molecules of random joint tokens that obey the SELFIES grammar."""

    def make(vocabulary, n, seed=0):
        rng = random.Random(seed)
        pairs = [t[1:-1].split(" ") for t in vocabulary.groups["molecule"]]
        sizes = {t: int(t[-1]) for t, c in pairs if t.rstrip("123").endswith(("Branch", "Ring")) and c == "-1"}
        atoms = [(t, int(c)) for t, c in pairs if c != "-1"]
        index = [t for t, c in pairs if c == "-1"]
        molecules = []
        for i in range(n):
            selfies, codes = [], []
            for _ in range(rng.randint(1, 40)):
                if sizes and rng.random() < 0.2:
                    opener = rng.choice(sorted(sizes))
                    selfies += [opener, *(rng.choice(index) for _ in range(sizes[opener]))]
                else:
                    token, code = rng.choice(atoms)
                    selfies.append(token)
                    codes.append(code)
            text = "".join(f"[{t}]" for t in selfies)
            molecules.append(Tokens(np.array(codes, dtype=int), "molecule", id=f"m{i}", selfies=text))
        return molecules

    return make
