#!/usr/bin/env python3
"""Write a Llama model with random weights, as a Hugging Face folder.

For measuring time, memory and file size at real dimensions where no trained
model of that size is at hand.  The text such a model gives is noise, and
what a quantization does to its quality says nothing about trained models.

    make-synthetic.py OUT                      1.1 billion weights, F16, 2.2 GB
    make-synthetic.py OUT --dtype bf16 --shards 3
    make-synthetic.py OUT --hidden 256 --ffn 768 --layers 4 --heads 8 \\
                      --kv-heads 2 --vocab 1000 --tied        a small one

OUT gets config.json, model.safetensors (or the shards and their index) and a
tokenizer.json of the SentencePiece kind: <unk>, <s>, </s>, 256 byte tokens,
then a ▁ and filler tokens up to --vocab, so any text can be tokenized.

The weights are normal with standard deviation 0.02, the norms are 1.0.  The
same options and seed give the same bytes.  Numbers are drawn and written a few
million at a time, so a large model needs no more memory than a small one.
Needs Python 3.8 and numpy.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

DTYPES = {"f16": ("F16", 2, "float16"), "bf16": ("BF16", 2, "bfloat16"),
          "f32": ("F32", 4, "float32")}
FIRST_FILLER = 3 + 256  # ids below: <unk>, <s>, </s>, the byte tokens
CHUNK = 1 << 22         # numbers drawn and written at a time


def tensor_shapes(o):
    """[(name, shape)] in the order in which they are written."""
    head_dim = o.hidden // o.heads
    kv = o.kv_heads * head_dim
    out = [("model.embed_tokens.weight", (o.vocab, o.hidden))]
    for i in range(o.layers):
        p = f"model.layers.{i}."
        out += [(p + "input_layernorm.weight", (o.hidden,)),
                (p + "self_attn.q_proj.weight", (o.hidden, o.hidden)),
                (p + "self_attn.k_proj.weight", (kv, o.hidden)),
                (p + "self_attn.v_proj.weight", (kv, o.hidden)),
                (p + "self_attn.o_proj.weight", (o.hidden, o.hidden)),
                (p + "post_attention_layernorm.weight", (o.hidden,)),
                (p + "mlp.gate_proj.weight", (o.ffn, o.hidden)),
                (p + "mlp.up_proj.weight", (o.ffn, o.hidden)),
                (p + "mlp.down_proj.weight", (o.hidden, o.ffn))]
    out.append(("model.norm.weight", (o.hidden,)))
    if not o.tied:
        out.append(("lm_head.weight", (o.vocab, o.hidden)))
    return out


def encode(values, dtype):
    """float32 numbers as little-endian bytes of the dtype."""
    if dtype == "f32":
        return values.astype("<f4").tobytes()
    if dtype == "f16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view("<u4")
    # Round to nearest, ties to even, then keep the upper 16 bits.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_tensor(file, index, shape, o):
    """Stream one tensor; its numbers depend on the seed and its index."""
    count = int(np.prod(shape))
    if len(shape) == 1:  # norms
        file.write(encode(np.ones(count, np.float32), o.dtype))
        return
    rng = np.random.Generator(np.random.PCG64([o.seed, index]))
    for start in range(0, count, CHUNK):
        values = rng.standard_normal(min(CHUNK, count - start), np.float32)
        values *= np.float32(0.02)
        file.write(encode(values, o.dtype))


def write_safetensors(path, tensors, o):
    """One safetensors file: header length, JSON header, data."""
    name_dtype, width, _ = DTYPES[o.dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for _, name, shape in tensors:
        end = offset + int(np.prod(shape)) * width
        header[name] = {"dtype": name_dtype, "shape": list(shape),
                        "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for index, _, shape in tensors:
            write_tensor(file, index, shape, o)
    return offset


def write_weights(o):
    tensors = [(i, n, s) for i, (n, s) in enumerate(tensor_shapes(o))]
    if o.shards == 1:
        return write_safetensors(o.out / "model.safetensors", tensors, o)
    # Equal parts by size; every shard gets at least one tensor.
    total = sum(int(np.prod(s)) for _, _, s in tensors)
    parts, seen = [[] for _ in range(o.shards)], 0
    for index, name, shape in tensors:
        parts[min(seen * o.shards // total, o.shards - 1)].append((index, name, shape))
        seen += int(np.prod(shape))
    parts = [p for p in parts if p]
    size, weight_map = 0, {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        size += write_safetensors(o.out / file, part, o)
        weight_map.update({name: file for _, name, _ in part})
    write_json(o.out / "model.safetensors.index.json",
               {"metadata": {"total_size": size}, "weight_map": weight_map})
    return size


def write_json(path, data):
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n",
                    encoding="utf-8")


def write_config(o):
    write_json(o.out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": o.hidden, "intermediate_size": o.ffn,
        "num_hidden_layers": o.layers, "num_attention_heads": o.heads,
        "num_key_value_heads": o.kv_heads, "vocab_size": o.vocab,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "max_position_embeddings": 2048,
        "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": o.tied, "bos_token_id": 1, "eos_token_id": 2,
        "initializer_range": 0.02, "torch_dtype": DTYPES[o.dtype][2]})


def write_tokenizer(o):
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = 3 + b
    vocab["▁"] = FIRST_FILLER
    for i in range(FIRST_FILLER + 1, o.vocab):
        vocab[f"filler{i}"] = i
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True}
               for i, t in enumerate(["<unk>", "<s>", "</s>"])]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    bos2 = {"SpecialToken": {"id": "<s>", "type_id": 1}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    text2 = {"Sequence": {"id": "B", "type_id": 1}}
    write_json(o.out / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, text],
            "pair": [bos, text, bos2, text2],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True,
                  "ignore_merges": False, "vocab": vocab, "merges": []}})
    write_json(o.out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
        "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
        "model_max_length": 2048})


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    numbers = [("hidden", 2048, "width of the residual stream"),
               ("ffn", 5632, "width inside the feed-forward block"),
               ("layers", 22, "decoder layers"),
               ("heads", 32, "query heads; --hidden must be a multiple"),
               ("kv-heads", 4, "key/value heads; must divide --heads"),
               ("vocab", 32000, f"vocabulary size, at least {FIRST_FILLER + 1}"),
               ("shards", 1, "number of safetensors files (at most)")]
    for name, default, text in numbers:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N",
                            help=f"{text} (default {default})")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="of the random numbers (default 1)")
    parser.add_argument("--tied", action="store_true",
                        help="use the embedding as output layer: no lm_head")
    parser.add_argument("--dtype", choices=DTYPES, default="f16",
                        help="type of all tensors (default f16)")
    o = parser.parse_args()
    for name, _, _ in numbers:
        if getattr(o, name.replace("-", "_")) < 1:
            parser.error(f"--{name} must be positive")
    if o.hidden % o.heads or (o.hidden // o.heads) % 2:
        parser.error("--hidden must be --heads times an even head size")
    if o.heads % o.kv_heads:
        parser.error("--kv-heads must divide --heads")
    if o.vocab <= FIRST_FILLER:
        parser.error(f"--vocab must be at least {FIRST_FILLER + 1}")
    if o.seed < 0:
        parser.error("--seed must not be negative")
    return o


def main():
    o = parse()
    try:
        o.out.mkdir(parents=True, exist_ok=True)
        if any(o.out.glob("*.safetensors*")):
            sys.exit(f"error: {o.out} already holds safetensors files; "
                     "remove them or name another folder")
        write_config(o)
        write_tokenizer(o)
        size = write_weights(o)
    except OSError as error:
        sys.exit(f"error: {error}")
    width = DTYPES[o.dtype][1]
    print(f"{o.out}: {size // width:,} weights, {size:,} bytes")


if __name__ == "__main__":
    main()
