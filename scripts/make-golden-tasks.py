#!/usr/bin/env python3
"""Write tests/golden/tasks/*.expected.json: what EleutherAI's lm-evaluation-harness makes of the items beside them.

    python3 scripts/make-golden-tasks.py [--model models/folio-4M]

The harness runs its own task files (prompt templates, preprocessing, few-shot prefix, tokenization, scoring, metrics) on our
items: only where the data comes from is replaced. Layout "plain", which is ours, is a task of the templates {{question}} and
{{choices}}. Needs lm-eval 0.4.13, torch 2.15, transformers 5.23. Nothing is downloaded.

Of each set: the log-likelihood of every choice, what acc, acc_norm and acc_bytes say of every item, and the standard error that
the harness prints for acc. Computed in float32.
"""
import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import torch
from lm_eval.api.metrics import mean_stderr
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "tasks"

# set, task of the harness, shots
SETS = [("plain", None, 0), ("hellaswag", "hellaswag", 0), ("winogrande", "winogrande", 0),
        ("winogrande", "winogrande", 2), ("piqa", "piqa", 0), ("arc", "arc_easy", 0), ("arc", "arc_easy", 2),
        ("openbookqa", "openbookqa", 0), ("boolq", "boolq", 0), ("sciq", "sciq", 0),
        ("mmlu", "mmlu_elementary_mathematics", 0), ("mmlu", "mmlu_elementary_mathematics", 2)]

PLAIN = {"task": "plain", "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
         "doc_to_target": "answer"}


def plain_answer(item):
    answer = item["answer"]
    if isinstance(answer, str):
        answer = item["choices"].index(answer) if answer in item["choices"] else ord(answer) - ord("A")
    return {**item, "answer": answer}


def make_task(manager, name, task, shots, folder):
    config = dict(PLAIN) if task is None else load_yaml(manager.task_index[task].yaml_path, resolve_func=True)
    items = GOLDEN / f"{name}.jsonl"
    if task is None:
        items = folder / "plain.jsonl"
        lines = [plain_answer(json.loads(line)) for line in (GOLDEN / "plain.jsonl").open(encoding="utf-8")]
        items.write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {"test": str(items)}
    if shots:
        files["examples"] = str(GOLDEN / f"{name}-examples.jsonl")
    config.update(dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": files}, test_split="test",
                  validation_split=None, training_split=None, fewshot_split="examples" if shots else None,
                  fewshot_config={"sampler": "first_n"} if shots else None, num_fewshot=shots)
    config["metric_list"] = [{"metric": m} for m in ("acc", "acc_norm", "acc_bytes")]
    config.pop("custom_dataset", None)
    return ConfigurableTask(config=config)


def measure(model, task, shots):
    items = []
    task.build_all_requests(limit=None, rank=0, world_size=1)
    requests = task.instances
    answers = model.loglikelihood(requests, disable_tqdm=True)
    by_item = {}
    for request, answer in zip(requests, answers):
        by_item.setdefault(request.doc_id, []).append((request.idx, answer, request.args))
    docs = list(task.eval_docs)
    for index, found in sorted(by_item.items()):
        found.sort(key=lambda each: each[0])
        scores = task.process_results(docs[index], [answer for _, answer, _ in found])
        items.append({"context": found[0][2][0], "continuations": [args[1] for _, _, args in found],
                      "log_likelihoods": [answer[0] for _, answer, _ in found],
                      **{metric: float(scores[metric]) for metric in ("acc", "acc_norm", "acc_bytes")}})
    return {"shots": shots, "acc_stderr": mean_stderr([item["acc"] for item in items]), "items": items}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(ROOT / "models" / "folio-4M"))
    parser.add_argument("--out", type=Path, default=GOLDEN)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = HFLM(pretrained=options.model, dtype="float32", device="cpu", batch_size=1)
    manager = TaskManager()
    folder = options.out
    import tempfile
    with tempfile.TemporaryDirectory() as temporary:
        for name, task, shots in SETS:
            result = measure(model, make_task(manager, name, task, shots, Path(temporary)), shots)
            path = folder / f"{name}{f'-{shots}-shots' if shots else ''}.expected.json"
            text = json.dumps({"harness": lm_eval.__version__, **result}, ensure_ascii=False, indent=1)
            path.write_text(text + "\n", encoding="utf-8")
            print(path.name, len(result["items"]), "items, acc", sum(i["acc"] for i in result["items"]) / len(result["items"]))


main()
