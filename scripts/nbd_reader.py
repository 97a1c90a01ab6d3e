"""Read datasets of `nibble-distill dataset` into NumPy; docs/dataset-format.md is what this is built from.

    dataset = Dataset("out.nbd")
    for sequence in dataset: sequence["tokens"], sequence["ids"], sequence["log_probs"], sequence["tail"]

Shards are memory-mapped; a sequence is decoded when it is asked for. --check of every byte is `nibble-distill inspect`.
"""
import json
import pathlib
import zlib

import numpy as np

TYPES = {"u8": "u1", "f16": "<f2", "f32": "<f4"}
SEQUENCE = np.dtype([("first", "<u8"), ("source", "<u8"), ("length", "<u4"), ("prompt", "<u4"), ("flags", "<u4"), ("nll", "<f4")])


class Dataset:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.info = json.loads((self.path / "dataset.json").read_text())
        if not self.info["complete"]:
            raise ValueError(f"{path}: is not complete; run the command that makes it again")
        self.record = self.info["record"]
        self.fields = {field["name"]: field for field in self.record["fields"]}
        self.shards = [np.memmap(self.path / shard["file"], np.uint8, "r") for shard in self.info["shards"]]
        self.tables = [s[128 : 128 + 32 * int(s[32:40].view("<u8")[0])].view(SEQUENCE) for s in self.shards]
        self.index = [(s, i) for s, table in enumerate(self.tables) for i in range(len(table))]

    def __len__(self):
        return len(self.index)

    def records(self, shard, first, count):
        """Records first .. first + count - 1 of a shard as bytes [count][record bytes]."""
        data, size = self.shards[shard], self.record["bytes"]
        chunk, total = int(data[28:32].view("<u4")[0]), int(data[40:48].view("<u8")[0])
        begin = (128 + 32 * len(self.tables[shard]) + 63) // 64 * 64
        if not chunk:
            return data[begin + first * size : begin + (first + count) * size].reshape(count, size)
        chunks = -(-total // chunk)
        ends = data[begin : begin + 8 * chunks].view("<u8").astype(np.int64) + begin + 8 * chunks
        starts = np.concatenate([[begin + 8 * chunks], ends[:-1]])
        wanted = range(first // chunk, (first + count - 1) // chunk + 1)
        unpacked = b"".join(zlib.decompress(data[starts[i] : ends[i]].tobytes()) for i in wanted)
        skip = (first - wanted[0] * chunk) * size
        return np.frombuffer(unpacked, np.uint8)[skip : skip + count * size].reshape(count, size)

    def field(self, records, name):
        field = self.fields[name]
        raw = np.ascontiguousarray(records[:, field["at"] : field["at"] + field["bytes"]])
        if field["type"] == "u24":
            return raw @ np.array([1, 1 << 8, 1 << 16])
        if field["type"] != "elias-fano":
            return raw.view(TYPES[field["type"]])
        low, count = field["low_bits"], field["count"]
        bits = np.unpackbits(raw, axis=1, bitorder="little")
        lows = bits[:, : count * low].reshape(-1, count, low) @ (1 << np.arange(low))
        highs = np.nonzero(bits[:, count * low :])[1].reshape(-1, count) - np.arange(count)
        return highs << low | lows

    def __getitem__(self, number):
        shard, i = self.index[number]
        row = self.tables[shard][i]
        records = self.records(shard, int(row["first"]), int(row["length"]))
        out = {name: self.field(records, name) for name in self.fields if name not in ("range", "distances")}
        out["tokens"] = out.pop("token")
        out.update({name: row[name].item() for name in SEQUENCE.names if name != "first"})
        for name in ("logsumexp", "tail", "entropy"):
            if name in out:
                out[name] = out[name][:, 0]
        if "distances" in self.fields:
            below = self.field(records, "distances").astype(np.float64)
            if "range" in self.fields:
                below = self.field(records, "range").astype(np.float64) * (below / 255) ** 2
            mass = np.log1p(-out["tail"].astype(np.float64))
            out["log_probs"] = mass[:, None] - below - np.log(np.exp(-below).sum(1, keepdims=True))
        return out
