#!/usr/bin/env python3
"""Write tests/golden/pytorch/: what torch.save writes, and the same values as safetensors.

Needs torch and safetensors.  NAME.pt (or the folder NAME) is read by nibble, NAME.safetensors
is what must come out of it; files under refused/ must not be read; model/ is logits/llama-bf16 once more.
Written with torch 2.15.
"""
import collections
import io
import json
import pathlib
import shutil
import zipfile

import torch
from safetensors.torch import load_file, save_file
from torch.utils.serialization import config

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/pytorch"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int16, torch.int32,
          torch.int64, torch.uint8, torch.bool]


def numbers(*shape, start=0):
    count = 1
    for size in shape:
        count *= size
    return (torch.arange(start, start + count, dtype=torch.float32) * 0.37 - 3).reshape(shape)


def expect(name, tensors):
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()},
              FOLDER / f"{name}.safetensors")


def keep(name, saved, tensors=None, **options):
    """torch.save takes the archive's name from the file's; a buffer gives it the same one everywhere."""
    buffer = io.BytesIO()
    torch.save(saved, buffer, **options)
    (FOLDER / f"{name}.pt").write_bytes(buffer.getvalue())
    if tensors:
        expect(name, tensors)


def types():
    state = {f"of.{str(dtype).split('.')[1]}": numbers(3, 5).to(dtype) for dtype in DTYPES}
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 4)
    state["vector"] = numbers(7)
    state["rank4"] = numbers(2, 1, 3, 2)
    return state


def views():
    base = numbers(6, 4)
    return {"base": base, "rows": base[2:5], "same": base[2:5], "tied": base, "turned": base.t(),
            "turned_part": base[1:3].t(), "column_of_one": base[:, :1].contiguous(), "flat": base.view(-1),
            "unit": base.reshape(6, 1, 4)[2:3]}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def refused():
    base = numbers(6, 4)
    (FOLDER / "refused").mkdir()
    keep("refused/strided", {"w": base[::2]})
    keep("refused/expanded", {"w": base[:1].expand(3, 4)})
    keep("refused/permuted", {"w": numbers(2, 3, 4).permute(2, 0, 1)})
    keep("refused/float8", {"w": base.to(torch.float8_e4m3fn)})
    keep("refused/complex", {"w": base.to(torch.complex64)})
    keep("refused/nested", {"a": {"w": base}, "b": base})
    keep("refused/list", [base])
    keep("refused/sparse", {"w": base.to_sparse()})
    keep("refused/ordered", {"w": base, "x": collections.Counter("ab")})
    keep("refused/big-endian", {"w": base})
    rewrite(FOLDER / "refused/big-endian.pt", {"archive/byteorder": b"big"}, zipfile.ZIP_STORED)
    keep("refused/deflated", {"w": base})
    rewrite(FOLDER / "refused/deflated.pt", {}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(FOLDER / "refused/no-pickle.pt", "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), b"text")
    with zipfile.ZipFile(FOLDER / "refused/script.pt", "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(zipfile.ZipInfo(name), b"\x80\x02}.")


def rewrite(path, changes, method):
    """The same archive written by Python's zipfile: other headers, without data descriptors or zip64."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), changes.get(name, data), method)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    torch.manual_seed(1)
    keep("types", types(), types())
    keep("views", views(), views())
    for protocol in (2, 3, 4, 5):
        keep(f"protocol-{protocol}", {"a": numbers(2, 3), "b": numbers(4).half()},
             {"a": numbers(2, 3), "b": numbers(4).half()}, pickle_protocol=protocol)
    model = Model()
    keep("module", model.state_dict(), model.state_dict())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    parameters["norm.weight"].note = "an attribute"
    plain = numbers(3)
    plain.note = "another"
    keep("parameters", {**parameters, "plain": plain}, {**parameters, "plain": plain})
    optimizer = torch.optim.AdamW(Model().parameters())
    keep("training", {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": 7,
                      "best_val_loss": torch.tensor(1e9), "config": {"lr": 1e-3, "betas": (0.9, 0.95), "name": None,
                                                                      "dtype": torch.float16, "size": torch.Size([2])}},
         model.state_dict())
    keep("state-dict", {"epoch": 2**40, "state_dict": model.state_dict()}, model.state_dict())
    keep("module-wrapped", {"module": model.state_dict(), "dp_world_size": 1}, model.state_dict())
    keep("rewritten", {"a": numbers(2, 3), "b": numbers(3, 2)}, {"a": numbers(2, 3), "b": numbers(3, 2)})
    rewrite(FOLDER / "rewritten.pt", {}, zipfile.ZIP_STORED)
    config.save.storage_alignment = 1
    keep("unaligned", {"a": numbers(2, 3).to(torch.uint8), "b": numbers(5), "c": numbers(5).double()},
         {"a": numbers(2, 3).to(torch.uint8), "b": numbers(5), "c": numbers(5).double()})
    config.save.storage_alignment = 64
    sharded = FOLDER / "sharded"
    sharded.mkdir()
    parts = [{"a": numbers(2, 3), "b": numbers(4)}, {"c": numbers(3, 3).bfloat16(), "d": numbers(2).half()}]
    listing = {}
    for i, part in enumerate(parts):
        name = f"pytorch_model-{i + 1:05}-of-00002.bin"
        keep("part", part)
        (FOLDER / "part.pt").rename(sharded / name)
        listing.update({key: name for key in part})
    index = {"metadata": {"total_size": 70}, "weight_map": listing}
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1))
    expect("sharded", {**parts[0], **parts[1]})
    model = FOLDER / "model"  # tests/golden/logits/llama-bf16 with its weights as PyTorch
    model.mkdir()
    source = FOLDER.parent / "logits/llama-bf16"
    shutil.copy(source / "config.json", model)
    keep("part", load_file(source / "model.safetensors"))
    (FOLDER / "part.pt").rename(model / "pytorch_model.bin")
    refused()


if __name__ == "__main__":
    main()
