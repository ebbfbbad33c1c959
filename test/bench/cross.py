#!/usr/bin/env python3
"""The encoder beside its peers: `make bench-cross` runs this.

Usage: cross.py ENCODER BUILD_DIRECTORY [DATA_DIRECTORY]

Every engine runs on one thread in a process of its own and they take turns, round by round; the best of the rounds
counts, in CPU time, so that a busy neighbour costs all of them alike. A peer that is absent is skipped with a message.
"""
import gzip, os, random, subprocess, sys, time

encoder, build = sys.argv[1], sys.argv[2]
data = sys.argv[3] if len(sys.argv) > 3 else ""
here = os.path.dirname(os.path.abspath(__file__))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SHAPES = [(tokens, batch) for tokens in (64, 128, 256) for batch in (8, 1)]


class Engine:
    """A process that answers one line to each command."""

    def __init__(self, command, greets):
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        # Processors newer than the library are taken for old ones: the peer gets the kernels that the flags allow.
        if "avx512f" in open("/proc/cpuinfo").read():
            environment.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env=environment)
        self.name = self.process.stdout.readline().strip() if greets else "serm"
        if not self.name:
            raise RuntimeError((self.process.stderr.read().strip().split("\n") or [""])[-1])

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return [float(word) for word in self.process.stdout.readline().split()]


def start(name, command):
    try:
        return Engine(command, True)
    except (OSError, RuntimeError) as error:
        print(f"{name}: skipped, {error}")
        return None


def best(rounds, asks):
    """For each (engine, command) the best of its rounds, taking turns."""
    answers = [0.0] * len(asks)
    for _ in range(rounds):
        for i, (engine, command) in enumerate(asks):
            if engine is not None:
                answers[i] = max(answers[i], engine.ask(command)[0])
    return answers


def ratio(ours, theirs):
    return f"{ours / theirs:5.2f}x" if theirs else "     -"


def passage_lengths():
    """Tokens of 64 pairs: words of real questions and passages times 1.3, or a log-normal law without data."""
    random.seed(1)
    path = os.path.join(data, "epqa", "docs.tsv.gz")
    if os.path.exists(path):
        words = [len(line.split()) for line in gzip.open(path, "rt", encoding="utf-8")]
        source = "epqa passages"
    else:
        words = [int(random.lognormvariate(4, 0.6)) for _ in range(1000)]
        source = "log-normal lengths (no data)"
    return source, [min(256, max(8, round(1.3 * (count + 8)))) for count in random.sample(words, 64)]


def forward_table(serm, torch, ort, peak):
    print("\nForward, f32 and narrow weights, pairs/s on one thread")
    print(f"{'T':>4} {'B':>3} {'serm f32':>9} {'torch':>8} {'ORT':>8} {'bf16':>8} {'int8':>8}"
          f" {'f32/torch':>10} {'f32/ORT':>8} {'int8/ORT':>9} {'of peak':>8}")
    for tokens, batch in SHAPES:
        f32, t, o, bf16, int8 = best(ROUNDS, [(engine, f"forward {precision} {tokens} {batch}") for engine, precision in (
            (serm, "f32"), (torch, "f32"), (ort, "f32"), (serm, "bf16"), (serm, "int8"))])
        share = f32 * serm.ask(f"flops {tokens}")[0] / peak
        print(f"{tokens:4} {batch:3} {f32:9.1f} {t:8.1f} {o:8.1f} {bf16:8.1f} {int8:8.1f}"
              f" {ratio(f32, t):>10} {ratio(f32, o):>8} {ratio(int8, o):>9} {share:8.2f}", flush=True)


def workers_line(command):
    """Wall-clock speed of two processes at once against one; only a quiet machine gives a figure that means anything."""
    engines = [Engine([encoder], False) for _ in range(2)]
    for engine in engines:
        engine.ask("forward f32 128 8")
    spans = []
    for some in (engines[:1], engines):
        started = time.monotonic()
        for engine in some:
            engine.process.stdin.write(command + "\n")
            engine.process.stdin.flush()
        for engine in some:
            engine.process.stdout.readline()
        spans.append(len(some) / (time.monotonic() - started))
    print(f"\ntwo workers against one, wall clock: {spans[1] / spans[0]:.2f}x"
          f" (load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)")


def main():
    serm = Engine([encoder], False)
    model = os.path.join(build, "minilm.onnx")
    torch = start("PyTorch", ["/usr/bin/python3", os.path.join(here, "cross_torch.py"), model])
    module = os.path.join(build, "node_modules", "onnxruntime-node")
    ort = None
    if torch is None or not os.path.isdir(module):
        print("ONNX Runtime: skipped, it needs PyTorch to write the model and onnxruntime-node beside the build")
    else:
        ort = start("ONNX Runtime", ["node", os.path.join(here, "cross_ort.js"), os.path.abspath(module), model])
    peak = max(serm.ask("peak")[0] for _ in range(5))
    print("peers:", *(engine.name for engine in (torch, ort) if engine), sep="\n  ")
    print(f"measured peak of multiply-adds: {peak:.0f} GFLOP/s")
    forward_table(serm, torch, ort, peak)

    print("\nNarrow weights against f32 on 256 random pairs: difference of the logits in their own spread, Kendall's tau")
    for precision in ("bf16", "int8"):
        difference, tau = serm.ask(f"difference {precision}")
        print(f"{precision}: {difference:.4f}, {tau:.4f}")

    source, lengths = passage_lengths()
    text = " ".join(map(str, [len(lengths)] + lengths))
    packed, padded = best(ROUNDS, [(serm, "mixed " + text), (serm, "padded " + text)])
    print(f"\nmixed lengths, {source}: packed {packed:.1f}, padded in batches of 32 {padded:.1f} pairs/s:"
          f" {packed / padded:.2f}x")

    ours, theirs = best(ROUNDS, [(serm, "train 128 32"), (torch, "train 128 32")])
    print(f"\ntraining step, T=128, batch 32: serm {ours:.2f}, torch {theirs:.2f} pairs/s: {ratio(ours, theirs).strip()}")
    workers_line("train 128 8")


main()
