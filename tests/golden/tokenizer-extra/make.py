#!/usr/bin/env python3
"""Write the golden data of this folder: the rare corners of the tokenizer.

Needs the Python package `tokenizers` (made with 0.22.2). The files have the
same form as those of ../tokenizer: <name>.json is a tokenizer, and
<name>.cases.json what it makes of some texts. The models are nothing but byte
tokens, so that the ids show what a step did to each character: which ones a
class of characters has (the step puts a mark before each piece, or removes
it), and what a normal form makes of it.
"""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent

# Both sides of every place where Unicode tables of different age, or the
# regular expressions of Oniguruma and PCRE2, are known to disagree.
EDGES = """
 85 A0 AA AD B2 B3 B5 B9 BA BC BE BF DF 130 131 17F 1C5 1C8 2B0 2C2 300 345 36F 37E 483 488 589 5B0 5BE 61C 61D 660 6DD
 7FD 85C 897 898 89F 8CA 8D3 8D4 903 93C 93E 958 9BE 9DC 9F4 9FD 9FE A33 A76 AFA AFF B55 B72 C04 C3C C77 C84 CF3 D3B D4E
 DCF E33 E3F EBA ECE F0C F2A F43 F73 FD3 102E 1100 1161 11A8 135D 1369 166D 1680 16EE 1715 17A4 17DD 17F0 180B 180E 180F
 19DA 1AB0 1ABF 1ACE 1B4E 1B7D 1B7F 1C7E 1C89 1C8A 1CD0 1CF2 1CF3 1CF7 1CF9 1D2C 1D79 1DF6 1DFA 1E9B 1E9E 1F71 1FBD 1FEE
 2000 200B 200C 200D 200E 2010 2028 2029 202A 202F 203F 2044 205F 2060 2070 2080 20A0 20D0 20DD 2100 2126 212A 212B 2139
 2160 2190 2212 2427 2460 249C 24B6 24E9 24EA 2776 27E8 2ADC 2CEF 2CFD 2DFF 2E2F 2E42 2E43 2E4F 2E52 2E5D 2E80 2F00 2FFC
 3000 3001 3005 3007 302A 3030 3031 3038 3099 309B 309F 30FB 3131 3192 31EF 3220 3251 32FF 3300 3400 4DBF 4DC0 4E00 9FA5
 9FFC 9FFF A48C A490 A60C A66F A673 A7CB A7CD A7DA A7DC A7F2 A7F4 A802 A82C A830 A8FF AB69 AB6A AC00 D7A3 E000 F900 FA0E
 FA70 FB00 FB1D FB29 FB4F FBC2 FD3E FD40 FDFA FDFC FE00 FE10 FE20 FE33 FE4D FE70 FEFF FF01 FF10 FF21 FF3F FF65 FF9E FFA0
 FFC2 FFE3 FFFC FFFD 10107 10140 10175 101FD 10341 1034A 10376 10400 10428 104B0 105C0 105F3 10781 107BA 10877 10D24 10D40
 10D4A 10D50 10D65 10D69 10D6E 10D6F 10D85 10E60 10EAB 10EAD 10EC2 10EC4 10EFC 10EFD 10F46 10F55 10F82 10F86 11046 11070
 1109A 110BB 110C2 111C9 111CE 111E1 1123E 1123F 11241 11301 1133B 1145A 1145D 1145E 11660 116B9 116D0 116E3 1173A 1183B
 11930 11935 11938 11944 119D1 119E2 11A01 11A3F 11A9A 11B00 11BC0 11BE1 11BF0 11C41 11C5A 11D31 11EF3 11EF7 11F00 11F02
 11F04 11F43 11F50 11FC0 11FFF 12470 12FF1 1342F 13430 13440 13441 13447 13460 143FA 16100 16130 16A6E 16B37 16D40 16D6D
 16D70 16E80 16E97 16FE2 16FE4 18CFF 1B132 1B155 1BC9D 1BCA0 1CC00 1CCD6 1CCF0 1CD00 1CF00 1D15E 1D165 1D173 1D2C0 1D2D3
 1D2E0 1D360 1D400 1D7CE 1DA00 1DF25 1DF2A 1E030 1E06D 1E08F 1E100 1E4D0 1E4EB 1E4EC 1E4F0 1E5D0 1E5EE 1E5F1 1E5FF 1E8C7
 1E922 1E95E 1ECB0 1F000 1F100 1F130 1F149 1F150 1F169 1F16C 1F170 1F189 1F190 1F1E6 1F300 1F642 1F6DC 1F774 1F7D9 1F8B2
 1F8C0 1FA75 1FAE8 1FBCB 1FBF0 1FBF9 20000 2A6DE 2B739 2EBF0 2EE5D 2F800 2F868 30000 31350 323AF E0001 E0100 F0000 10FFFF
"""
POINTS = [int(p, 16) for p in EDGES.split()]
NEXT = [p + 1 for p in POINTS if p + 1 < 0x110000 and not 0xD800 <= p + 1 < 0xE000]
MARKS = "\u0301\u0327\u0323\u0300\u0345\u0338\u0307\u093c\u3099\u05b0\u0e38\U0001d165"

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4 = (r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
        r"\s++$|\s*[\r\n]|\s+(?!\S)|\s")
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern, behavior="Removed", kind="Regex", invert=False):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def marked(*steps):
    """Steps, and then a mark before every piece."""
    mark = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False}
    return {"type": "Sequence", "pretokenizers": [*steps, mark]}


