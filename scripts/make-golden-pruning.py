#!/usr/bin/env python3
"""Write tests/golden/pruning: one matrix pruned by SparseGPT.

    make-golden-pruning.py          (numpy 2.4.6; a second run writes the same bytes)

Written from the paper alone (Frantar, Alistarh 2023, arXiv:2301.00774, Algorithm 1), in double precision and with the inverse of
the Hessian formed and factored as the paper does.  The number of weights that go is exact; the lowest are found by a stable sort.

inputs.i8          [TOKENS, COLS] bytes, an input is the byte / 16
weights.f32        [ROWS, COLS]
half.f32           the weights after pruning half of every block of BLOCK columns
two-of-four.f32    after pruning two of every four consecutive weights of a row
"""
import pathlib

import numpy

ROWS, COLS, TOKENS, BLOCK, DAMPING = 24, 192, 256, 128, 0.01


def sparsegpt(weights, inputs, share=None, pattern=None):
    w = weights.astype(numpy.float64).copy()
    h = 2 / len(inputs) * inputs.T @ inputs
    h[numpy.diag_indices(COLS)] += DAMPING * numpy.mean(numpy.diag(h))
    u = numpy.linalg.cholesky(numpy.linalg.inv(h)).T  # upper: u.T @ u is the inverse
    mask = numpy.zeros_like(w, dtype=bool)  # what goes
    for i in range(0, COLS, BLOCK):
        end = min(i + BLOCK, COLS)
        errors = numpy.zeros((ROWS, end - i))
        if share is not None:
            score = (w[:, i:end] / numpy.diag(u)[i:end]) ** 2
            order = numpy.argsort(score, axis=None, kind="stable")
            chosen = numpy.zeros(score.size, dtype=bool)
            chosen[order[: round(share * score.size)]] = True
            mask[:, i:end] = chosen.reshape(score.shape)
        for j in range(i, end):
            if pattern and (j - i) % pattern[1] == 0:
                of = pattern[1]
                score = (w[:, j : j + of] / numpy.diag(u)[j : j + of]) ** 2
                lowest = numpy.argsort(score, axis=1, kind="stable")[:, : of - pattern[0]]
                numpy.put_along_axis(mask[:, j : j + of], lowest, True, axis=1)
            errors[:, j - i] = numpy.where(mask[:, j], w[:, j] / u[j, j], 0)
            w[:, j:end] -= numpy.outer(errors[:, j - i], u[j, j:end])
            w[mask[:, j], j] = 0
        w[:, end:] -= errors @ u[i:end, end:]
    return w


def main():
    folder = pathlib.Path(__file__).parent.parent / "tests/golden/pruning"
    random = numpy.random.default_rng(7)
    mixed = random.normal(size=(TOKENS, 40)) @ random.normal(size=(40, COLS)) + random.normal(size=(TOKENS, COLS))
    mixed[:, 100] *= 4
    inputs = numpy.clip(numpy.round(mixed * 2.5), -127, 127)
    inputs[:, 33] = 0  # an input that never is anything else
    weights = random.normal(size=(ROWS, COLS)).astype(numpy.float32)
    inputs.astype(numpy.int8).tofile(folder / "inputs.i8")
    weights.tofile(folder / "weights.f32")
    half = sparsegpt(weights, inputs / 16, share=0.5)
    two = sparsegpt(weights, inputs / 16, pattern=(2, 4))
    half.astype(numpy.float32).tofile(folder / "half.f32")
    two.astype(numpy.float32).tofile(folder / "two-of-four.f32")


if __name__ == "__main__":
    main()
