#!/usr/bin/env python3
"""Write the golden data that the C tests compare against.

    make-golden.py tokenizer       tests/golden/tokenizer/
    make-golden.py logits          tests/golden/logits/ (or the cases named
                                   after it; new ones go last in the table)
    make-golden.py comparison      tests/golden/comparison/

The C project needs no Python: the files written here are committed, and this
script runs only when a case is added.  Nothing is downloaded.  Every tokenizer
is trained on the text below and every model has random weights from a fixed
seed, so a second run with the same package versions writes the same bytes:

tokenizer   tokenizers 0.22.2
            (0.20 to 0.22 agree on every case.  From 0.23 on, decode() gives
            the normalized text of added tokens marked `normalized` and no
            longer skips them when they are special; those are refused here.)
logits      torch 2.15.0, transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6
            (this transformers wants tokenizers 0.23, so the two groups need
            two virtual environments)
comparison  as logits; its statistics are numpy's alone

What is written:

tokenizer/<name>.json          a small tokenizer in the Hugging Face format
tokenizer/<name>.cases.json    [{text, ids_with_special, ids, decoded,
                                 decoded_skip}, ...]
                               ids            encode, add_special_tokens=False
                               ids_with_special  ... =True
                               decoded        decode(ids)
                               decoded_skip   decode(ids) without the tokens
                                              that are marked special
tokenizer/<name>.decode.json   [{ids, decoded, decoded_skip}, ...] for id
                               sequences that no text gives (cut characters,
                               random ids)
tokenizer/shared-<model>.*     the same for the real tokenizers of
                               ../shared/data/models, where that folder
                               exists; the tokenizers themselves stay there

logits/<case>/config.json, model.safetensors
                               a tiny model in the Hugging Face layout
logits/<case>/golden.safetensors
                               input_ids I64 [n], logits F32 [n, vocab] of one
                               forward pass over all n tokens in float32, and
                               in some cases greedy I64 [16]: the greedy
                               continuation of the first 8 input ids

comparison/rows.safetensors    base, candidate F32 [window, token, vocab]:
                               made-up logits and the same perturbed, some
                               windows more than others; target I64 [window,
                               token]
comparison/rows.json           {all, few: statistics} of all windows, and of
                               the first few, whose errors are by token
comparison/base, candidate     two tiny models in the Hugging Face layout, with
                               a tokenizer of one token per byte
comparison/text.txt, models.json
                               {gptq, llama.cpp: statistics} of the candidate
                               on the text, by its protocol in windows of
                               CONTEXT tokens
"""

import argparse
import json
import random
import re
import shutil
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
SHARED_MODELS = ROOT.parent / "shared" / "data" / "models"

# --------------------------------------------------------------------------
# Tokenizers: training text, components
# --------------------------------------------------------------------------

TRAINING_TEXT = [
    "The miller had three sons, and when he died the eldest got the mill, the "
    "second got the donkey, and the youngest got nothing but the cat.",
    "It's raining again, isn't it? I'll stay, they've gone, we're late, he'd "
    "say so, I'm sure, and you'll see what's what. IT'S NOT WHAT WE'LL DO.",
    "Once upon a time there was a little girl who lived in a house by the sea. "
    "Every morning she walked to the water and looked for shells.",
    "Quantization maps the weights of a model to a small set of values: each "
    "block of weights has one scale, and the error is spread over the block.",
    "In 1984, 365 days and 12 months cost 1,234,567.89 or about 3.14159 times "
    "1000 on 2024-02-29 at 23:59:00.",
    "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n"
    "    if i % 2 == 0:\n        print(i, end=' ')\n",
    "#include <stdio.h>\nint main(void)\n{\n\tprintf(\"hello, world\\n\");\n"
    "\treturn 0;\n}\n",
    "See https://example.org/path/to/page.html?query=value&other=1#part or "
    "write to someone@example.org for more.",
    "Das Mädchen läuft über die Straße und grüßt den Bäcker. "
    "L'été, le garçon mange une crêpe à côté de l'hôtel. "
    "El niño pequeño vio una cigüeña. São Paulo não é longe.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. "
    "Привет, мир! Как дела?",
    "Καλημέρα κόσμε. Η γρήγορη αλεπού.",
    "今天天气很好，我们去公园散步吧。你好，世界！"
    "人工智能模型的压缩。",
    "こんにちは世界。今日はとても良い天気です。カタカナとひらがな。",
    "안녕하세요 세계. 오늘은 날씨가 좋습니다.",
    "مرحبا بالعالم. كيف حالك اليوم؟",
    "नमस्ते दुनिया। आज मौसम अच्छा है।",
    "สวัสดีชาวโลก วันนี้อากาศดี",
    "🙂 😀 👍 ❤️ 🎉 👩‍💻 🇩🇪 — “quotes” … • → €20 ½ ×",
    "a  b   c    d\n\n\ne\t\tf\r\ng",
]

BYTE_TOKENS = [f"<0x{b:02X}>" for b in range(256)]
SP_SPECIAL = ["<unk>", "<s>", "</s>"]

LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern, behavior="Isolated", invert=False):
    kind = "String" if pattern == " " else "Regex"
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior,
            "invert": invert}


def byte_level(add_prefix_space=False, trim_offsets=True, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space,
            "trim_offsets": trim_offsets, "use_regex": use_regex}


def metaspace(prepend_scheme, split):
    return {"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": prepend_scheme, "split": split}


def replace(old, new):
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def sequence(key, *items):
    return {"type": "Sequence", key: list(items)}


def template(before, after=(), ids=None):
    """A TemplateProcessing post-processor: special tokens around the text."""
    single, pair = [], []
    for token in before:
        single.append({"SpecialToken": {"id": token, "type_id": 0}})
    single.append({"Sequence": {"id": "A", "type_id": 0}})
    for token in after:
        single.append({"SpecialToken": {"id": token, "type_id": 0}})
    for item in single:
        ((kind, value),) = item.items()
        second = "B" if kind == "Sequence" else value["id"]
        pair.append({kind: {"id": second, "type_id": 1}})
    return {"type": "TemplateProcessing", "single": single,
            "pair": single + pair,
            "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]}
                               for t in [*before, *after]}}


def added(id, content, special=True, single_word=False, lstrip=False,
          rstrip=False, normalized=False):
    return {"id": id, "content": content, "single_word": single_word,
            "lstrip": lstrip, "rstrip": rstrip, "normalized": normalized,
            "special": special}


