#!/usr/bin/env python3
"""Train a student of half the depth on a dataset of `nibble-distill dataset`: an example to start from, in plain PyTorch.

    nibble-distill dataset models/folio-4M sampled.nbd --bos --sequences 600 --batch 32 --seed 1
    python3 scripts/train_student.py models/folio-4M sampled.nbd student --loss kd --steps 200 --eval models/folio-4M/eval.txt
    python3 scripts/train_student.py models/folio-4M sampled.nbd student-ce --loss ce --steps 200 --eval models/folio-4M/eval.txt
    nibble-check perplexity student --text models/folio-4M/eval.txt

The student is the teacher without every second layer. --loss kd learns from the teacher's stored distributions, ce from the tokens of
the same dataset alone; everything else (start, order, steps, learning rate) is the same. Needs torch, transformers, tokenizers, numpy.
"""
import argparse
import math
import pathlib
import shutil
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from nbd_reader import Dataset


def make_student(path):
    """The teacher with layers 0, 2, 4 ... only."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    kept = list(model.model.layers)[::2]
    for index, layer in enumerate(kept):
        layer.self_attn.layer_idx = index
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: len(kept)]
    return model


def load(path, limit):
    """All sequences, padded to the longest: tokens, targets, and which positions count."""
    dataset = Dataset(path)
    sequences = [dataset[i] for i in range(min(limit or len(dataset), len(dataset)))]
    longest = max(len(s["tokens"]) for s in sequences)

    def stack(name, dtype):
        rows = [s[name] for s in sequences]
        out = np.zeros((len(rows), longest) + rows[0].shape[1:], dtype)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return torch.from_numpy(out)

    lengths = torch.tensor([len(s["tokens"]) for s in sequences])
    data = {"tokens": stack("tokens", np.int64), "ids": stack("ids", np.int64)}
    data["counts"] = torch.arange(longest)[None] < lengths[:, None] - 1  # the last token has nothing after it
    if "log_probs" in sequences[0]:
        data["log_probs"], data["tail"] = stack("log_probs", np.float32), stack("tail", np.float32)
    else:
        data["entropy"] = stack("entropy", np.float32)
        weights = [np.exp(s["log_weights"].astype(np.float32)) if "log_weights" in s else np.ones(s["ids"].shape, np.float32) for s in sequences]
        for s, w in zip(sequences, weights):
            s["weights"] = w
        data["weights"] = stack("weights", np.float32)
    return data


def kd_loss(log_s, batch):
    """KL divergence of the student from the teacher per position; of the sparse record, or its unbiased estimate from draws."""
    chosen = log_s.gather(-1, batch["ids"])
    if "weights" in batch:
        return -(batch["weights"] * chosen).mean(-1) - batch["entropy"]
    p, tail = batch["log_probs"].exp(), batch["tail"]
    s_tail = (1 - chosen.exp().sum(-1)).clamp_min(1e-9)
    return (p * (batch["log_probs"] - chosen)).sum(-1) + tail * (tail.clamp_min(1e-9).log() - s_tail.log())


def ce_loss(log_s, batch):
    following = batch["tokens"].roll(-1, 1)
    return -log_s.gather(-1, following[..., None])[..., 0]


def perplexity(model, tokenizer, text, context):
    """nibble-check's protocol gptq: windows without overlap, every position but the first scored."""
    ids = torch.tensor(tokenizer.encode(text).ids)
    windows = ids[: len(ids) // context * context].reshape(-1, context)
    total = 0.0
    with torch.no_grad():
        for rows in windows.split(16):
            log_s = F.log_softmax(model(rows, use_cache=False).logits.float(), -1)
            total -= log_s[:, :-1].gather(-1, rows[:, 1:, None]).sum().item()
    return math.exp(total / (windows.shape[0] * (context - 1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("dataset")
    parser.add_argument("out")
    parser.add_argument("--loss", choices=["kd", "ce"], default="kd")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sequences", type=int, default=0, help="only the first so many")
    parser.add_argument("--eval", help="a text that nothing was trained on")
    parser.add_argument("--context", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    data = load(args.dataset, args.sequences)
    model = make_student(args.teacher)
    tokenizer = Tokenizer.from_file(str(pathlib.Path(args.teacher) / "tokenizer.json"))
    text = pathlib.Path(args.eval).read_text() if args.eval else None
    if text:
        print(f"before: perplexity {perplexity(model, tokenizer, text, args.context):.3f}", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.1)
    warm = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / args.steps)))
    )
    order, start = torch.empty(0, dtype=torch.long), time.time()
    for step in range(args.steps):
        while len(order) < args.batch:
            order = torch.cat([order, torch.randperm(len(data["tokens"]))])
        rows, order = order[: args.batch], order[args.batch :]
        batch = {name: values[rows] for name, values in data.items()}
        log_s = F.log_softmax(model(batch["tokens"], use_cache=False).logits.float(), -1)
        losses = (kd_loss if args.loss == "kd" else ce_loss)(log_s, batch)
        loss = losses[batch["counts"]].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}, {time.time() - start:.0f} s", flush=True)
    model.save_pretrained(args.out)
    shutil.copy(pathlib.Path(args.teacher) / "tokenizer.json", args.out)
    if text:
        print(f"after: perplexity {perplexity(model, tokenizer, text, args.context):.3f}")


main()
