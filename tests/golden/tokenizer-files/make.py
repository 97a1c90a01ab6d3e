#!/usr/bin/env python3
"""Write the golden data of this folder: tokenizers that are not a tokenizer.json.

Made with sentencepiece 0.2.3 (protobuf 7.36), transformers 5.23.0 and tokenizers 0.23.3. Every folder is a tokenizer as published
models have it, trained on the texts of ../tokenizer, with cases.json: [{text, ids, ids_with_special, decoded}, ...]. What ids are
right is said by sentencepiece itself (sp-*; ids_with_special has BOS in front, as LlamaTokenizer does) or by transformers' class
(vm-*). Texts that hold control tokens are left out of sp-*: a tokenizer.json finds them, sentencepiece does not. `decoded` is left out
where there is a token for what is unknown: sentencepiece writes it as U+2047, tokenizer.json as the token. A U+2581 that stands in a text itself is the same as a space to sentencepiece where it strips
spaces or looks for the user's pieces, and not to tokenizer.json: sp-strip and sp-gemma have no such texts.

../../../../shared/data/tokenizers/llama2, where it exists, gives shared-llama2.cases.json; the model stays there.
"""

import io
import json
import shutil
from pathlib import Path

import sentencepiece
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

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


def sp_cases(processor, decoded=True, literal=True):
    cases = []
    for text in TEXTS:
        if not literal and "\u2581" in text:
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
    if settings["model_type"] == "bpe" and settings["normalization_rule_name"] == "identity":
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        write(folder / "cases.json", sp_cases(processor, decoded, literal))


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


sentencepieces("sp-llama")
sentencepieces("sp-strip", literal=False, remove_extra_whitespaces=True)
sentencepieces("sp-gemma", literal=False, add_dummy_prefix=False, user_defined_symbols=["<user>", "\u2581\u2581", "\u2581\u2581\u2581", "\n\n"])
sentencepieces("sp-unknown", byte_fallback=False, vocabulary=400, decoded=False)
sentencepieces("sp-unigram", model_type="unigram", byte_fallback=False, vocabulary=300)
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
