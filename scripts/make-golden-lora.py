#!/usr/bin/env python3
"""Write tests/golden/lora/: adapters as PEFT saves them, and the weights that PEFT merges them to.

Needs torch, transformers 5, peft 0.21 and safetensors.  The model is tests/golden/logits/llama.  Each case is a folder with
adapter_config.json, adapter_model.safetensors, and merged.safetensors: the tensors of the merged model that changed.
"""
import json
import pathlib
import shutil
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

CASES = {
    "plain": dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"]),
    "stabilized": dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["o_proj", "embed_tokens"],
                       rank_pattern={"o_proj": 2}, alpha_pattern={"o_proj": 7}),
    "saved": dict(r=2, lora_alpha=2, target_modules=["gate_proj"], modules_to_save=["input_layernorm"]),
}


def main():
    golden = pathlib.Path(__file__).resolve().parent.parent / "tests/golden"
    for name, options in CASES.items():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(golden / "logits/llama", dtype=torch.float32)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
        for key, parameter in peft.named_parameters():
            if "lora_" in key:
                parameter.data.normal_(0, 0.1)
            if "modules_to_save" in key:
                parameter.data.mul_(1.25)
        with tempfile.TemporaryDirectory() as scratch:
            peft.save_pretrained(scratch, save_embedding_layers=False)
            folder = golden / "lora" / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(pathlib.Path(scratch) / "adapter_model.safetensors", folder)
            config = json.loads((pathlib.Path(scratch) / "adapter_config.json").read_text())
            config["base_model_name_or_path"] = "llama"
            config["target_modules"] = sorted(config["target_modules"])  # a set: its order changes from run to run
            (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        merged = peft.merge_and_unload().state_dict()
        changed = {key: value.contiguous() for key, value in merged.items() if not torch.equal(value, before[key])}
        save_file(changed, folder / "merged.safetensors")
        print(name, len(changed), "tensors", len(load_file(folder / "adapter_model.safetensors")), "factors")


main()
