#!/usr/bin/env python3
"""Write the golden data of this folder: tokenizers that are not a tokenizer.json.

Made with sentencepiece 0.2.3 (protobuf 7.36), transformers 5.23.0 and tokenizers 0.23.3. Every folder is a tokenizer as published
models have it, trained on the texts of ../tokenizer, with cases.json: [{text, ids, ids_with_special, decoded}, ...]. What ids are
right is said by sentencepiece itself (sp-*, unigram models among them, one of which rewrites characters by RULES; ids_with_special has BOS in front, as LlamaTokenizer does) or by transformers' class
(vm-*); tj-* (tj-unigram-*: Unigram models, with the steps of T5, ALBERT and others) are a tokenizer.json with the steps of a family, said by tokenizers. Texts that hold control tokens are left out of sp-*: a tokenizer.json finds them, sentencepiece does not. `decoded` is left out
where there is a token for what is unknown: sentencepiece writes it as U+2047, tokenizer.json as the token. A U+2581 that stands in a text itself is the same as a space to sentencepiece where it strips
spaces or looks for the user's pieces, and not to tokenizer.json: sp-strip and sp-gemma have no such texts. Nor have unigram models
long runs of one or two characters, whose cuts differ in nothing but rounding.

../../../../shared/data/tokenizers/llama2, where it exists, gives shared-llama2.cases.json; the model stays there.
"""

import io
import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[3] / "shared" / "data" / "tokenizers" / "llama2" / "tokenizer.model"


def texts():
    found = {}
    for name in ("sp", "gpt2", "llama3"):
        for case in json.loads((HERE.parent / "tokenizer" / f"{name}.cases.json").read_text()):
            if "<" not in case["text"] or ">" not in case["text"]:
                found[case["text"]] = None
    more = ["  two  spaces ", "a   b    c", "\n\n\nlines\n\n", "   ", " ", "x<user>y <user> z", "<user><user>", "a\u2581b"]
    return [text for text in list(found) + more if "\0" not in text]


TEXTS = texts()


def write(folder, cases):
    folder.write_text("[" + ",\n".join(json.dumps(case) for case in cases) + "]\n")


def sp_cases(processor, decoded=True, literal=True, runs=True):
    cases = []
    for text in TEXTS:
        if not runs and len(text) > 20 and len(set(text)) <= 2:
            continue
        if "<unk>" in text or (not literal and "\u2581" in text):
            continue
        ids = processor.encode(text)
        case = {"text": text, "ids": ids, "ids_with_special": [processor.bos_id()] + ids}
        if decoded:
            case["decoded"] = processor.decode(ids)
        cases.append(case)
    return cases


def sentencepieces(name, vocabulary=800, decoded=True, literal=True, **options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model = io.BytesIO()
    lines = [line for text in TEXTS for line in text.split("\n") if line.strip() and all(ord(c) < 0x180 for c in line)]
    settings = dict(
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        vocab_size=vocabulary, character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2)
    settings.update(options)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **settings)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    write(folder / "cases.json", sp_cases(processor, decoded, literal, settings["model_type"] == "bpe"))
    return model.getvalue()


# What rewrites characters, as sentencepiece takes it: code points to code points. Some rules begin others, some make nothing or a
# space; the table of nmt_nfkc (240 kB) has thousands of these.
RULES = {
    "\ufb01": "fi", "\u2460": "1", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": "", "\u00ad": "",
    "\uff76": "\u30ab", "\uff76\uff9e": "\u30ac", "\uff9e": "\u3099", "\uff41": "a", "e\u0301": "\u00e9", "e\u0302": "\u00ea",
    "e\u0302\u0301": "\u1ebf", "\u33a7": "m/s", "\u212b": "\u00c5", "\U0001d400": "A", "\u00bd": "1\u20442", "...": "\u2026"}
REWRITTEN = [
    "\ufb01n", "\u2460\u2461", "a\u3000b", "\u3000", "\u00a0a\u00a0\u00a0b", "a\tb\r\nc", "a\u200bb", "\u200b", "\u200bx", "x\u200b",
    "\uff76\uff9e\uff76", "\uff41e\u0301", "e\u0302", "e\u0302\u0301", "e\u0302\u0301\u0323x", "e\u0302\u0302", "5 \u33a7", "\u212b\u030a",
    "\U0001d400\U0001d401", "\u00bd.", "wait...", "....", "..", "\u00a0\u0301", "\uff41\u0301", "\u1100\u1161\u11a8", "\ud55c",
    "\U0001f468\u200d\U0001f469", "\u00ad", "\u00ad\u00ade\u0301", "<unk>", "a<unk>b", "\ufffd", "\u0958\u093c", "e\ufe0f\u0301"]


