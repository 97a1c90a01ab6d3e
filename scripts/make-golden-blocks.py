#!/usr/bin/env python3
"""Write tests/golden/blocks/: what the reference package makes of GGUF's block types.

Needs gguf (0.17 or later) and numpy.  Each TYPE.bin holds 3 blocks: random bits
(fixed seed) with finite half-precision scales, and TYPE.f32 their values as
little-endian floats, decoded by gguf.dequantize.
"""
import pathlib

import gguf
import numpy as np

# Where the half-precision numbers of a block lie.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "TQ1_0": [52],
    "TQ2_0": [64],
}
BLOCKS = 3


def main():
    folder = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/blocks"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for name, halves in HALVES.items():
        kind = gguf.GGMLQuantizationType[name]
        blocks = random.integers(0, 256, (BLOCKS, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        for at in halves:
            scale = random.normal(0, 1, BLOCKS).astype("<f2")
            blocks[:, at:at + 2] = scale.view(np.uint8).reshape(BLOCKS, 2)
        if name == "MXFP4":
            blocks[:, 0] = [0, 1, 130]  # both subnormal scales, and an ordinary one
        values = gguf.dequantize(blocks, kind).astype("<f4")
        (folder / f"{name}.bin").write_bytes(blocks.tobytes())
        (folder / f"{name}.f32").write_bytes(values.tobytes())


if __name__ == "__main__":
    main()
