#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the small demonstration model in models/folio-4M, from the text up.

The script does everything that the model card describes: it takes its text
from Debian packages (and one plain file, see --shakespeare), cleans it, splits
it into training, held-out and calibration text, trains a tokenizer, trains a
Llama-style model, rounds it to BF16, writes it in the Hugging Face layout and
measures it beside a bigram and a unigram model of the same tokens.

Needs Debian 12, python3-torch (Debian's 1.13 or any later one), numpy,
libreadline8, and `tokenizers` from PyPI.  `apt-get download` must work;
nothing is installed.

    python3 scripts/train-demo-model.py              # everything
    python3 scripts/train-demo-model.py --prepare    # text and tokenizer only
    python3 scripts/train-demo-model.py --evaluate   # measure what --out holds

Training state is kept under --work and picked up again by --resume.
"""

import argparse
import collections
import glob
import hashlib
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib

# Training uses one process per core, each with one thread (see Workers).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

VOCAB = 2048
UNK, BOS, EOS, BYTE0, PIECE0 = 0, 1, 2, 3, 259
CONTEXT = 256

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "max_position_embeddings": CONTEXT,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCAB,
}


# ---------------------------------------------------------------------------
# Text: packages, readers, cleaning
# ---------------------------------------------------------------------------

def run(*command, **keywords):
    return subprocess.run(command, check=True, **keywords)


def fetch(package, work):
    """Download and unpack one Debian package; return (folder, version)."""
    root = os.path.join(work, "packages", package)
    stamp = os.path.join(root, "VERSION")
    if not os.path.exists(stamp):
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(root)
        run("apt-get", "-qq", "download", package, cwd=root)
        deb, = glob.glob(os.path.join(root, "*.deb"))
        run("dpkg-deb", "-x", deb, root)
        version = run("dpkg-deb", "-f", deb, "Version", capture_output=True,
                      text=True).stdout.strip()
        os.remove(deb)
        with open(stamp, "w") as f:
            f.write(version)
    with open(stamp) as f:
        return root, f.read()


def read_text(path):
    with open(path, "rb") as f:
        data = f.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_r_character_vectors(path):
    """The character vectors of an R lazy-load database (.rdb), in order."""
    with open(path, "rb") as f:
        data = f.read()
    found, at = [], 0
    while at < len(data):
        inflate = zlib.decompressobj()
        item = inflate.decompress(data[at + 4:])
        at = len(data) - len(inflate.unused_data)
        assert item[:2] == b"X\n", "not an XDR serialization"
        version, = struct.unpack_from(">i", item, 2)
        p = 14
        if version == 3:                      # native encoding follows
            p += 4 + struct.unpack_from(">i", item, p)[0]
        flags, count = struct.unpack_from(">ii", item, p)
        p += 8
        assert flags & 255 == 16, "not a character vector"
        lines = []
        for _ in range(count):
            flags, length = struct.unpack_from(">ii", item, p)
            assert flags & 255 == 9
            p += 8
            length = max(length, 0)
            lines.append(item[p:p + length].decode("utf-8"))
            p += length
        found.append("\n".join(lines))
    return found


QUOTES = {
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-",
    "\u2014": "--", "\u2026": "...", "\u00a0": " ", "\u0092": "'",
    "\u0093": '"', "\u0094": '"', "\u0096": "-", "\u0097": "--", "\u0091": "'",
}


def clean(text, unwrap=True, hyphens=False):
    """Plain paragraphs: one line each, a blank line between them.

    Paragraphs of short lines (verse, title pages) keep their lines.  With
    `hyphens`, a hyphen at the end of a line is a word division and goes away.
    """
    for a, b in QUOTES.items():
        text = text.replace(a, b)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text.expandtabs(4))
    text = re.sub(r"\{\*?[0-9]+\}", "", text)             # note marks
    text = re.sub(r"_([^_\n]*(?:\n[^_\n]+)?)_", r"\1", text)       # italics
    paragraphs = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [re.sub(r" +", " ", line).strip()
                 for line in block.split("\n")]
        lines = [line for line in lines if line]
        if not lines or not re.search(r"[A-Za-z0-9]", "".join(lines)):
            continue
        body = lines[:-1]
        if unwrap and body and sum(map(len, body)) >= 42 * len(body):
            out = lines[0]
            for line in lines[1:]:
                if out.endswith("--"):
                    out += line
                elif hyphens and re.search(r"[a-z]-$", out):
                    out = out[:-1] + line
                elif re.search(r"[A-Za-z]-$", out):
                    out += line
                else:
                    out += " " + line
            lines = [out]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"


def between(text, start, end):
    """What lies between the two marks, neither line included."""
    if start:
        at = re.search(start, text)
        text = text[text.index("\n", at.end()) + 1:]
    if end:
        text = text[:re.search(end, text).start()]
    return text


def load_kjv(work):
    """One verse a line, a blank line between chapters."""
    reader, _ = fetch("bible-kjv", work)
    data, _ = fetch("bible-kjv-text", work)
    verses = run(os.path.join(reader, "usr/bin/bible"), "-f",
                 "-p", os.path.join(data, "usr/lib"), "gen1:1-rev22:21",
                 capture_output=True, text=True).stdout
    books, chapters = [], collections.OrderedDict()
    for line in verses.splitlines():
        where, verse = line.split(" ", 1)
        verse = re.sub(r"[\[\]{}]", "", verse).strip()
        chapters.setdefault(where.split(":")[0], []).append(verse)
    testament = []
    for chapter, lines in chapters.items():
        if chapter == "Mat1":
            books.append(testament)
            testament = []
        testament.append("\n".join(lines))
    books.append(testament)
    return ["\n\n".join(b) + "\n" for b in books]


def load_austen(work):
    root, _ = fetch("r-cran-janeaustenr", work)
    vectors = read_r_character_vectors(os.path.join(
        root, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"))
    assert len(vectors) == 6
    return [clean(v) for v in vectors]


def load_poe(work):
    root, _ = fetch("liblingua-stem-perl", work)
    text = read_text(os.path.join(
        root, "usr/share/doc/liblingua-stem-perl/examples",
        "collected_works_poe.txt"))
    volumes = re.findall(r"\*END ?\*?THE SMALL PRINT![^\n]*\n(.*?)"
                         r"\n *End of The Project Gutenberg Etext", text, re.S)
    assert len(volumes) == 5
    volumes = [re.sub(r"\[Redactor's note:.*?\]\n", "", v, flags=re.S)
               for v in volumes]
    return [clean(re.sub(r"~+ ?End of Text ?~+", "", v)) for v in volumes]


def load_moby(work):
    root, _ = fetch("golang-github-colinmarc-hdfs-dev", work)
    text = read_text(os.path.join(
        root, "usr/share/gocode/src/github.com/colinmarc/hdfs/testdata",
        "mobydick.txt"))
    return [clean(between(text, r"Produced by [^\n]*",
                          r"End of Project Gutenberg"))]


def load_sherlock(work):
    root, _ = fetch("golang-github-jdkato-prose-dev", work)
    text = read_text(os.path.join(
        root, "usr/share/gocode/src/github.com/jdkato/prose/testdata",
        "sherlock.txt"))
    return [clean(between(text, r"Produced by [^\n]*",
                          r"End of the Project Gutenberg"))]


def load_sawyer(work):
    root, _ = fetch("golang-github-pierrec-lz4-dev", work)
    text = read_text(os.path.join(
        root, "usr/share/gocode/src/github.com/pierrec/lz4/testdata",
        "Mark.Twain-Tom.Sawyer.txt"))
    return [clean(between(text, r"Menendez\.", None))]


def load_huckfinn(work):
    root, _ = fetch("liblingua-stem-perl", work)
    text = read_text(os.path.join(
        root, "usr/share/doc/liblingua-stem-perl/examples/huckfinn.txt"))
    return [clean(text, hyphens=True)]


def load_devil(work):
    root, _ = fetch("dict-devil", work)
    with open(os.path.join(root, "usr/share/dictd/devil.dict.dz"), "rb") as f:
        text = zlib.decompress(f.read(), 31).decode("latin-1")
    return [clean(between(text, r"A\.B\.", None))]


# title, author and year, Debian packages, reader, held-out bytes from the end
# of each of its works (0: the work is for training only)
SOURCES = [
    ("Works (excerpts)", "Shakespeare, 1590-1613", [], None, [20000]),
    ("King James Bible", "1611", ["bible-kjv-text", "bible-kjv"], load_kjv,
     [12000, 12000]),
    ("Six novels", "Jane Austen, 1811-1818", ["r-cran-janeaustenr"],
     load_austen, [6000] * 6),
    ("Works", "E. A. Poe, 1827-1849", ["liblingua-stem-perl"], load_poe,
     [0, 8000, 0, 8000, 0]),
    ("Moby-Dick", "Herman Melville, 1851",
     ["golang-github-colinmarc-hdfs-dev"], load_moby, [14000]),
    ("Sherlock Holmes", "A. C. Doyle, 1892",
     ["golang-github-jdkato-prose-dev"], load_sherlock, [12000]),
    ("Tom Sawyer", "Mark Twain, 1876", ["golang-github-pierrec-lz4-dev"],
     load_sawyer, [9000]),
    ("Huckleberry Finn", "Mark Twain, 1884", ["liblingua-stem-perl"],
     load_huckfinn, [10000]),
    ("The Devil's Dictionary", "Ambrose Bierce, 1911", ["dict-devil"],
     load_devil, [4000]),
]
CALIBRATION_BYTES = 150000


def paragraph_break(data, at):
    """The first byte after a blank line, at or behind `at`."""
    found = data.find(b"\n\n", max(at, 0))
    return len(data) if found < 0 else found + 2


def prepare_text(args):
    """Read, clean, split; write eval.txt, calibration.txt, training text."""
    train, held, calibration, table = [], [], [], []
    total = 0
    loaded = []
    for title, author, packages, load, holds in SOURCES:
        if load is None:
            works = [clean(read_text(args.shakespeare), unwrap=False)]
        else:
            works = load(args.work)
        works = [w.encode("utf-8") for w in works]
        assert len(works) == len(holds), title
        loaded.append(works)
        total += sum(map(len, works))
    for (title, author, packages, load, holds), works in zip(SOURCES, loaded):
        kept = []
        held_bytes = 0
        for data, hold in zip(works, holds):
            cut = len(data)
            if hold:
                cut = paragraph_break(data, len(data) - hold)
            if cut >= len(data) and hold:
                raise SystemExit("%s: nothing held out" % title)
            if hold:
                held.append(data[cut:].strip(b"\n"))
                held_bytes += len(data) - cut
            kept.append(data[:cut].strip(b"\n"))
        # Calibration: a run from the middle of the training part.
        share = CALIBRATION_BYTES * sum(map(len, works)) // total
        longest = max(kept, key=len)
        start = paragraph_break(longest, len(longest) // 2)
        end = paragraph_break(longest, start + share)
        calibration.append(longest[start:end].strip(b"\n"))
        train.extend(kept)
        versions = ["%s %s" % (p, fetch(p, args.work)[1]) for p in packages]
        table.append((title, author, ", ".join(versions),
                      sum(map(len, works)), held_bytes))
    os.makedirs(args.out, exist_ok=True)
    write(os.path.join(args.out, "eval.txt"), b"\n\n".join(held) + b"\n")
    write(os.path.join(args.out, "calibration.txt"),
          b"\n\n".join(calibration) + b"\n")
    write(os.path.join(args.work, "train.txt"), b"\0".join(train))

    print("%-24s %-24s %10s %9s  %s" % ("text", "author, year", "bytes",
                                        "held out", "package"))
    for title, author, versions, size, held_bytes in table:
        print("%-24s %-24s %10d %9d  %s" % (title, author, size, held_bytes,
                                            versions or "(file)"))
    print("%-49s %10d %9d" % ("sum", total, sum(r[4] for r in table)))
    # Does any long held-out paragraph occur in the training text?
    body = b"\n".join(train)
    lines = [l for h in held for l in h.split(b"\n") if len(l) >= 60]
    twice = [l for l in lines if l in body]
    print("held-out lines of 60 bytes or more: %d, %d of them (%d bytes) also "
          "in the training text" % (len(lines), len(twice),
                                    sum(map(len, twice))))


def write(path, data):
    with open(path + ".new", "wb") as f:
        f.write(data)
    os.replace(path + ".new", path)


# ---------------------------------------------------------------------------
# Tokenizer: SentencePiece-style BPE with byte fallback
# ---------------------------------------------------------------------------

def train_tokenizer(args):
    """BPE pieces that never reach over a word boundary.

    The pieces come from the library's trainer; ids and merges are then laid
    out as a converted SentencePiece model has them: <unk> <s> </s>, 256 bytes,
    merged pieces in the order of their merges, single characters.  Every
    way to split a piece into two known pieces is a merge with the rank of the
    piece, so applying the merges and applying SentencePiece scores agree.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers
    from tokenizers import pre_tokenizers, trainers

    with open(os.path.join(args.work, "train.txt"), "rb") as f:
        works = f.read().decode("utf-8").split("\0")
    paragraphs = [p for w in works for p in w.split("\n") if p]

    counts = collections.Counter()
    for p in paragraphs:
        counts.update(p)
    alphabet = sorted((c for c, n in counts.items() if c != " "
                       and (n >= 200 or c in "0123456789")),
                      key=lambda c: (-counts[c], c))
    alphabet = ["\u2581"] + alphabet

    trainer_model = Tokenizer(models.BPE())
    trainer_model.normalizer = normalizers.Replace(" ", "\u2581")
    trainer_model.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"'(?:s|t|d|ll|re|ve|m)(?!\p{L})|\u2581?\p{L}+|\u2581?\p{N}"
              r"|\u2581?[^\p{L}\p{N}\u2581]+|\u2581"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - PIECE0, min_frequency=2, show_progress=False,
        limit_alphabet=len(alphabet), initial_alphabet=alphabet,
        special_tokens=[])
    # A line starts without the word mark here, as it does behind a newline.
    trainer_model.train_from_iterator(paragraphs, trainer)
    trained = json.loads(trainer_model.to_str())["model"]
    singles = [c for c in trained["vocab"] if len(c) == 1]
    singles.sort(key=lambda c: (c != "\u2581", -counts[c], c))
    merged = [p for p, _ in sorted(trained["vocab"].items(),
                                   key=lambda x: x[1]) if len(p) > 1]
    pieces = merged + singles
    assert len(pieces) == VOCAB - PIECE0, len(pieces)

    vocab = {"<unk>": UNK, "<s>": BOS, "</s>": EOS}
    for b in range(256):
        vocab["<0x%02X>" % b] = BYTE0 + b
    for i, p in enumerate(pieces):
        vocab[p] = PIECE0 + i
    merges = []
    for p in merged:
        splits = [(p[:i], p[i:]) for i in range(1, len(p))
                  if p[:i] in vocab and p[i:] in vocab]
        merges += sorted(splits, key=lambda s: (vocab[s[0]], vocab[s[1]]))

    def special(i, content):
        return {"id": i, "content": content, "single_word": False,
                "lstrip": False, "rstrip": False, "normalized": False,
                "special": True}

    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    result = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(UNK, "<unk>"), special(BOS, "<s>"),
                         special(EOS, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "},
             "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "<s>", "type_id": 1}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS],
                                       "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"},
             "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>",
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": vocab, "merges": ["%s %s" % m for m in merges]},
    }
    data = json.dumps(result, ensure_ascii=False, indent=1).encode("utf-8")
    write(os.path.join(args.out, "tokenizer.json"), data + b"\n")
    print("tokenizer: %d pieces (%d merged, %d characters), %d merges"
          % (len(vocab), len(merged), len(singles), len(merges)))


