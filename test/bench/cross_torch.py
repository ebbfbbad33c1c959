#!/usr/bin/env python3
"""MiniLM-L6's shape in PyTorch on one thread, for cross.py: the same commands and answers as encoder.c.

With a path as argument it also writes the model there as ONNX, and to the path with .int8 behind it with the products of its linear
layers quantised as ONNX Runtime's own quantize_dynamic does it: signed weights, inputs by DynamicQuantizeLinear, MatMulInteger.
"""
import copy, math, sys, time, warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

HIDDEN, WIDE, HEADS, LAYERS, VOCAB, POSITIONS = 384, 1536, 12, 6, 30522, 512
torch.set_num_threads(1)
torch.manual_seed(1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.up, self.down = nn.Linear(HIDDEN, WIDE), nn.Linear(WIDE, HIDDEN)
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN, 1e-12), nn.LayerNorm(HIDDEN, 1e-12)

    def forward(self, x):
        batch, tokens, _ = x.shape
        split = lambda y: y.view(batch, tokens, HEADS, HIDDEN // HEADS).transpose(1, 2)
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(HIDDEN // HEADS), -1)
        x = self.norm1(self.out((p @ v).transpose(1, 2).reshape(batch, tokens, HIDDEN)) + x)
        return self.norm2(self.down(F.gelu(self.up(x))) + x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCAB, HIDDEN), nn.Embedding(POSITIONS, HIDDEN)
        self.types, self.norm = nn.Embedding(2, HIDDEN), nn.LayerNorm(HIDDEN, 1e-12)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.pool, self.classifier = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, ids):
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1])) + self.types(torch.zeros_like(ids))
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(torch.tanh(self.pool(x[:, 0])))


class Quantise(torch.autograd.Function):
    """Unsigned bytes, their scale and their zero, for a whole tensor."""

    @staticmethod
    def symbolic(g, x):
        return g.op("DynamicQuantizeLinear", x, outputs=3)

    @staticmethod
    def forward(ctx, x):
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        scale = (high - low) / 255
        zero = torch.round(-low / scale)
        return torch.clamp(torch.round(x / scale) + zero, 0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


class Product(torch.autograd.Function):
    @staticmethod
    def symbolic(g, q, scale, zero, weight, weight_scale, weight_zero, bias):
        whole = g.op("Cast", g.op("MatMulInteger", q, weight, zero, weight_zero), to_i=1)
        return g.op("Add", g.op("Mul", whole, g.op("Mul", scale, weight_scale)), bias)

    @staticmethod
    def forward(ctx, q, scale, zero, weight, weight_scale, weight_zero, bias):
        return (q.float() - zero.float()) @ (weight.float() - weight_zero.float()) * (scale * weight_scale) + bias


class QuantisedLinear(nn.Module):
    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().max() / 127
        self.register_buffer("weight", torch.round(linear.weight.detach() / scale).to(torch.int8).t().contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros((), dtype=torch.int8))
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x):
        return Product.apply(*Quantise.apply(x), self.weight, self.scale, self.zero, self.bias)


def quantised(model):
    """A copy; what reads only the first tokens stays as it is."""
    model = copy.deepcopy(model)
    for layer in model.layers:
        for name, part in list(layer.named_children()):
            if isinstance(part, nn.Linear):
                setattr(layer, name, QuantisedLinear(part))
    return model


def write_onnx(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.randint(1000, 30000, (2, 16)),), path, input_names=["ids"],
                          output_names=["logits"], dynamic_axes={"ids": {0: "batch", 1: "tokens"}}, opset_version=14)


def best_of(function, seconds, least):
    function()
    best, end, count = math.inf, time.process_time() + seconds, 0
    while time.process_time() < end or count < least:
        start = time.process_time()
        function()
        best, count = min(best, time.process_time() - start), count + 1
    return best


def forward(tokens, batch):
    ids = torch.randint(1000, 30000, (batch, tokens))
    model.eval()
    with torch.no_grad():
        return batch / best_of(lambda: model(ids), 1, 2)


def train(tokens, batch):
    ids = torch.randint(1000, 30000, (batch, tokens))
    labels = (torch.arange(batch) % 2).float()
    fresh = Encoder().train()
    optimiser = torch.optim.AdamW(fresh.parameters(), lr=2e-5)

    def step():
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(fresh(ids)[:, 0], labels).backward()
        optimiser.step()

    return batch / best_of(step, 0, 3)


model = Encoder()
if len(sys.argv) > 1:
    write_onnx(model, sys.argv[1])
    write_onnx(quantised(model), sys.argv[1] + ".int8")
print("ready", torch.__version__, flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "forward":
        print(forward(int(words[2]), int(words[3])), flush=True)
    else:
        print(train(int(words[1]), int(words[2])), flush=True)
