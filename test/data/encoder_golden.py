#!/usr/bin/env python3
"""A reference cross-encoder as one text file that test/unit/test_encoder_golden.c reads.

Usage: encoder_golden.py DIRECTORY > FILE. The directory holds config.json, model.safetensors, logits.jsonl.gz and
training.json.gz: a BERT with golden logits, losses and gradient norms. Standard library only.
"""
import gzip, json, os, struct, sys

directory = sys.argv[1]


def path(name):
    return os.path.join(directory, name)


config = json.load(open(path("config.json")))
print("config", config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"],
      config["intermediate_size"], config["vocab_size"], config["max_position_embeddings"], config["type_vocab_size"],
      len(config.get("id2label", {"0": "", "1": ""})), config["layer_norm_eps"])

with open(path("model.safetensors"), "rb") as file:
    length = struct.unpack("<Q", file.read(8))[0]
    header = json.loads(file.read(length))
print("weights", path("model.safetensors"))
for name, tensor in header.items():
    if name != "__metadata__" and tensor["dtype"] == "F32":
        first, last = tensor["data_offsets"]
        print("tensor", name.removeprefix("bert."), 8 + length + first, (last - first) // 4)


def write_pair(word, pair, *numbers):
    print(word, len(pair["ids"]), *pair["ids"], *pair["type_ids"], *numbers)


for line in gzip.open(path("logits.jsonl.gz"), "rt"):
    pair = json.loads(line)
    write_pair("pair", pair, len(pair["logits"]), *pair["logits"], len(pair.get("norms", [])), *pair.get("norms", []))

training = json.load(gzip.open(path("training.json.gz"), "rt"))
for pair, loss in zip(training["pairs"], training["losses"]):
    write_pair("train", pair, pair["label"], loss)
print("loss", training["loss"])
for name, norm in training["gradient_norms"].items():
    print("gradient", name.removeprefix("bert."), norm)
