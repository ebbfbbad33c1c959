#!/usr/bin/python3
"""Golden numbers of small BERTs and RoBERTas, as test/unit/encoder_classic_golden.h holds them.

    test/data/classic_golden.py > test/unit/encoder_classic_golden.h

The layers are PyTorch's own (torch.nn.TransformerEncoderLayer, norms last), in float64. What stands around them is what
modeling_bert.py and modeling_roberta.py of Hugging Face transformers compute: the sum of the embeddings and its norm, RoBERTa's
positions, which begin behind the padding's, a head over the first token's row. Weights, inputs, labels and targets come
from the formulas of test/unit/encoder_modern_fixture.h. Needs python3-torch.
"""
import math

import torch
from torch import nn

torch.set_default_dtype(torch.float64)
LENGTHS = [1, 4, 9, 17, 40, 64]
TARGETS = [1, 0, .25, .75, 1, .5]
GRADES = [3, 0, 1, 2, 3, 1]
HIDDEN, WIDE, LAYERS, HEADS, WORDS = 32, 48, 3, 4, 61
MASK = (1 << 64) - 1
VARIANTS = [("bert", 1, 1e-12, "gelu"), ("bert", 4, 1e-3, "relu"), ("roberta", 1, 1e-5, "gelu"), ("roberta", 4, 1e-5, "gelu")]


def mixed(value):
    value = (value + 0x9e3779b97f4a7c15) & MASK
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9 & MASK
    value = (value ^ value >> 27) * 0x94d049bb133111eb & MASK
    return value ^ value >> 31


def tensor(name, *shape):
    seed = 0xcbf29ce484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001b3 & MASK
    values = [((mixed((seed + i) & MASK) >> 48) - 32768) / 32768 for i in range(math.prod(shape))]
    if name.endswith("orm.weight"):
        values = [1 + v / 2 for v in values]
    else:
        values = [(.25 if len(shape) == 1 else .375) * v for v in values]
    return torch.tensor(values).reshape(shape).requires_grad_()


class Classic:
    def __init__(self, kind, labels, eps, activation):
        self.roberta, self.labels, self.eps = kind == "roberta", labels, eps
        self.weights, self.first = {}, 2 if self.roberta else 0
        e, h = "embeddings.", HIDDEN
        self.words = self.take(e + "word_embeddings.weight", 300 if self.roberta else WORDS, h)
        self.positions = self.take(e + "position_embeddings.weight", 64 + self.first, h)
        self.types = self.take(e + "token_type_embeddings.weight", 1 if self.roberta else 2, h)
        self.norm = self.pair(e + "LayerNorm", h)
        self.layers = [self.layer(f"encoder.layer.{n}.", activation) for n in range(LAYERS)]
        self.pool = self.pair("classifier.dense" if self.roberta else "pooler.dense", h, h)
        self.out = self.pair("classifier.out_proj" if self.roberta else "classifier", labels, h)

    def take(self, name, *shape):
        self.weights[name] = tensor(name, *shape)
        return self.weights[name]

    def pair(self, name, *shape):
        return self.take(name + ".weight", *shape), self.take(name + ".bias", shape[0])

    def layer(self, base, activation):
        """A function that calls PyTorch's layer with the weights of this one."""
        h = HIDDEN
        parts = [self.pair(base + f"attention.self.{p}", h, h) for p in ("query", "key", "value")]
        named = {"self_attn.out_proj": self.pair(base + "attention.output.dense", h, h),
                 "norm1": self.pair(base + "attention.output.LayerNorm", h),
                 "linear1": self.pair(base + "intermediate.dense", WIDE, h),
                 "linear2": self.pair(base + "output.dense", h, WIDE),
                 "norm2": self.pair(base + "output.LayerNorm", h)}
        module = nn.TransformerEncoderLayer(h, HEADS, WIDE, 0, activation, self.eps, batch_first=True).train()

        def run(x):
            given = {f"{n}.{p}": w for n, both in named.items() for p, w in zip(("weight", "bias"), both)}
            given["self_attn.in_proj_weight"] = torch.cat([w for w, _ in parts])
            given["self_attn.in_proj_bias"] = torch.cat([b for _, b in parts])
            return torch.nn.utils.stateless.functional_call(module, given, (x,))

        return run

    def logits(self, number):
        n = LENGTHS[number]
        ids = [3 + mixed(1000 * number + t) % (WORDS - 3) for t in range(n)]
        ids[0] = 0 if self.roberta else 1
        if n > 3:
            ids[n // 3] = ids[n - 1] = 2
        if n > 8 and self.roberta:
            ids[n // 3 + 1] = 2
        types = [0 if self.roberta else int(t > n // 3) for t in range(n)]
        x = self.words[ids] + self.positions[self.first:self.first + n] + self.types[types]
        x = nn.functional.layer_norm(x, (HIDDEN,), *self.norm, self.eps)[None]
        for run in self.layers:
            x = run(x)
        return nn.functional.linear(torch.tanh(nn.functional.linear(x[0, 0], *self.pool)), *self.out)

    def loss(self, number, logits):
        if self.labels == 1:
            return nn.functional.binary_cross_entropy_with_logits(logits[0], torch.tensor(float(TARGETS[number])))
        return nn.functional.cross_entropy(logits[None], torch.tensor([GRADES[number]]))


def braces(numbers):
    return "{" + ", ".join(f"{float(v):.15g}" for v in numbers) + "}"


def main():
    print("/* Made by test/data/classic_golden.py, which says of what. */\n#ifndef SERM_TEST_ENCODER_CLASSIC_GOLDEN_H\n"
          "#define SERM_TEST_ENCODER_CLASSIC_GOLDEN_H\n\n#include \"encoder_modern_fixture.h\"\n\nenum { CLASSIC_INPUTS = 6, CLASSIC_GRADIENTS_MAX = 64 };\n\n"
          "typedef struct ClassicGolden {\n\tdouble logits[CLASSIC_INPUTS][4];\n\tdouble loss, losses[CLASSIC_INPUTS];\n"
          "\tFormulaGradient gradients[CLASSIC_GRADIENTS_MAX];\n} ClassicGolden;\n\nstatic const ClassicGolden classic_golden[] = {")
    for variant in VARIANTS:
        model = Classic(*variant)
        logits = [model.logits(i) for i in range(len(LENGTHS))]
        losses = [model.loss(i, row) for i, row in enumerate(logits)]
        mean = sum(losses) / len(losses)
        mean.backward()
        print("{.logits = {" + ", ".join(braces(row) for row in logits) + "},\n.loss = " + f"{float(mean):.15g},\n.losses = "
              + braces(losses) + ",\n.gradients = {" + ", ".join(f'{{"{n}", {float(w.grad.norm()):.15g}}}'
                                                                 for n, w in model.weights.items()) + "}},")
    print("};\n\n#endif")


if __name__ == "__main__":
    main()