def rules_file():
    path = Path(tempfile.mkdtemp()) / "rules.tsv"
    points = lambda text: " ".join(f"{ord(c):X}" for c in text)
    path.write_text("".join(f"{points(a)}\t{points(b)}\n" for a, b in sorted(RULES.items())))
    return str(path)


def unigram_document(name, pieces, normalizer, steps, byte_fallback=False):
    """A tokenizer.json of a Unigram model, by the tokenizers library alone."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = steps
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)])
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "ids_with_special": tokenizer.encode(text).ids,
                      "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    write(folder / "cases.json", cases)


def vocab_merges(name, cls, config, added=None, special=None, pattern=None):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=450, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
    if added:
        (folder / "added_tokens.json").write_text(json.dumps(added) + "\n")
    if special:
        (folder / "special_tokens_map.json").write_text(json.dumps(special) + "\n")
    loaded = getattr(transformers, cls).from_pretrained(folder)
    cases = []
    for text in TEXTS + ["a <|endoftext|> b", "<|im_start|>user\nhi<|im_end|>", "see <tool> now<tool>"]:
        ids = loaded.encode(text, add_special_tokens=False)
        cases.append({"text": text, "ids": ids, "ids_with_special": loaded.encode(text),
                      "decoded": loaded.decode(ids, clean_up_tokenization_spaces=False)})
    write(folder / "cases.json", cases)


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")


def documents(name, normalizer, steps, special, added):
    """A tokenizer.json with the steps of a family's own, by the tokenizers library alone."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = steps
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=450, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer.add_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    cases = []
    for text in TEXTS + ["a     b" + " " * 9, special[0] + "x" + special[-1]]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "ids_with_special": tokenizer.encode(text).ids,
                      "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    write(folder / "cases.json", cases)


# GPT-NeoX: runs of spaces are added tokens. OLMo 2: what the pattern does not match is removed, which is nothing.
documents("tj-neox", normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
          ["<|endoftext|>", "<|padding|>"], [AddedToken(" " * n, normalized=True) for n in (6, 5, 4, 3, 2)])
documents("tj-olmo2", None, pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(LLAMA3), "removed", invert=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
          ["<|endoftext|>"], [AddedToken("<|im_start|>", special=True, normalized=False)])
sentencepieces("sp-llama")
sentencepieces("sp-strip", literal=False, remove_extra_whitespaces=True)
sentencepieces("sp-gemma", literal=False, add_dummy_prefix=False, user_defined_symbols=["<user>", "\u2581\u2581", "\u2581\u2581\u2581", "\n\n"])
sentencepieces("sp-unknown", byte_fallback=False, vocabulary=400, decoded=False)
# Unigram models.
sentencepieces("sp-unigram", model_type="unigram", byte_fallback=False, vocabulary=300, decoded=False)
sentencepieces("sp-unigram-bytes", model_type="unigram", vocabulary=560)
TEXTS += REWRITTEN
RULED = sentencepiece_model_pb2.ModelProto()
RULED.ParseFromString(sentencepieces(
    "sp-unigram-rules", model_type="unigram", vocabulary=330, byte_fallback=False, decoded=False, literal=False, remove_extra_whitespaces=True,
    normalization_rule_name="user_defined", normalization_rule_tsv=rules_file()))
PIECES = [(piece.piece, piece.score) for piece in RULED.pieces]
CHARSMAP = normalizers.Precompiled(RULED.normalizer_spec.precompiled_charsmap)
SPACES = normalizers.Replace(Regex(" {2,}"), " ")
unigram_document("tj-unigram-t5", PIECES, CHARSMAP,
                 pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]))
unigram_document("tj-unigram-albert", PIECES, normalizers.Sequence([
    normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), CHARSMAP, SPACES]),
    pre_tokenizers.Metaspace())
unigram_document("tj-unigram-nmt", PIECES + [(f"<0x{i:02X}>", 0.0) for i in range(256)],
                 normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), SPACES]),
                 pre_tokenizers.Metaspace(prepend_scheme="first", split=False), byte_fallback=True)
TEXTS = TEXTS[:-len(REWRITTEN)]
vocab_merges("vm-gpt2", "GPT2Tokenizer", {"tokenizer_class": "GPT2Tokenizer"})
vocab_merges("vm-gpt2-bos", "GPT2Tokenizer", {
    "tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "<|endoftext|>",
    "added_tokens_decoder": {
        "0": {"content": "<|endoftext|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True},
        "450": {"content": "<tool>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False, "special": False}}})
vocab_merges("vm-qwen2", "Qwen2Tokenizer", {"tokenizer_class": "Qwen2TokenizerFast", "add_bos_token": False},
             added={"<|im_start|>": 450, "<|im_end|>": 451},
             special={"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
if SHARED.exists():
    write(HERE / "shared-llama2.cases.json", sp_cases(sentencepiece.SentencePieceProcessor(str(SHARED))))