def train(texts, pre_tokenizer, size):
    """Byte-pair merges over the texts: (alphabet and merged tokens, merges)."""
    from tokenizers import Tokenizer, models, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizer
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, min_frequency=1, show_progress=False))
    model = json.loads(tok.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, model["merges"]


def train_sp(size, transform=str, across=False):
    """SentencePiece-like: words with a leading ▁, runs of ▁ kept together.

    Tabs and line ends get no token: they fall back to bytes or <unk>.
    across: merges go across words too, so that a wrong split shows."""
    from tokenizers import Regex, pre_tokenizers

    texts = ["▁" + re.sub(r"[ \t\r\n]", "▁", transform(t)) for t in TRAINING_TEXT]
    words = Regex(".+" if across else "▁*[^▁]+|▁+")
    return train(texts, pre_tokenizers.Split(words, "isolated"), size)


def train_bytes(size):
    """Byte-level: all 256 byte characters first, then the merges.

    Words are split at spaces only, more coarsely than the tokenizers below
    split them, so that a split at a wrong place gives other ids."""
    from tokenizers import Regex, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = train(TRAINING_TEXT, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r" ?\S+|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), size)
    return alphabet + [t for t in tokens if t not in alphabet], merges


def bpe(tokens, merges, unk=None, byte_fallback=False, fuse_unk=False,
        ignore_merges=False, merges_as_strings=False):
    assert len(set(tokens)) == len(tokens)
    if merges_as_strings:  # the older form of tokenizer.json
        merges = [" ".join(m) for m in merges]
    return {"type": "BPE", "dropout": None, "unk_token": unk,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": fuse_unk, "byte_fallback": byte_fallback,
            "ignore_merges": ignore_merges,
            "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}


def tokenizer_json(model, added_tokens=(), normalizer=None, pre_tokenizer=None,
                   post_processor=None, decoder=None):
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": list(added_tokens), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": decoder, "model": model}


SP_DECODER = sequence("decoders", replace("▁", " "), {"type": "ByteFallback"},
                      {"type": "Fuse"},
                      {"type": "Strip", "content": " ", "start": 1, "stop": 0})
METASPACE_STEPS = sequence("decoders", {"type": "ByteFallback"},
                           metaspace("first", False))


def build_tokenizers():
    """{name: (tokenizer.json as a dict, extra case texts)}"""
    out = {}
    sp_ids = {t: i for i, t in enumerate(SP_SPECIAL)}
    sp_added = [added(i, t) for i, t in enumerate(SP_SPECIAL)]
    bos = template(["<s>"], ids=sp_ids)
    sp_texts = ["<s>", "</s>", "<s>hello", "<s> hello", "hello</s>",
                "hello</s> world", "a<s>b</s>c", "<s><s></s>", " <s> ",
                "<unk>", "text <unk> text", "<0x41>", "<0x0A>x", "▁", "▁▁a",
                "a▁b", " ▁ ", "\n", "\n\n", "\na", "a\n b", "<s", "< s>",
                "<S>", "x</s>\n y"]

    # Llama 2 as converted: the normalizer does the work, no pre-tokenizer.
    tokens, merges = train_sp(700)
    sp_tokens = SP_SPECIAL + BYTE_TOKENS + tokens
    sp_model = bpe(sp_tokens, merges, unk="<unk>", byte_fallback=True,
                   fuse_unk=True, merges_as_strings=True)
    prepend = {"type": "Prepend", "prepend": "▁"}
    out["sp"] = tokenizer_json(
        sp_model, sp_added, decoder=SP_DECODER, post_processor=bos,
        normalizer=sequence("normalizers", prepend, replace(" ", "▁"))), sp_texts

    # Metaspace, as newer conversions write it.
    tokens, merges = train_sp(700, across=True)
    across_tokens = SP_SPECIAL + BYTE_TOKENS + tokens
    across_model = bpe(across_tokens, merges, unk="<unk>", byte_fallback=True,
                       fuse_unk=True)
    out["sp-metaspace"] = tokenizer_json(
        across_model, sp_added, pre_tokenizer=metaspace("first", False),
        decoder=SP_DECODER, post_processor=bos), sp_texts
    out["sp-metaspace-split"] = tokenizer_json(
        across_model, sp_added, pre_tokenizer=metaspace("always", True),
        decoder=metaspace("always", True),
        post_processor=template(["<s>"], ["</s>"], sp_ids)), sp_texts
    out["sp-metaspace-never"] = tokenizer_json(
        across_model, sp_added, pre_tokenizer=metaspace("never", True),
        decoder=sequence("decoders", {"type": "ByteFallback"},
                         metaspace("never", True)),
        post_processor=bos), sp_texts

    # Gemma: spaces replaced, nothing prepended, a split that never splits.
    out["gemma"] = tokenizer_json(
        across_model,
        sp_added + [added(len(across_tokens), "\n\n\n", special=False),
                    added(len(across_tokens) + 1, "<start_of_turn>")],
        normalizer=replace(" ", "▁"),
        pre_tokenizer=split(" ", "MergedWithPrevious"), post_processor=bos,
        decoder=sequence("decoders", replace("▁", " "),
                         {"type": "ByteFallback"}, {"type": "Fuse"}),
    ), sp_texts + ["<start_of_turn>user\nhi", "a\n\n\nb", "\n\n\n\n"]

    # GPT-2.
    tokens, merges = train_bytes(800)
    end = "<|endoftext|>"
    gpt2_model = bpe(tokens + [end], merges, merges_as_strings=True)
    end_added = [added(len(tokens), end)]
    gpt2_texts = [end, f"a{end}b", f" {end} ", f"a {end} b", f"{end}{end}",
                  "<|endoftext", f"it's{end}'s"]
    out["gpt2"] = tokenizer_json(
        gpt2_model, end_added, pre_tokenizer=byte_level(),
        post_processor=byte_level(trim_offsets=False),
        decoder=byte_level(True)), gpt2_texts
    out["gpt2-prefix"] = tokenizer_json(
        gpt2_model, end_added, pre_tokenizer=byte_level(add_prefix_space=True),
        post_processor=byte_level(True), decoder=byte_level(True)), gpt2_texts

    # StarCoder: single digits, then GPT-2's split.
    out["digits-bytelevel"] = tokenizer_json(
        gpt2_model, end_added,
        pre_tokenizer=sequence("pretokenizers",
                               {"type": "Digits", "individual_digits": True},
                               byte_level()),
        decoder=byte_level(True)), gpt2_texts

    # Llama 3.  ignore_merges: a word that is a token is taken whole, also
    # where no merges lead to it, as for the words added here.  The second
    # row shows where the pattern splits: (?i:'s) also matches 'ſ (U+017F),
    # U+0085 is white space, U+180E is not.
    tokens, merges = train_bytes(800)
    tokens += ["Ġunmerged", "zqxj", "739", "ĠÂ¼"]
    tokens += ["'Å¿", "'Å¿x", "Âħb", "ÂħÂħ", "ÂħÂħb", "áłİ", "áłİĠ"]
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
               "<|end_header_id|>", "<|eot_id|>"]
    ids = {t: len(tokens) + i for i, t in enumerate(special)}
    out["llama3"] = tokenizer_json(
        bpe(tokens, merges, ignore_merges=True),
        [added(ids[t], t) for t in special],
        pre_tokenizer=sequence("pretokenizers", split(LLAMA3_REGEX),
                               byte_level(use_regex=False)),
        post_processor=sequence("processors", byte_level(True, False),
                                template(special[:1], ids=ids)),
        decoder=byte_level(True),
    ), ["<|begin_of_text|>", "<|start_header_id|>user<|end_header_id|>\n\n"
        "Hello there!<|eot_id|>", " unmerged words", "unmerged", "zqxj zqxjk", " ¼",
        "739 7391 1739", "1 12 123 1234 12345", " ½", "HE'LL it'S We'Re 'll'LL",
        "<|eot_id|><|eot_id|> ", "!!!\r\n\r\nx", "word\n\n\n  word",
        "   three", "tabs\t\tand  spaces \n", "ſ'ſ it'ſ",
        "it'ſx", "'ſx", "a\u0085\u0085b", "a\u180e b", "a\u180e\u180e  b"]

    # Qwen 2.
    tokens, merges = train_bytes(800)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    ids = {t: len(tokens) + i for i, t in enumerate(special)}
    plain = {"<tool_call>": len(tokens) + 3, "</tool_call>": len(tokens) + 4}
    out["qwen2"] = tokenizer_json(
        bpe(tokens, merges),
        [added(ids[t], t) for t in special]
        + [added(i, t, special=False) for t, i in plain.items()],
        normalizer={"type": "NFC"},
        pre_tokenizer=sequence("pretokenizers", split(QWEN2_REGEX),
                               byte_level(use_regex=False)),
        post_processor=byte_level(trim_offsets=False), decoder=byte_level(),
    ), ["<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
        "<tool_call>\n{\"name\": 1}\n</tool_call>", "e\u0301<|im_end|>e\u0301",
        "\u0301e", "A\u030a\u0301", "\u1100\u1161\u11a8", "\u212b \u2126",
        "q\u0323\u0307 q\u0307\u0323", "\u0344", "\u0958", "\u2adc"]

    # DeepSeek: several splits one after the other.
    steps = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"]
    tokens, merges = train_bytes(700)
    out["deepseek"] = tokenizer_json(
        bpe(tokens + [end], merges), [added(len(tokens), end)],
        pre_tokenizer=sequence(
            "pretokenizers", *[split(s) for s in steps],
            {"type": "Digits", "individual_digits": True},
            byte_level(use_regex=False)),
        post_processor=byte_level(trim_offsets=False), decoder=byte_level(),
    ), [end, "one\r\ntwo", "x = y+z; // ok"]

    # Tekken (Mistral NeMo): letter case in the split.
    tokens, merges = train_bytes(700)
    out["tekken"] = tokenizer_json(
        bpe(tokens + ["<s>"], merges, ignore_merges=True),
        [added(len(tokens), "<s>")],
        pre_tokenizer=sequence("pretokenizers", split(TEKKEN_REGEX),
                               byte_level(use_regex=False)),
        post_processor=template(["<s>"], ids={"<s>": len(tokens)}),
        decoder=byte_level(),
    ), ["camelCase HTTPServer XMLHttpRequest", "ǅungla ʰa ªº", "a/b//\n/c",
        "ÉCOLE école École", "ΑΒΓ αβγ Σς", "ЖЖжж"]

    # Unicode normalization before a SentencePiece-like model without byte
    # tokens: what is not in the vocabulary becomes one <unk> per run.
    import unicodedata
    tokens, merges = train_sp(
        600, lambda t: unicodedata.normalize("NFKC", t))
    out["nfkc"] = tokenizer_json(
        bpe(SP_SPECIAL + tokens, merges, unk="<unk>", fuse_unk=True), sp_added,
        normalizer=sequence("normalizers", {"type": "NFKC"}, replace(" ", "▁"),
                            prepend),
        post_processor=bos,
        decoder=sequence("decoders", replace("▁", " "), {"type": "Fuse"},
                         {"type": "Strip", "content": " ", "start": 1,
                          "stop": 0}),
    ), sp_texts + ["ﬁ ﬂ ﬀ", "１２３", "①②③", "ｱｲｳ ｶﾞ", "㎏ ㍿", "x² x₂",
                   "Ⅷ", "\u00a0a\u2003b", "\ufdfa", "\u1e9b\u0323", "a\u0301\u0328"]

    # Strip, decompose, remove accents, lowercase; <unk> for each character.
    tokens, merges = train_sp(450, lambda t: "".join(
        c for c in unicodedata.normalize("NFD", t)
        if unicodedata.category(c) != "Mn").lower())
    lower_texts = ["  Both Sides  ", "\t\nX\n", "ÀÉÎÕÜ", "İstanbul", "ΣΊΣΥΦΟΣ",
                   "ß ẞ", "ǅ ǆ Ǆ", "\u00a0x\u00a0", "e\u0301\u0327", "≠ ≮"]
    out["lower"] = tokenizer_json(
        bpe(SP_SPECIAL + tokens, merges, unk="<unk>"), sp_added,
        normalizer=sequence(
            "normalizers",
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
        pre_tokenizer=metaspace("always", True), post_processor=bos,
        decoder=metaspace("always", True)), sp_texts + lower_texts
    # The same without an unknown token: characters outside are dropped.
    out["drop"] = tokenizer_json(
        bpe(SP_SPECIAL + tokens, merges), sp_added,
        normalizer=sequence("normalizers", {"type": "NFKD"},
                            {"type": "Lowercase"}),
        pre_tokenizer=metaspace("always", True),
        decoder=metaspace("always", True)), lower_texts

    # Splits on digits, punctuation and white space; the spaces are lost.
    from tokenizers import pre_tokenizers
    tokens, merges = train(TRAINING_TEXT, pre_tokenizers.WhitespaceSplit(), 700)
    words = bpe(["<unk>"] + tokens, merges, unk="<unk>")
    punct_texts = ["a,b.c!d?", "(x)[y]{z}", "«a» “b” ‘c’", "a_b-c", "$5 +3 <4>",
                   "।॥", "、。！", "٣٤٥ ५६ ½ Ⅷ ²", "12ab34", "a\u00a0b", "...",
                   "a\u200bb"]
    out["punct-digits"] = tokenizer_json(
        words, [added(0, "<unk>")],
        pre_tokenizer=sequence(
            "pretokenizers", {"type": "Digits", "individual_digits": True},
            {"type": "Punctuation", "behavior": "Isolated"},
            {"type": "WhitespaceSplit"})), punct_texts
    out["whitespace"] = tokenizer_json(
        words, [added(0, "<unk>")],
        pre_tokenizer=sequence(
            "pretokenizers", {"type": "Whitespace"},
            {"type": "Digits", "individual_digits": False})), punct_texts

    # Added tokens, byte-level, all flags.
    tokens, merges = train_bytes(600)
    n = len(tokens)
    variants = [
        added(n + 0, "<plain>", special=False),
        added(n + 1, "<left>", lstrip=True),
        added(n + 2, "<right>", rstrip=True),
        added(n + 3, "<both>", lstrip=True, rstrip=True, special=False),
        added(n + 4, "word", single_word=True, special=False),
        added(n + 5, "Norm", normalized=True, special=False),
        added(n + 6, "<RAW>", special=False),
        added(n + 7, "<plain><long>", special=False),
        added(n + 8, "  ", special=False),
        added(n + 9, "\u00c9t\u00e9", normalized=True, special=False),
        added(n + 10, "[SEP]", special=True, normalized=True),
        added(n + 11, "strip", normalized=True, lstrip=True, rstrip=True,
              single_word=True, special=False),
    ]
    added_texts = [
        "<plain>", "a<plain>b", "a <plain> b", "a <left> b", "a  \t\n<left>b",
        "a <right> b", "a<right> \t\n b", "x  <both>  y", "<both><both>",
        " <both> <both> ", "<left> <right>", "<right> <left>", "word",
        "a word b", "words", "sword", "word.", "word_", "wordé", "(word)",
        "word1", "word word", "wordword", "é word", "<plain>word<plain>",
        "Norm", "norm", "NORM", "a norm b", "xNormx", "<RAW>", "<raw>",
        "<plain><long>", "<plain><plain><long>", "<plain><lon>", "a  b",
        "a   b", "    ", "Été", "été", "E\u0301te\u0301", "ÉTÉ", "[SEP]",
        "[sep]", "a [SEP] b", "a strip b", "strip strip", "  STRIP  ",
        "astrip", "strip-", "<left", "<pla<plain>in>", "it's<plain>'s",
    ]
    out["added"] = tokenizer_json(
        bpe(tokens, merges), variants,
        normalizer=sequence("normalizers", {"type": "NFC"},
                            {"type": "Lowercase"}),
        pre_tokenizer=byte_level(), decoder=byte_level()), added_texts

    # Added tokens, SentencePiece-like, with both ways of adding ▁.
    n = len(sp_tokens)
    variants = sp_added + [
        added(n + 0, "<plain>", special=False),
        added(n + 1, "<left>", lstrip=True),
        added(n + 2, "<right>", rstrip=True, special=False),
        added(n + 3, "<both>", lstrip=True, rstrip=True, normalized=True),
        added(n + 4, "word", single_word=True, special=False),
        added(n + 5, "Norm", normalized=True, special=False),
        added(n + 6, "two words", normalized=True, special=False),
        added(n + 7, "raw words", special=False),
        added(n + 8, "<norm>", normalized=True),
    ]
    sp_texts2 = sp_texts + added_texts + [
        "two words", "a two words b", "raw words", "a raw words b", "<norm>",
        "<norm> a <norm>", "a<norm>b", " <norm>", "Norm Norm", " Norm"]
    out["added-sp"] = tokenizer_json(
        sp_model, variants, decoder=SP_DECODER, post_processor=bos,
        normalizer=sequence("normalizers", prepend, replace(" ", "▁"))), sp_texts2
    out["added-metaspace"] = tokenizer_json(
        sp_model, variants, pre_tokenizer=metaspace("first", False),
        decoder=METASPACE_STEPS, post_processor=bos), sp_texts2
    return out


# --------------------------------------------------------------------------
# Tokenizers: cases
# --------------------------------------------------------------------------

TEXTS = [
    "", " ", "  ", "   ", "    ", "\t", "\n", "\r\n", "\n\n", " \n ", "\t\t\n\t",
    "a", " a", "a ", "  a  ", "Hello, world!", " Hello,  world! ",
    "The quick brown fox jumps over the lazy dog.",
    "the cat sat on the mat and the cat saw the other cat",
    "line one\nline two\r\nline three\rline four\n",
    "a\tb\t\tc", "many     spaces          here", "trailing spaces   ",
    "   leading spaces", "x\n\n\n\ny", "x \n \n y", "end\n", "end \n",
    "it's we're I'll they've he'd I'm can't", "IT'S WE'RE I'LL THEY'VE HE'D I'M",
    "'s 'LL 'x '' 'S's", "don’t it’s", "rock 'n' roll", "MiXeD cAsE ABCdef",
    "1", "12", "123", "1234567", "3.14159", "1,234,567.89", "2024-02-29", "0x1F",
    "abc123def456", "x1y2z3", "１２３４５", "٣٤٥", "५६७", "Ⅷ ½ ² ①",
    "https://example.org/a/b?c=d&e=%20#f", "someone+tag@example.org",
    "def f(x):\n    if x:\n        return x ** 2\n\treturn None\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }  // sum\n",
    "{\"key\": [1, 2.5e-3, null], \"s\": \"a\\nb\"}", "<html><b>x</b></html>",
    "!!! ??? ... --- *** ### @@@ $$$ %%% ^^^ &&&", "a.b,c;d:e", "(a)[b]{c}",
    "“quoted” ‘single’ «guillemets» — – … • ·", "€20 £5 ¥100 ¢ ₹",
    "naïve café Zürich Łódź", "e\u0301", "cafe\u0301 re\u0301sume\u0301",
    "a\u0300\u0301\u0302\u0303", "\u0301", " \u0301x", "ﬁne ﬂow oﬀice", "Å Å Å",
    "Straße STRASSE ẞ", "İi Iı", "ΟΔΥΣΣΕΎΣ οδυσσεύς", "Привет, мир!",
    "你好，世界！今天天气很好。", "我们 去 公园", "龘𠮷𪚥",
    "こんにちは世界。カタカナ ひらがな", "ｶﾀｶﾅ ガギグ か\u3099",
    "안녕하세요 세계", "\u1112\u1161\u11ab\u1100\u1173\u11af", "ㅋㅋㅋ",
    "مرحبا بالعالم", "مَرْحَبًا", "שָׁלוֹם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "தமிழ்", "🙂", "🙂🙂", "a🙂b", "👍🏽", "👩‍👩‍👧‍👦", "👩🏻‍💻", "🇩🇪🇫🇷", "❤️ ❤", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "\ufffd", "a\ufffdb", "\ue000", "\U000f0000", "\U0010ffff", "\uffff", "\u0001\u001f\u007f",
    "\u0080\u0085\u009f", "x\u0085y", "\u00a0", "a\u00a0b", "\u00ad", "\u200b",
    "a\u200bb", "a\u200c\u200db", "\u2028", "a\u2028b\u2029c", "\ufeff",
    "\ufeffBOM", "\u3000", "a\u3000b", "\u2003\u2009\u202f", "\u180e", "\u000b\u000c",
    "a\u000bb\u000cc", "\u202eabc\u202c", "Z̡͖̜̺a͜ḷ̦g̴o", "𝐛𝐨𝐥𝐝 𝕕𝕠𝕦𝕓𝕝𝕖", "Ωmega Ω", "㎏㍿",
    "_under_score_ __init__", "snake_case camelCase PascalCase kebab-case",
    "~/path/to\\file.txt C:\\Users\\x", "\\n \\t \\u0041", "a" * 3000,
    " " * 100, "\n" * 33, "ab" * 200, "the " * 100, "12" * 50, "é" * 60, "🙂" * 30,
    "\u001c\u001dx", "x\u0085\u0085y", "½²Ⅷ٣1", "x۔‿€°", "a\u0903\u20dd\u0488",
    "!" * 70, "Weights of the model are small values, 4 bits each: it's 8x less.",
]


def case(tok, text):
    ids = tok.encode(text, add_special_tokens=False).ids
    return {"text": text, "ids_with_special": tok.encode(text).ids, "ids": ids,
            "decoded": tok.decode(ids, skip_special_tokens=False),
            "decoded_skip": tok.decode(ids, skip_special_tokens=True)}


def decode_sequences(tok, seed):
    """Id sequences that test the decoder: cut characters and random ids."""
    out = [[]]
    for text in ["🙂é", "日本語", "a b", "  x"]:
        ids = tok.encode(text, add_special_tokens=False).ids
        out += [ids[i:j] for i in range(len(ids)) for j in range(i + 1, len(ids))]
    rng = random.Random(seed)
    size = tok.get_vocab_size()
    out += [[rng.randrange(size) for _ in range(rng.randrange(1, 12))]
            for _ in range(40)]
    out += [[i] for i in range(0, size, 17)]
    # Bytes in a row: valid and broken UTF-8.
    vocab = tok.get_vocab()
    for data in [b"\xe2\x82\xac", b"\xe2\x82", b"\xff\xfe", b"a\xe2\x82b",
                 b"\xf0\x9f\x99\x82\xf0\x9f", b"\x80\x41\xc3\xa9\xc3",
                 b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b" \xe2 ",
                 b"\x20\x20", b"\n\x00"]:
        names = [f"<0x{b:02X}>" for b in data]
        if names[0] not in vocab:
            names = byte_characters(data)
        if all(n in vocab for n in names):
            out.append([vocab[n] for n in names])
    return out


def byte_characters(data):
    """GPT-2's printable character for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(256 + rest.index(b)) for b in data]


def write_lines(path, items):
    """A JSON array with one item per line."""
    lines = ",\n".join(json.dumps(i, ensure_ascii=False, separators=(",", ":"))
                       for i in items)
    path.write_text("[\n" + lines + "\n]\n", encoding="utf-8", newline="\n")


def write_cases(folder, name, tok, texts):
    write_lines(folder / f"{name}.cases.json", [case(tok, t) for t in texts])
    write_lines(folder / f"{name}.decode.json", [
        {"ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False),
         "decoded_skip": tok.decode(ids, skip_special_tokens=True)}
        for ids in decode_sequences(tok, zlib.crc32(name.encode()))])


def make_tokenizers():
    import tokenizers
    from tokenizers import Tokenizer

    if int(tokenizers.__version__.split(".")[1]) > 22:
        raise SystemExit("error: needs tokenizers 0.20 to 0.22, see --help")
    folder = GOLDEN / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, texts) in build_tokenizers().items():
        # One line per top-level key keeps the file small and still readable.
        body = ",\n".join(
            f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, separators=(',', ':'))}"
            for k, v in data.items())
        path = folder / f"{name}.json"
        path.write_text("{\n" + body + "\n}\n", encoding="utf-8", newline="\n")
        tok = Tokenizer.from_file(str(path))
        for token in data["added_tokens"]:
            assert tok.token_to_id(token["content"]) == token["id"], token
        write_cases(folder, name, tok, TEXTS + texts)

    for model in ["TinyStories-656K", "stories260K", "wiki-6M"]:
        path = SHARED_MODELS / model / "tokenizer.json"
        if not path.exists():
            print(f"skipped: shared tokenizer of {model} (not here)")
            continue
        tok = Tokenizer.from_file(str(path))
        special = [t["content"] for t in
                   json.loads(path.read_text(encoding="utf-8"))["added_tokens"]]
        texts = [f(t) for t in special for f in (
            str, "a{}b".format, "a {} b".format, " {}".format, "{}\n".format)]
        write_cases(folder, f"shared-{model}", tok, TEXTS + texts)


# --------------------------------------------------------------------------
# Logits
# --------------------------------------------------------------------------

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "rope_scaling": None, "max_position_embeddings": 128,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
}
# Two heads of 16: eight frequencies, so that scaled ranges show.
WIDE_HEAD = {"num_attention_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 48}
MISTRAL = {**{k: v for k, v in LLAMA.items()
              if k not in ("attention_bias", "mlp_bias", "rope_scaling")},
           "architectures": ["MistralForCausalLM"], "model_type": "mistral",
           "sliding_window": 8}
QWEN2 = {**{k: v for k, v in LLAMA.items()
            if k not in ("attention_bias", "mlp_bias", "rope_scaling")},
         "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
         "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
         "sliding_window": 8, "use_sliding_window": False,
         "max_window_layers": 2}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
         "head_dim": 16, "attention_bias": False, "sliding_window": None,
         "rope_scaling": None}

GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 97, "max_position_embeddings": 256,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 24, "sliding_window": 8,
    "sliding_window_pattern": 3, "rope_theta": 10000.0,
    "rope_local_base_freq": 50.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "torch_dtype": "float32"}
GEMMA2 = {**{k: v for k, v in GEMMA3.items()
             if k not in ("sliding_window_pattern", "rope_local_base_freq",
                          "rope_scaling")},
          "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
PHI3 = {**{k: v for k, v in LLAMA.items()
           if k not in ("attention_bias", "mlp_bias", "rope_scaling")},
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "sliding_window": None, "pad_token_id": 0,
        "original_max_position_embeddings": 128}
OLMO2 = {**{k: v for k, v in LLAMA.items() if k != "mlp_bias"},
         "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"}
STABLELM = {**{k: v for k, v in LLAMA.items()
               if k not in ("attention_bias", "mlp_bias", "rms_norm_eps")},
            "architectures": ["StableLmForCausalLM"], "model_type": "stablelm",
            "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5,
            "use_qkv_bias": True, "use_parallel_residual": False,
            "qk_layernorm": False}

MIXTRAL = {**{k: v for k, v in LLAMA.items()
              if k not in ("attention_bias", "mlp_bias", "rope_scaling")},
           "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
           "intermediate_size": 24, "num_local_experts": 5,
           "num_experts_per_tok": 2, "sliding_window": None}
QWEN2_MOE = {**QWEN2, "architectures": ["Qwen2MoeForCausalLM"],
             "model_type": "qwen2_moe", "num_experts": 6,
             "num_experts_per_tok": 3, "moe_intermediate_size": 24,
             "shared_expert_intermediate_size": 40, "norm_topk_prob": False,
             "decoder_sparse_step": 1, "mlp_only_layers": []}
QWEN3_MOE = {**QWEN3, "architectures": ["Qwen3MoeForCausalLM"],
             "model_type": "qwen3_moe", "num_experts": 12,
             "num_experts_per_tok": 4, "moe_intermediate_size": 16,
             "norm_topk_prob": True, "decoder_sparse_step": 1,
             "mlp_only_layers": []}

NEOX = {
    "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox",
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "vocab_size": 97, "hidden_act": "gelu",
    "layer_norm_eps": 1e-5, "max_position_embeddings": 128,
    "rotary_pct": 0.25, "rotary_emb_base": 500.0,
    "use_parallel_residual": True, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}

GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160, "n_inner": None,
    "vocab_size": 97, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
    "torch_dtype": "float32"}


def rope(theta=500.0, **scaling):
    return {"rope_theta": theta, "rope_scaling": scaling}


# name: (config.json, number of tokens, options)
LOGITS = {
    "llama": (LLAMA, 40, {"greedy": True}),
    "llama-tied": ({**LLAMA, "tie_word_embeddings": True, "vocab_size": 101,
                    "num_key_value_heads": 4, "intermediate_size": 56}, 32, {}),
    "llama-bias": ({**LLAMA, "attention_bias": True, "mlp_bias": True,
                    "num_key_value_heads": 1}, 32, {}),
    "llama-headdim": ({**LLAMA, "head_dim": 12, "rms_norm_eps": 1e-2}, 32, {}),
    "llama-rope-linear": (
        {**LLAMA, **WIDE_HEAD, **rope(type="linear", factor=4.0)}, 32, {}),
    "llama-rope-dynamic": (
        {**LLAMA, **WIDE_HEAD, **rope(type="dynamic", factor=2.0),
         "max_position_embeddings": 16}, 40, {}),
    "llama-rope-dynamic-short": (  # inside the trained length: no scaling
        {**LLAMA, **WIDE_HEAD, **rope(rope_type="dynamic", factor=2.0),
         "max_position_embeddings": 64}, 24, {}),
    "llama-rope-llama3": (
        {**LLAMA, **WIDE_HEAD, **rope(
            theta=10000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=64),
         "max_position_embeddings": 512}, 48, {}),
    "llama-rope-yarn": (
        {**LLAMA, **WIDE_HEAD, **rope(
            theta=10000.0, rope_type="yarn", factor=4.0,
            original_max_position_embeddings=16),
         "max_position_embeddings": 64}, 48, {}),
    "llama-rope-yarn-beta": (
        {**LLAMA, **WIDE_HEAD, **rope(
            theta=50.0, rope_type="yarn", factor=4.0, attention_factor=0.8,
            beta_fast=2.0, beta_slow=0.125, original_max_position_embeddings=16),
         "max_position_embeddings": 64}, 48, {}),
    "llama-rope-yarn-mscale": (
        {**LLAMA, **WIDE_HEAD, **rope(
            theta=50.0, rope_type="yarn", factor=8.0, mscale=1.5,
            mscale_all_dim=0.5, beta_fast=3.0, beta_slow=0.2, truncate=False,
            original_max_position_embeddings=12),
         "max_position_embeddings": 96}, 48, {}),
    "mistral": (MISTRAL, 32, {"greedy": True}),
    "qwen2": (QWEN2, 32, {}),
    "qwen2-sliding": ({**QWEN2, "num_hidden_layers": 3, "use_sliding_window": True,
                       "max_window_layers": 1, "intermediate_size": 48,
                       "tie_word_embeddings": True}, 32, {}),
    "qwen3": (QWEN3, 40, {"greedy": True}),
    "llama-sharded": (LLAMA, 32, {"shards": 3}),
    "llama-f16": ({**LLAMA, "torch_dtype": "float16"}, 32, {}),
    "llama-bf16": ({**LLAMA, "torch_dtype": "bfloat16"}, 32, {}),
    # config.json as current library versions write it: rope_parameters, dtype
    "llama-rope-parameters": (
        {**LLAMA, **WIDE_HEAD, **rope(
            theta=10000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0,
            high_freq_factor=4.0, original_max_position_embeddings=64),
         "max_position_embeddings": 512}, 32, {"rewrite_config": True}),
    "gemma3": (GEMMA3, 40, {"greedy": True}),
    # Inside the window of 8; the scalar that GGUF takes for granted.
    "gemma3-short": ({**GEMMA3, "query_pre_attn_scalar": 16}, 6, {}),
    "gemma3-parameters": (
        {**GEMMA3, "final_logit_softcapping": 3.0, "attention_bias": True,
         "torch_dtype": "bfloat16"}, 24, {"rewrite_config": True}),
    "gemma2": (GEMMA2, 40, {"greedy": True}),
    # The scalar that GGUF takes for granted.
    "gemma2-plain": ({**GEMMA2, "query_pre_attn_scalar": 16}, 24, {}),
    "phi3": ({**PHI3, "sliding_window": 8}, 40, {"greedy": True}),
    "phi3-long": (  # beyond the original context: the long factors
        {**PHI3, **WIDE_HEAD, "partial_rotary_factor": 0.75,
         "original_max_position_embeddings": 16,
         "rope_scaling": {"type": "longrope",
                          "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                          "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 8.0]}},
        40, {}),
    "phi3-short": (  # within it: the short ones
        {**PHI3, **WIDE_HEAD, "partial_rotary_factor": 0.75,
         "tie_word_embeddings": True, "original_max_position_embeddings": 32,
         "rope_scaling": {"type": "longrope",
                          "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                          "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 8.0]}},
        24, {}),
    "olmo2": (OLMO2, 32, {"greedy": True}),
    "stablelm": (STABLELM, 32, {"greedy": True}),
    "mixtral": (MIXTRAL, 32, {"greedy": True}),
    "qwen2-moe": (QWEN2_MOE, 32, {"greedy": True}),
    "qwen3-moe": (QWEN3_MOE, 32, {"greedy": True}),
    "neox": (NEOX, 32, {"greedy": True}),
    "neox-serial": (
        {**NEOX, "num_attention_heads": 4, "use_parallel_residual": False,
         "rotary_pct": 1.0, "hidden_act": "gelu_new", "attention_bias": False,
         "tie_word_embeddings": True, "torch_dtype": "float16"}, 24,
        {"rewrite_config": True}),
    "gpt2": (GPT2, 32, {"greedy": True}),
    # Names as the oldest files have them; no power of two.
    "gpt2-bare": (
        {**GPT2, "n_inner": 48, "n_positions": 150, "torch_dtype": "float16"}, 24,
        {"rewrite_config": True, "bare": True}),
    "stablelm-parallel": (
        {**STABLELM, "use_parallel_residual": True, "use_qkv_bias": False,
         "num_key_value_heads": 4, "partial_rotary_factor": 0.25}, 32,
        {"greedy": True}),
}


def random_weights(model, seed):
    """Weights for every parameter, drawn in the order of the sorted names.

    The spread is chosen so that the logits differ by several units."""
    import numpy as np
    import torch

    out = {}
    for name, old in sorted(model.state_dict().items()):
        if name in ("lm_head.weight", "embed_out.weight") and model.config.tie_word_embeddings:
            continue
        # One generator per tensor: adding a tensor leaves the others alone.
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        if "norm" in name:
            value = rng.uniform(0.5, 1.5, old.shape)
        elif name.endswith(".bias"):
            value = rng.normal(0.0, 0.3, old.shape)
        elif "embed_tokens" in name or "lm_head" in name:
            value = rng.normal(0.0, 0.4, old.shape)
        else:
            value = rng.normal(0.0, 1.5 / old.shape[-1] ** 0.5, old.shape)
        out[name] = torch.tensor(value.astype(np.float32))
    return out


def as_stored(weights, config):
    """The names and matrices of checkpoints: in memory this transformers holds
    all experts of a layer in one tensor, the gates above the ups."""
    mixtral = config["model_type"] == "mixtral"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    out = {}
    for name, value in weights.items():
        if config["model_type"] == "gpt_neox" and name == "lm_head.weight":
            name = "embed_out.weight"
        if mixtral:
            name = name.replace(".mlp.", ".block_sparse_moe.")
        base, _, last = name.rpartition(".")
        for expert in range(len(value) if base.endswith(".experts") else 0):
            matrix = value[expert]
            half = len(matrix) // 2
            parts = ({down: matrix} if last == "down_proj" else
                     {gate: matrix[:half], up: matrix[half:]})
            for part, rows in parts.items():
                out[f"{base}.{expert}.{part}.weight"] = rows.clone()
        if not base.endswith(".experts"):
            out[name] = value
    return out


def save_weights(folder, weights, shards):
    from safetensors.torch import save_file

    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return
    names = sorted(weights)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    where = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        save_file({n: weights[n] for n in names if where[n] == file},
                  folder / file, {"format": "pt"})
    total = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": where})


def write_json(path, data):
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8", newline="\n")


def greedy(model, ids, steps):
    """Greedy continuation by whole forward passes, no key/value cache."""
    import torch

    out = []
    for _ in range(steps):
        logits = model(input_ids=torch.tensor([ids + out])).logits[0, -1]
        top = logits.topk(2).values
        assert top[0] - top[1] > 1e-3, "a tie: choose another seed"
        out.append(int(logits.argmax()))
    return out


def make_logits(cases):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for number, (name, (config, n, options)) in enumerate(LOGITS.items()):
        if cases and name not in cases:
            continue
        folder = GOLDEN / "logits" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config)

        blank = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        weights = as_stored(random_weights(blank, seed=1000 + number), config)
        if options.get("bare"):
            weights = {k.removeprefix("transformer."): v for k, v in weights.items()}
        dtype = getattr(torch, config["torch_dtype"])
        save_weights(folder, {k: v.to(dtype) for k, v in weights.items()},
                     options.get("shards", 1))

        # The reference reads the very files that the test will read.
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
        if options.get("rewrite_config"):
            model.config.dtype = torch.float32
            model.config.save_pretrained(folder)

        rng = random.Random(number)
        ids = [1] + [rng.randrange(3, config["vocab_size"]) for _ in range(n - 1)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
            tensors = {"input_ids": torch.tensor(ids), "logits": logits.contiguous()}
            if options.get("greedy"):
                tensors["greedy"] = torch.tensor(greedy(model, ids[:8], 16))
        save_file(tensors, folder / "golden.safetensors")
        print(f"{name}: logits mean {logits.mean():.3f}, "
              f"standard deviation {logits.std():.3f}, max {logits.abs().max():.3f}")


# --------------------------------------------------------------------------
# Comparison: statistics of two models on the same tokens
# --------------------------------------------------------------------------

ROWS = (20, 20, 67)  # windows, tokens of each, vocabulary
FEW = 5              # windows, too few to be samples
CONTEXT = 32         # of the models
WINDOWS_LEAST = 8    # from so many windows on errors are by window
SHARES = {"kld_median": 0.5, "kld_p90": 0.9, "kld_p95": 0.95, "kld_p99": 0.99,
          "kld_p999": 0.999}
DRAWS = 4000         # of the bootstrap here
LIBRARY_DRAWS = 400  # and of the one under test


def log_softmax(x):
    import numpy as np

    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def standard_error(x):
    """Of the mean of x [window, token]: by window, or with few by token."""
    import numpy as np

    samples = x.mean(axis=1) if len(x) >= WINDOWS_LEAST else x.ravel()
    return float(np.std(samples, ddof=1) / np.sqrt(samples.size))


def log_ratio_error(base_nll, nll):
    """From the covariance of both series, not from their difference."""
    import numpy as np

    series = np.stack([base_nll, nll])
    series = (series.mean(axis=2) if len(nll) >= WINDOWS_LEAST
              else series.reshape(2, -1))
    c = np.cov(series)
    return float(np.sqrt((c[0, 0] + c[1, 1] - 2 * c[0, 1]) / series.shape[1]))


def percentile(kld, share, seed):
    """{value, error, noise}: error by resampling windows; noise is what two
    bootstraps of DRAWS and LIBRARY_DRAWS may differ by, relative."""
    import numpy as np

    out = {"value": float(np.percentile(kld, 100 * share)), "error": 0.0, "noise": 0.0}
    windows = len(kld)
    if windows < WINDOWS_LEAST:
        return out
    rng = np.random.Generator(np.random.PCG64(seed))
    taken = kld[rng.integers(0, windows, (DRAWS, windows))].reshape(DRAWS, -1)
    found = np.percentile(taken, 100 * share, axis=1)
    centred = found - found.mean()
    kurtosis = (centred ** 4).mean() / (centred ** 2).mean() ** 2
    out["error"] = float(np.std(found, ddof=1) * np.sqrt(windows / (windows - 1)))
    out["noise"] = float(np.sqrt((kurtosis - 1) / 4 * (1 / DRAWS + 1 / LIBRARY_DRAWS)))
    return out


def statistics(base, candidate, target):
    """All statistics of candidate against base, logits [window, token, vocab]."""
    import numpy as np

    log_p, log_q = log_softmax(base), log_softmax(candidate)
    at = np.expand_dims(target, -1)
    base_nll = -np.take_along_axis(log_p, at, -1)[..., 0]
    nll = -np.take_along_axis(log_q, at, -1)[..., 0]
    kld = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    square = (np.exp(-nll) - np.exp(-base_nll)) ** 2
    same = (base.argmax(-1) == candidate.argmax(-1)).astype(np.float64)
    ppl, base_ppl = float(np.exp(nll.mean())), float(np.exp(base_nll.mean()))
    rms = float(np.sqrt(square.mean()))
    alone = np.std(same, ddof=1) / np.sqrt(same.size)
    above = [10 ** (-i / 12) for i in range(49)]
    out = {
        "windows": len(kld), "tokens_scored": kld.size,
        "by_window": len(kld) >= WINDOWS_LEAST,
        "perplexity": {"value": ppl, "error": ppl * standard_error(nll)},
        "base_perplexity": {"value": base_ppl,
                            "error": base_ppl * standard_error(base_nll)},
        "log_ratio": {"value": float(np.log(ppl / base_ppl)),
                      "error": log_ratio_error(base_nll, nll)},
        "kld": {"value": float(kld.mean()), "error": standard_error(kld)},
        "probability_rms": {"value": rms, "error": standard_error(square) / (2 * rms)},
        "same_top": {"value": float(same.mean()), "error": standard_error(same)},
        "same_top_effective": float(
            same.size * min(1, alone / standard_error(same)) ** 2),
        "kld_max": float(kld.max()),
        "kld_curve": [float(np.percentile(kld, 100 * (1 - a))) for a in above],
        "window_nll": [float(x) for x in nll.mean(axis=1)],
    }
    for seed, (name, share) in enumerate(SHARES.items()):
        out[name] = percentile(kld, share, seed)
    return out


def make_rows(folder):
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.Generator(np.random.PCG64(2026))
    windows, tokens, vocabulary = ROWS
    hardness = rng.uniform(0.5, 1.5, (windows, 1, 1))
    base = 3 / hardness * rng.standard_normal(ROWS)
    change = 0.4 * hardness ** 3 * rng.gamma(1.0, 1.0, (windows, tokens, 1))
    candidate = base + change * rng.standard_normal(ROWS)
    candidate[::3] += 11  # the same distribution
    candidate[2, 4] = base[2, 4]
    base, candidate = base.astype(np.float32), candidate.astype(np.float32)
    p = np.exp(log_softmax(base)).cumsum(axis=-1)
    target = (p < rng.uniform(0, 1, (windows, tokens, 1))).sum(axis=-1)
    target = np.minimum(target, vocabulary - 1).astype(np.int64)
    save_file({"base": base, "candidate": candidate, "target": target},
              folder / "rows.safetensors")
    write_json(folder / "rows.json", {
        "all": statistics(base, candidate, target),
        "few": statistics(base[:FEW], candidate[:FEW], target[:FEW])})


BYTE_LLAMA = {**LLAMA, "vocab_size": 259, "torch_dtype": "float16"}


def byte_tokenizer():
    return tokenizer_json(
        bpe(SP_SPECIAL + BYTE_TOKENS, [], unk="<unk>", byte_fallback=True),
        [added(i, t) for i, t in enumerate(SP_SPECIAL)])


def write_model(folder, weights):
    folder.mkdir()
    write_json(folder / "config.json", BYTE_LLAMA)
    write_json(folder / "tokenizer.json", byte_tokenizer())
    save_weights(folder, weights, 1)


def run_model(folder, ids):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)).logits.numpy()


def make_models(folder):
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    write_json(folder / "config.json", BYTE_LLAMA)
    blank = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    (folder / "config.json").unlink()
    weights = {k: v.half() for k, v in random_weights(blank, seed=7).items()}
    # Layers rounded to steps of 1/32: an error as quantization makes it.
    rounded = {k: (v * 32).round() / 32 if ".layers." in k and "norm" not in k else v
               for k, v in weights.items()}
    write_model(folder / "base", weights)
    write_model(folder / "candidate", rounded)
    text = " ".join(TRAINING_TEXT[:5])
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    ids = np.array([len(SP_SPECIAL) + b for b in text.encode()])
    ids = ids[:len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    base, candidate = (run_model(folder / name, ids) for name in ["base", "candidate"])
    for x in base, candidate:
        top = np.sort(x[:, :-1], axis=-1)[..., -2:]
        assert (top[..., 1] - top[..., 0]).min() > 1e-4, "a tie: choose another seed"
    out = {}
    for protocol, first in {"gptq": 0, "llama.cpp": CONTEXT // 2}.items():
        at = slice(first, CONTEXT - 1)
        out[protocol] = statistics(base[:, at], candidate[:, at], ids[:, first + 1:])
    write_json(folder / "models.json", out)


def make_comparison():
    folder = GOLDEN / "comparison"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_rows(folder)
    make_models(folder)


def main():
    makers = {"tokenizer": make_tokenizers, "logits": make_logits,
              "comparison": make_comparison}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=list(makers),
                        help="the group of golden data to write")
    parser.add_argument("case", nargs="*", help="of logits: only these")
    arguments = parser.parse_args()
    if arguments.group == "logits":
        make_logits(arguments.case)
    else:
        makers[arguments.group]()


if __name__ == "__main__":
    main()