def bytes_model():
    vocab = {f"<0x{b:02X}>": b for b in range(256)}
    vocab["\u2581"] = 256
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": True, "ignore_merges": False,
            "vocab": vocab, "merges": []}


def tokenizer(normalizer=None, pre_tokenizer=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
            "decoder": {"type": "ByteFallback"}, "model": bytes_model()}


def tokenizers():
    """{name: (tokenizer.json, which texts)}"""
    out = {}
    for form in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"]:
        out["normalizer-" + form.lower()] = tokenizer(normalizer={"type": form}), "marks"
    classes = {"space": r"\s", "not-space": r"[^\S\n]", "word": r"\w", "boundary": r"\b",
               "letter": r"\p{L}", "number": r"\p{N}", "mark": r"\p{M}", "punctuation": r"[\p{P}]",
               "symbol": r"[\p{S}]", "other-letter": r"[\p{Lm}\p{Lo}]",
               "digit": r"\d", "han": r"\p{Han}+"}
    for name, pattern in classes.items():
        out["class-" + name] = tokenizer(pre_tokenizer=marked(split(pattern, "Isolated"))), "edges"
    out["class-digits"] = tokenizer(pre_tokenizer=marked({"type": "Digits", "individual_digits": True})), "edges"
    for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        low = behavior.lower()
        out["punctuation-" + low] = tokenizer(
            pre_tokenizer=marked({"type": "Punctuation", "behavior": behavior})), \
            "edges" if behavior == "Isolated" else "short"
        for invert in [False, True]:
            out[f"split-{low}{'-invert' if invert else ''}"] = tokenizer(
                pre_tokenizer=marked(split(r"-|\d*", behavior, invert=invert))), "short"
    out["split-string"] = tokenizer(pre_tokenizer=marked(split("--", "MergedWithNext", "String"))), "short"
    out["whitespace"] = tokenizer(pre_tokenizer=marked({"type": "Whitespace"})), "edges"
    out["whitespace-split"] = tokenizer(pre_tokenizer=marked({"type": "WhitespaceSplit"})), "edges"
    out["delimiter"] = tokenizer(pre_tokenizer=marked({"type": "CharDelimiterSplit", "delimiter": "-"})), "short"
    for name, pattern in {"llama3": LLAMA3, "gpt4": GPT4, "deepseek3": DEEPSEEK3}.items():
        out["pattern-" + name] = tokenizer(pre_tokenizer=marked(split(pattern, "Isolated"))), "random"
    out["first"] = tokenizer(
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "NFKC"}]},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}]}), "short"
    return out


def texts(random, which):
    points = POINTS + NEXT
    yield from ["", " a", "a-b--c1-22-", "--", "-", "12--3", "\ufb01 1\ufb01", "\u2460\u2461a", "x\n\n y\t z  "]
    if which in ("edges", "marks"):
        for i in range(0, len(points), 300):
            part = [chr(p) for p in points[i:i + 300]]
            if which == "marks":  # some with marks, to be ordered and composed
                part = [c + "".join(random.choices(MARKS, k=max(0, random.randrange(-3, 3)))) for c in part]
            yield "".join(part)
    for _ in range(6 if which == "random" else 1):
        yield "".join(random.choice([chr(random.choice(points)), random.choice("ab1 -'s\n\u4e2d")])
                      for _ in range(60))


def main():
    for name, (data, which) in tokenizers().items():
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        tok = Tokenizer.from_str(text)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")
        lines = []
        for case in texts(random.Random(7), which):
            ids = tok.encode(case, add_special_tokens=False).ids
            lines.append(json.dumps({
                "text": case, "ids_with_special": tok.encode(case).ids, "ids": ids,
                "decoded": tok.decode(ids, skip_special_tokens=False),
                "decoded_skip": tok.decode(ids)}, ensure_ascii=False, separators=(",", ":")))
        (HERE / f"{name}.cases.json").write_text(
            "[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