def load_tokenizer(args):
    from tokenizers import Tokenizer
    return Tokenizer.from_file(os.path.join(args.out, "tokenizer.json"))


def tokenize(args):
    """Training tokens (works joined by </s>) and held-out tokens."""
    tokenizer = load_tokenizer(args)
    path = os.path.join(args.work, "train.npy")
    with open(os.path.join(args.work, "train.txt"), "rb") as f:
        works = f.read().decode("utf-8").split("\0")
    tokens = []
    for work in works:
        # In parts, cut where a token ends anyway: after a newline.  Only the
        # first part of a work starts with the word mark.
        parts = re.findall(r"(?s).{1,40000}?(?:\n\n|\Z)", work)
        first = True
        for part in merge_parts(parts, 50000):
            ids = tokenizer.encode(part if first else "\n" + part,
                                   add_special_tokens=False).ids
            if not first:
                # drop the word mark and the newline that was put in front
                assert ids[1] == BYTE0 + 10
                ids = ids[2:]
            tokens += ids
            first = False
        tokens.append(EOS)
    np.save(path, np.array(tokens, dtype=np.uint16))
    text = read_bytes(os.path.join(args.out, "eval.txt"))
    ids = tokenizer.encode(text.decode("utf-8")).ids
    np.save(os.path.join(args.work, "eval.npy"), np.array(ids, np.uint16))
    size = sum(len(w.encode("utf-8")) for w in works)
    print("training: %d bytes, %d tokens (%.3f bytes each); held out: %d "
          "bytes, %d tokens" % (size, len(tokens), size / len(tokens),
                                len(text), len(ids)))


