#!/usr/bin/env python3
"""Makes tests/golden/packed: one tiny random Llama in every packed layout that is read, with what others make of it.

    pip install torch transformers safetensors compressed-tensors mlx mlx-cpu
    scripts/make-golden-packed.py tests/golden/packed

compressed-tensors and MLX folders are packed and unpacked by those libraries themselves. GPTQ and AWQ are packed word by word
as AutoGPTQ (auto_gptq/nn_modules/qlinear, pack) and AutoAWQ (awq/modules/linear/gemm.py, from_linear) document it, and unpacked
from the definition. Every folder has expected.json: the CRC-32 of each dequantized matrix as little-endian floats, and the
logits of transformers' model with those weights for a few tokens.
"""
import json
import os
import sys
import zlib

import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import mlx.core as mx

HIDDEN, FFN, VOCABULARY = 32, 64, 40
TOKENS = [3, 1, 39, 17, 17, 5, 28, 11]
CONFIG = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=HIDDEN, intermediate_size=FFN,
              num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=VOCABULARY,
              max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
              torch_dtype="float16", hidden_act="silu")
MATRICES = {f"model.layers.0.{name}": shape for name, shape in {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN)}.items()}


def codes_of(rng, rows, cols, bits, group, symmetric):
    """Codes, half scales and zero-points of a random matrix."""
    groups = cols // group
    codes = rng.integers(0, 1 << bits, (rows, cols))
    scales = (rng.uniform(0.5, 1.5, (rows, groups)) * 0.3 / (1 << bits)).astype(np.float16)
    middle = 1 << (bits - 1)
    zeros = np.full((rows, groups), middle) if symmetric else rng.integers(1, 1 << bits, (rows, groups))
    if not symmetric:
        zeros[0, 0] = 1
    return codes, scales, zeros


def value(codes, scales, zeros, groups_of):
    return scales.astype(np.float32)[:, groups_of] * (codes - zeros[:, groups_of]).astype(np.float32)


