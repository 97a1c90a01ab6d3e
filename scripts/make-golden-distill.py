#!/usr/bin/env python3
"""Golden statistics of rows of logits for nibble-distill, by NumPy in double precision: tests/golden/distill.

    python3 scripts/make-golden-distill.py

Writes logits.f32 (float32, little-endian, [rows][vocabulary]) and rows.json: of every row the logsumexp, the entropy, the k likeliest ids
(ties: the lowest first) by rising id with their log-probabilities, and the mass of all others.
"""
import json
import pathlib

import numpy as np

ROWS, VOCABULARY, K = 12, 300, 20
folder = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "distill"


def rows():
    random = np.random.default_rng(7)
    scales = [0.1, 1, 2, 3, 5, 10, 30, 3, 3, 3, 0, 4]
    for number, scale in enumerate(scales):
        row = random.normal(size=VOCABULARY) * scale + (500 if number % 4 == 1 else 0)
        if number == 7:
            row[123] += 60  # one token has all but everything
        if number == 8:
            row[5] -= 1e4  # one has nothing
        if number == 9:
            row = np.round(row)  # many ties
        yield row.astype("<f4")


def describe(row):
    x = row.astype(np.float64)
    top = x.max()
    log_sum = top + np.log(np.exp(x - top).sum())
    log_p = x - log_sum
    ids = np.lexsort((np.arange(VOCABULARY), -x))
    kept, others = np.sort(ids[:K]), ids[K:]
    return {
        "logsumexp": log_sum,
        "entropy": float(-(np.exp(log_p) * log_p).sum()),
        "tail": float(np.exp(log_p[others]).sum()),
        "ids": kept.tolist(),
        "log_probs": log_p[kept].tolist(),
    }


def main():
    folder.mkdir(parents=True, exist_ok=True)
    logits = np.stack(list(rows()))
    assert logits.shape == (ROWS, VOCABULARY)
    (folder / "logits.f32").write_bytes(logits.tobytes())
    text = json.dumps({"vocabulary": VOCABULARY, "k": K, "rows": [describe(row) for row in logits]})
    (folder / "rows.json").write_text(text + "\n")


main()