def merge_parts(parts, limit):
    out, size = [], 0
    for part in parts:
        out.append(part)
        size += len(part)
        if size >= limit:
            yield "".join(out)
            out, size = [], 0
    if out:
        yield "".join(out)


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


# ---------------------------------------------------------------------------
# Model and training
# ---------------------------------------------------------------------------

def build_model(seed):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    c = CONFIG
    hidden, heads, head = c["hidden_size"], c["num_attention_heads"], 64
    kv_heads, layers = c["num_key_value_heads"], c["num_hidden_layers"]
    eps = c["rms_norm_eps"]

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(hidden))

        def forward(self, x):
            scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
            return x * scale * self.weight

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = nn.Linear(hidden, heads * head, bias=False)
            self.k_proj = nn.Linear(hidden, kv_heads * head, bias=False)
            self.v_proj = nn.Linear(hidden, kv_heads * head, bias=False)
            self.o_proj = nn.Linear(heads * head, hidden, bias=False)

        def forward(self, x, cos, sin, mask):
            b, t, _ = x.shape
            group = heads // kv_heads
            q = self.q_proj(x).view(b, t, heads, head).transpose(1, 2)
            k = self.k_proj(x).view(b, t, kv_heads, head).transpose(1, 2)
            v = self.v_proj(x).view(b, t, kv_heads, head).transpose(1, 2)
            q = (rotate(q, cos, sin) * head ** -0.5).to(v.dtype)
            k = rotate(k, cos, sin).to(v.dtype)
            q = q.reshape(b, kv_heads, group * t, head)
            scores = (q @ k.transpose(2, 3)).view(b, heads, t, t)
            weights = F.softmax(scores.float() + mask, dim=-1).to(v.dtype)
            out = weights.view(b, kv_heads, group * t, t) @ v
            out = out.view(b, heads, t, head).transpose(1, 2)
            return self.o_proj(out.reshape(b, t, heads * head))

    def rotate(x, cos, sin):
        x = x.float()
        a, b = x[..., :head // 2], x[..., head // 2:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            ffn = c["intermediate_size"]
            self.gate_proj = nn.Linear(hidden, ffn, bias=False)
            self.up_proj = nn.Linear(hidden, ffn, bias=False)
            self.down_proj = nn.Linear(ffn, hidden, bias=False)

        def forward(self, x):
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_layernorm = Norm()
            self.self_attn = Attention()
            self.post_attention_layernorm = Norm()
            self.mlp = MLP()

        def forward(self, x, *rest):
            x = x + self.self_attn(self.input_layernorm(x), *rest)
            return x + self.mlp(self.post_attention_layernorm(x))

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(VOCAB, hidden)
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.norm = Norm()

    class Llama(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Body()
            half = head // 2
            rates = c["rope_theta"] ** (-torch.arange(half).double() / half)
            angles = torch.arange(CONTEXT).double()[:, None] * rates
            self.cos, self.sin = angles.cos().float(), angles.sin().float()
            self.mask = torch.full((CONTEXT, CONTEXT),
                                   float("-inf")).triu(1)
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    std = c["initializer_range"]
                    if name.endswith(("o_proj.weight", "down_proj.weight")):
                        std /= math.sqrt(2 * layers)
                    nn.init.normal_(p, std=std)

        def forward(self, tokens):
            t = tokens.shape[1]
            x = self.model.embed_tokens(tokens)
            for layer in self.model.layers:
                x = layer(x, self.cos[:t], self.sin[:t], self.mask[:t, :t])
            return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

        def loss(self, tokens, targets, reduction="mean"):
            logits = self(tokens).float()
            return F.cross_entropy(logits.view(-1, VOCAB), targets.reshape(-1),
                                   reduction=reduction)

    torch.manual_seed(seed)
    return Llama()


def batches(tokens, batch, seed, first, last):
    """Windows of CONTEXT + 1 tokens, shuffled anew in every epoch.

    Every second window has <s> as its first token, so that the model knows
    both the start of a text and the middle of one.
    """
    step = 0
    epoch = 0
    while True:
        rng = np.random.RandomState([seed, epoch])
        start = int(rng.randint(CONTEXT))
        count = (len(tokens) - 1 - start) // CONTEXT
        order = rng.permutation(count)
        coins = rng.randint(2, size=count)
        for i in range(0, count - batch + 1, batch):
            if step >= last:
                return
            if step >= first:
                rows = []
                for j in order[i:i + batch]:
                    at = start + int(j) * CONTEXT
                    row = tokens[at:at + CONTEXT + 1].astype(np.int64)
                    if coins[j]:
                        row[0] = BOS
                    rows.append(row)
                yield step, np.stack(rows)
            step += 1
        epoch += 1


class Workers:
    """Gradients of a batch, its windows shared out over processes.

    The processes are forks that share the weights; each writes its gradients
    into memory of its own that the first one reads and adds up, always in
    the same order.  They meet once in a step, so a core that something else
    keeps busy costs little, unlike threads that meet in every operation.
    """

    def __init__(self, model, count, bf16):
        import multiprocessing
        self.model, self.count, self.bf16 = model, count, bf16
        model.share_memory()
        self.parameters = list(model.parameters())
        self.grads = [[p.detach().new_zeros(p.shape).share_memory_()
                       for p in self.parameters] for _ in range(count)]
        self.pipes = []
        context = multiprocessing.get_context("fork")
        for i in range(1, count):
            here, there = context.Pipe()
            context.Process(target=self.work, args=(i, here, there),
                            daemon=True).start()
            there.close()
            self.pipes.append(here)
        self.attach(0)

    def attach(self, i):
        for p, g in zip(self.parameters, self.grads[i]):
            p.grad = g

    def part(self, i, rows):
        import torch
        for g in self.grads[i]:
            g.zero_()
        mine = torch.from_numpy(rows[i::self.count])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = self.model.loss(mine[:, :-1], mine[:, 1:])
        loss = loss * (len(mine) / len(rows))
        loss.backward()
        return loss.item()

    def work(self, i, here, there):
        import torch
        for pipe in self.pipes + [here]:      # so that the end is noticed
            pipe.close()
        torch.set_flush_denormal(True)
        self.attach(i)
        try:
            while True:
                there.send(self.part(i, there.recv()))
        except (EOFError, KeyboardInterrupt):
            pass

    def step(self, rows):
        for pipe in self.pipes:
            pipe.send(rows)
        loss = self.part(0, rows)
        for pipe, grads in zip(self.pipes, self.grads[1:]):
            loss += pipe.recv()
            for p, g in zip(self.parameters, grads):
                p.grad.add_(g)
        return loss


def train(args):
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    tokens = np.load(os.path.join(args.work, "train.npy"))
    held = np.load(os.path.join(args.work, "eval.npy"))
    model = build_model(args.seed)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay},
         {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.98), eps=1e-8)
    first, spent = 0, 0.0
    path = os.path.join(args.work, "state.pt")
    if args.resume and os.path.exists(path):
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["spent"]
    workers = Workers(model, args.threads, args.bf16)
    per_step = args.batch * CONTEXT
    print("training: %d steps of %d tokens, %.2f epochs, lr %g, %d processes, "
          "torch %s%s" % (args.steps, per_step,
                          args.steps * per_step / len(tokens), args.lr,
                          args.threads, torch.__version__,
                          ", bf16 matrix products" if args.bf16 else ""),
          flush=True)

    def save(step):
        state = {"model": model.state_dict(), "step": step,
                 "optimizer": optimizer.state_dict(),
                 "spent": spent + time.time() - began}
        torch.save(state, path + ".new")
        os.replace(path + ".new", path)

    began = time.time()
    mark, mark_step, running = began, first, []
    for step, rows in batches(tokens, args.batch, args.seed, first,
                              args.steps):
        # Up, level, and down along a half cosine over the last `decay` steps.
        warm = min(1.0, (step + 1) / args.warmup)
        left = min(1.0, (args.steps - step) / args.decay)
        rate = args.lr * warm * 0.5 * (1 - math.cos(math.pi * left))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = workers.step(rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running.append(loss)
        now = step + 1
        if now % 50 == 0 or now == args.steps:
            t = time.time()
            print("step %5d  loss %.4f  lr %.2e  %6.0f tokens/s  %5.1f min"
                  % (now, sum(running) / len(running), rate,
                     (now - mark_step) * per_step / (t - mark),
                     (spent + t - began) / 60), flush=True)
            mark, mark_step, running = t, now, []
        if now % 200 == 0 or now == args.steps:
            save(now)
        if now % 500 == 0:
            print("step %5d  held-out perplexity %.3f"
                  % (now, perplexity(model, held)[0]), flush=True)
        if now == args.early or now == args.steps:
            export(args, model)
    print("training took %.1f minutes"
          % ((spent + time.time() - began) / 60))


def perplexity(model, tokens):
    """Non-overlapping windows of CONTEXT tokens, tail dropped, positions
    1 .. CONTEXT-1 of each scored.  Returns (perplexity, tokens scored)."""
    import torch
    count = len(tokens) // CONTEXT
    rows = torch.from_numpy(tokens[:count * CONTEXT].astype(np.int64)
                            ).view(count, CONTEXT)
    total = 0.0
    with torch.no_grad():
        for i in range(0, count, 16):
            r = rows[i:i + 16]
            total += model.loss(r[:, :-1], r[:, 1:], reduction="sum").item()
    return math.exp(total / (count * (CONTEXT - 1))), count * (CONTEXT - 1)


# ---------------------------------------------------------------------------
# Export
# ---------------------------------------------------------------------------

def to_bf16(x):
    """Float32 to the bits of BF16, round to nearest, ties to even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    return (bits >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def export(args, model):
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, p in sorted(model.state_dict().items()):
        data = to_bf16(p.detach().numpy()).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(p.shape),
                        "data_offsets": [at, at + len(data)]}
        at += len(data)
        blobs.append(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    write(os.path.join(args.out, "model.safetensors"),
          struct.pack("<Q", len(head)) + head + b"".join(blobs))
    write(os.path.join(args.out, "config.json"),
          json.dumps(CONFIG, indent=2).encode() + b"\n")
    write(os.path.join(args.out, "generation_config.json"), json.dumps(
        {"bos_token_id": BOS, "eos_token_id": EOS}, indent=2).encode() + b"\n")
    write(os.path.join(args.out, "tokenizer_config.json"), json.dumps(
        {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>",
         "clean_up_tokenization_spaces": False, "eos_token": "</s>",
         "model_max_length": CONTEXT,
         "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"},
        indent=2).encode() + b"\n")
    print("exported %s: %d weights" % (args.out, at // 2), flush=True)


def load_exported(args):
    import torch
    data = read_bytes(os.path.join(args.out, "model.safetensors"))
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    model = build_model(0)
    state = {}
    for name, entry in header.items():
        a, b = entry["data_offsets"]
        bits = np.frombuffer(data[8 + size + a:8 + size + b], np.uint16)
        state[name] = torch.from_numpy(
            from_bf16(bits).reshape(entry["shape"]).copy())
    model.load_state_dict(state)
    return model


# ---------------------------------------------------------------------------
# Evaluation: the model beside n-gram models of the same tokens
# ---------------------------------------------------------------------------

def unigram(train_tokens):
    counts = np.bincount(train_tokens, minlength=VOCAB).astype(np.float64)
    counts += 0.5
    return counts / counts.sum()


def bigram(train_tokens):
    """Interpolated modified Kneser-Ney; returns a VOCAB x VOCAB table."""
    t = train_tokens.astype(np.int64)
    c = np.bincount(t[:-1] * VOCAB + t[1:], minlength=VOCAB * VOCAB)
    c = c.reshape(VOCAB, VOCAB).astype(np.float64)
    n = [float((c == k).sum()) for k in range(1, 5)]
    y = n[0] / (n[0] + 2 * n[1])
    d = [1 - 2 * y * n[1] / n[0], 2 - 3 * y * n[2] / n[1],
         3 - 4 * y * n[3] / n[2]]
    discount = np.select([c == 0, c == 1, c == 2], [0.0, d[0], d[1]], d[2])
    # Lower order: in how many contexts a token occurs, itself discounted and
    # interpolated with the uniform distribution.
    kinds = (c > 0).sum(0).astype(np.float64)
    lower = np.maximum(kinds - 0.5, 0) / kinds.sum()
    lower += (1 - lower.sum()) / VOCAB
    total = c.sum(1)
    held_back = discount.sum(1)
    seen = total > 0
    table = np.empty_like(c)
    table[~seen] = lower
    table[seen] = ((c - discount)[seen] + held_back[seen, None] * lower) \
        / total[seen, None]
    return table


def evaluate(args):
    import torch
    torch.set_num_threads(args.threads)
    train_tokens = np.load(os.path.join(args.work, "train.npy"))
    tokens = np.load(os.path.join(args.work, "eval.npy"))
    model = load_exported(args)
    weights = sum(p.numel() for p in model.parameters())
    count = len(tokens) // CONTEXT
    rows = tokens[:count * CONTEXT].astype(np.int64).reshape(count, CONTEXT)
    before, after = rows[:, :-1].ravel(), rows[:, 1:].ravel()
    size = len(read_bytes(os.path.join(args.out, "eval.txt")))
    per_byte = len(tokens) / size

    results = [
        ("unigram", -np.log(unigram(train_tokens)[after]).mean()),
        ("bigram, Kneser-Ney",
         -np.log(bigram(train_tokens)[before, after]).mean())]
    ppl, scored = perplexity(model, tokens)
    results.append(("this model, BF16 weights", math.log(ppl)))
    print("%d weights; held-out text: %d bytes, %d tokens, %d windows of %d, "
          "%d tokens scored" % (weights, size, len(tokens), count, CONTEXT,
                                scored))
    print("%-26s %10s %12s %10s" % ("", "perplexity", "nats/token",
                                    "bits/byte"))
    for name, nats in results:
        print("%-26s %10.3f %12.4f %10.4f"
              % (name, math.exp(nats), nats, nats * per_byte / math.log(2)))
    for name in sorted(os.listdir(args.out)):
        data = read_bytes(os.path.join(args.out, name))
        print("%s  %8d  %s" % (hashlib.sha256(data).hexdigest(), len(data),
                               name))
    sample(args, model, load_tokenizer(args))


def sample(args, model, tokenizer):
    import torch
    generator = torch.Generator().manual_seed(args.seed)
    for prompt in ("ROMEO:\n", "And it came to pass", "Elizabeth was"):
        ids = tokenizer.encode(prompt).ids
        with torch.no_grad():
            while len(ids) < 80:
                logits = model(torch.tensor([ids]))[0, -1] / 0.7
                kept = logits.topk(40)
                pick = torch.multinomial(kept.values.softmax(0), 1,
                                         generator=generator)
                ids.append(int(kept.indices[pick]))
        print("---\n" + tokenizer.decode(ids))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--shakespeare", metavar="PATH",
        default=os.path.join(ROOT, "../shared/data/text/shakespeare.txt"),
        help="plain text of Shakespeare (default: "
             "../shared/data/text/shakespeare.txt beside the checkout)")
    add("--work", metavar="DIR", default=os.path.join(ROOT, "build/folio-4M"),
        help="packages, tokens and training state (default: build/folio-4M)")
    add("--out", metavar="DIR", default=os.path.join(ROOT, "models/folio-4M"),
        help="the model's folder (default: models/folio-4M)")
    add("--steps", type=int, default=3200)
    add("--decay", type=int, default=1000,
        help="steps at the end over which the learning rate goes down")
    add("--batch", type=int, default=16, help="windows in a step")
    add("--lr", type=float, default=2e-3)
    add("--warmup", type=int, default=100)
    add("--weight-decay", type=float, default=0.1)
    add("--seed", type=int, default=1623)
    add("--threads", type=int, default=2,
        help="processes to train with, threads to evaluate with")
    add("--early", type=int, default=0, metavar="STEP",
        help="also export after this step")
    add("--no-bf16", dest="bf16", action="store_false",
        help="matrix products in float32 (slower)")
    add("--resume", action="store_true", help="go on from the saved state")
    add("--prepare", action="store_true", help="text and tokenizer only")
    add("--train", action="store_true", help="training only")
    add("--evaluate", action="store_true", help="measure --out only")
    args = parser.parse_args()
    args.work, args.out = os.path.abspath(args.work), os.path.abspath(args.out)
    os.makedirs(args.work, exist_ok=True)
    everything = not (args.prepare or args.train or args.evaluate)
    if args.prepare or everything:
        prepare_text(args)
        train_tokenizer(args)
        tokenize(args)
    if args.train or everything:
        train(args)
    if args.evaluate or everything:
        evaluate(args)


if __name__ == "__main__":
    sys.exit(main())