def gptq_words(values, bits):
    """[n][m] -> [n * bits / 32][m]: AutoGPTQ's pack, the three-bit case spelt out as there."""
    n, m = values.shape
    words = np.zeros((n * bits // 32, m), dtype=np.uint32)
    values = values.astype(np.uint32)
    if bits != 3:
        per = 32 // bits
        for i in range(n):
            words[i // per] |= values[i] << np.uint32(bits * (i % per))
        return words.view(np.int32)
    row = 0
    for i in range(0, n, 32):
        for j in range(10):
            words[row] |= values[i + j] << np.uint32(3 * j)
        words[row] |= values[i + 10] << np.uint32(30)
        words[row + 1] |= (values[i + 10] >> np.uint32(2)) & np.uint32(1)
        for j in range(10):
            words[row + 1] |= values[i + 11 + j] << np.uint32(3 * j + 1)
        words[row + 1] |= values[i + 21] << np.uint32(31)
        words[row + 2] |= (values[i + 21] >> np.uint32(1)) & np.uint32(3)
        for j in range(10):
            words[row + 2] |= values[i + 22 + j] << np.uint32(3 * j + 2)
        row += 3
    return words.view(np.int32)


def gptq(rng, bits, group, symmetric, version, order=False, biases=False, **extra):
    tensors, expected = {}, {}
    for name, (rows, cols) in MATRICES.items():
        codes, scales, zeros = codes_of(rng, rows, cols, bits, group, symmetric)
        groups_of = np.arange(cols) // group
        if order:
            groups_of = groups_of[rng.permutation(cols)]
        tensors[name + ".qweight"] = torch.from_numpy(gptq_words(codes.T, bits))
        stored = zeros - (version == 1)
        tensors[name + ".qzeros"] = torch.from_numpy(np.ascontiguousarray(gptq_words(stored, bits).T))
        tensors[name + ".scales"] = torch.from_numpy(np.ascontiguousarray(scales.T))
        tensors[name + ".g_idx"] = torch.from_numpy(groups_of.astype(np.int32))
        if biases:
            tensors[name + ".bias"] = torch.zeros(rows, dtype=torch.float16)
        expected[name] = value(codes, scales, zeros, groups_of)
    config = dict(quant_method="gptq", bits=bits, group_size=group, sym=symmetric, desc_act=order, **extra)
    return tensors, expected, {"quantization_config": config}


def awq(rng, group):
    tensors, expected = {}, {}
    for name, (rows, cols) in MATRICES.items():
        codes, scales, zeros = codes_of(rng, rows, cols, 4, group, False)
        zeros[1, 0] = 0

        def words(values):
            out = np.zeros((values.shape[0], values.shape[1] // 8), dtype=np.uint32)
            for column in range(values.shape[1] // 8):
                for i, place in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                    out[:, column] |= values[:, column * 8 + place].astype(np.uint32) << np.uint32(4 * i)
            return torch.from_numpy(out.view(np.int32))

        tensors[name + ".qweight"] = words(codes.T)
        tensors[name + ".qzeros"] = words(zeros.T)
        tensors[name + ".scales"] = torch.from_numpy(np.ascontiguousarray(scales.T))
        expected[name] = value(codes, scales, zeros, np.arange(cols) // group)
    config = dict(quant_method="awq", bits=4, group_size=group, zero_point=True, version="gemm")
    return tensors, expected, {"quantization_config": config}


def compressed(rng, bits, group, symmetric, dtype):
    tensors, expected = {}, {}
    middle = 1 << (bits - 1)
    for name, (rows, cols) in MATRICES.items():
        codes, scales, zeros = codes_of(rng, rows, cols, bits, group or cols, symmetric)
        signed = torch.from_numpy((codes - middle).astype(np.int8))
        scales = torch.from_numpy(scales).to(dtype)
        packed = pack_to_int32(signed, bits)
        tensors[name + ".weight_packed"] = packed
        tensors[name + ".weight_scale"] = scales
        tensors[name + ".weight_shape"] = torch.tensor([rows, cols])
        back = unpack_from_int32(packed, bits, torch.Size([rows, cols])).numpy().astype(np.int64)
        points = np.zeros_like(zeros)
        if not symmetric:
            stored = pack_to_int32(torch.from_numpy((zeros - middle).astype(np.int8)), bits, packed_dim=0).contiguous()
            tensors[name + ".weight_zero_point"] = stored
            points = unpack_from_int32(stored, bits, torch.Size(zeros.shape), packed_dim=0).numpy().astype(np.int64)
        expected[name] = value(back, scales.to(torch.float32).numpy(), points, np.arange(cols) // (group or cols))
    weights = dict(num_bits=bits, type="int", symmetric=symmetric, strategy="group" if group else "channel",
                   group_size=group, dynamic=False, actorder=None)
    config = dict(quant_method="compressed-tensors", format="pack-quantized", quantization_status="compressed",
                  config_groups={"group_0": dict(targets=["Linear"], weights=weights, input_activations=None,
                                                 output_activations=None)}, ignore=["lm_head"], kv_cache_scheme=None)
    return tensors, expected, {"quantization_config": config}


def mlx(rng, bits, mixed):
    tensors, expected, scheme = {}, {}, dict(group_size=32, bits=bits)
    config = dict(scheme)
    for name, (rows, cols) in MATRICES.items():
        own = mixed if name.endswith("down_proj") else bits
        if own != bits:
            config[name] = dict(group_size=32, bits=own)
        weight = mx.array(rng.normal(0, 0.08, (rows, cols)).astype(np.float16))
        codes, scales, biases = mx.quantize(weight, group_size=32, bits=own)
        tensors[name + ".weight"] = np.array(codes)
        tensors[name + ".scales"] = torch.from_numpy(np.array(scales))
        tensors[name + ".biases"] = torch.from_numpy(np.array(biases))
        wide = [x.astype(mx.float32) for x in (scales, biases)]
        expected[name] = np.array(mx.dequantize(codes, *wide, group_size=32, bits=own))
    return tensors, expected, {"quantization": config}


def write(folder, base, packed):
    tensors, expected, quantization = packed
    os.makedirs(folder, exist_ok=True)
    tensors = {**{k: v for k, v in base.items() if k.removesuffix(".weight") not in MATRICES}, **tensors}
    if any(isinstance(v, np.ndarray) for v in tensors.values()):  # torch has no unsigned words
        from safetensors.numpy import save_file as save_arrays
        save_arrays({k: v if isinstance(v, np.ndarray) else v.numpy() for k, v in tensors.items()},
                    f"{folder}/model.safetensors", metadata={"format": "mlx"})
    else:
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with open(f"{folder}/config.json", "w") as out:
        json.dump({**CONFIG, **quantization}, out)
    weights = {k: v.float() for k, v in base.items()}
    weights.update({name + ".weight": torch.from_numpy(np.ascontiguousarray(v)) for name, v in expected.items()})
    model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, "torch_dtype": "float32"})).float().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0]
    crcs = {name + ".weight": zlib.crc32(np.ascontiguousarray(v, dtype="<f4").tobytes()) for name, v in expected.items()}
    with open(f"{folder}/expected.json", "w") as out:
        json.dump({"tokens": TOKENS, "crc32": crcs, "logits": [round(float(x), 6) for x in logits[-1]]}, out)


def main(root):
    rng = np.random.default_rng(20261122)
    base = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,),
            "model.layers.0.input_layernorm.weight": (HIDDEN,), "model.layers.0.post_attention_layernorm.weight": (HIDDEN,)}
    base = {name: torch.from_numpy((rng.normal(0, 0.2, shape) + (len(shape) == 1)).astype(np.float16))
            for name, shape in base.items()}
    for name, packed in {
        "gptq-4": gptq(rng, 4, 16, True, 1, biases=True, checkpoint_format="gptq"),
        "gptq-4-asym": gptq(rng, 4, 16, False, 1, checkpoint_format="gptq"),
        "gptq-3-old": gptq(rng, 3, 32, True, 1),
        "gptq-8-v2": gptq(rng, 8, 32, False, 2, checkpoint_format="gptq_v2"),
        "gptq-2-v2-old": gptq(rng, 2, 16, True, 2),
        "gptq-4-order": gptq(rng, 4, 16, True, 1, order=True, checkpoint_format="gptq"),
        "awq": awq(rng, 16),
        "compressed-4": compressed(rng, 4, 16, True, torch.bfloat16),
        "compressed-8-asym": compressed(rng, 8, None, False, torch.float16),
        "compressed-3-asym": compressed(rng, 3, 16, False, torch.float16),
        "mlx-4-6": mlx(rng, 4, 6),
        "mlx-3-5": mlx(rng, 3, 5),
    }.items():
        write(f"{root}/{name}", base, packed)


if __name__ == "__main__":
    main(sys.argv[1])
