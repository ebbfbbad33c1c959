#!/usr/bin/env python3
"""The encoder beside its peers: `make bench-cross` runs this.

Usage: cross.py ENCODER BUILD_DIRECTORY [DATA_DIRECTORY]

Every engine runs on one thread in a process of its own and they take turns, round by round; the best of the rounds
counts, in CPU time, so that a busy neighbour costs all of them alike. A peer that is absent is skipped with a message.
"""
import collections, gzip, math, os, random, statistics, subprocess, sys

encoder, build = sys.argv[1], sys.argv[2]
data = sys.argv[3] if len(sys.argv) > 3 else ""
here = os.path.dirname(os.path.abspath(__file__))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SHARE_LEAST, WORKERS_LEAST = 0.80, 1.9
# A core counts as left alone while idle instructions come at this part of the rate that one turn in a hundred sees; each piece of
# a pass is wanted so many times with the core alone, and so many rounds are spent at most to meet that.
ALONE_LEAST, ALONE_PIECES, ALONE_ROUNDS = 0.9, 5, 20
# What two processes that share nothing reach together bounds what two workers can; so much of it is asked for at most.
OF_CEILING = 0.97
LIBRARIES = ("OpenBLAS", "oneDNN", "oneDNN with weights laid out")
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


def verdict(value, least):
    return "pass" if value >= least else "MISSED"


class Share:
    """
    What passes (or products) use of the multiply-adds that the processor computes in registers. A pass comes in pieces of a few
    milliseconds, always the same; between two pieces stand multiply-adds in registers and idle instructions. `every` is the
    pass made of each piece's median time; `alone` is made of those pieces before and after which the core was left alone, or
    None if a piece had it too seldom. Both are (share, GFLOP/s, GFLOP/s in registers).
    """

    idles = collections.Counter()  # turns by tenths of 10^9 idle instructions per second

    def __init__(self):
        self.gflop, self.passes = 0, []

    def add(self, answer):
        self.gflop, passes, turns = next(answer), int(next(answer)), int(next(answer))
        for _ in range(passes):
            self.passes.append([(next(answer), next(answer), next(answer)) for _ in range(turns)])
            Share.idles.update(int(10 * idle) for _, _, idle in self.passes[-1])

    @classmethod
    def idle_alone(cls):
        seen, enough = 0, cls.idles.total() / 100
        for tenths in sorted(cls.idles, reverse=True):
            seen += cls.idles[tenths]
            if seen >= enough:
                return ALONE_LEAST * tenths / 10

    def made_of(self, idle_least, pieces_least):
        found, seconds = [turn[1] for turns in self.passes for turn in turns if turn[2] >= idle_least], 0
        for piece in range(1, len(self.passes[0])):
            times = [turns[piece][0] for turns in self.passes if min(turns[piece - 1][2], turns[piece][2]) >= idle_least]
            if len(times) < pieces_least:
                return None
            seconds += statistics.median(times)
        rate, most = self.gflop / seconds, statistics.median(found)
        return rate / most, rate, most

    every = property(lambda self: self.made_of(0, 1))
    alone = property(lambda self: self.made_of(Share.idle_alone(), ALONE_PIECES))


def measure_shares(serm, command, rounds, rounds_most):
    """Of serm and each of LIBRARIES, None for one that is absent."""
    found = [Share() for _ in range(1 + len(LIBRARIES))]
    for number in range(rounds_most):
        answer = iter(serm.ask(command))
        for share in found:
            share.add(answer)
        if number + 1 >= rounds and all(share.alone for share in found if share.passes):
            break
    return [share if share.passes else None for share in found]


def forward_table(serm, torch, ort, quantised):
    print("\nForward, f32 and narrow weights, pairs/s on one thread")
    print(f"{'T':>4} {'B':>3} {'serm f32':>9} {'torch':>8} {'ORT':>8} {'bf16':>8} {'int8':>8} {'ORT int8':>9}"
          f" {'f32/torch':>10} {'f32/ORT':>8} {'int8/ORT':>9} {'int8/int8':>10} {'of peak':>8}")
    for tokens, batch in SHAPES:
        f32, t, o, bf16, int8, o8 = best(ROUNDS, [(engine, f"forward {precision} {tokens} {batch}") for engine, precision in (
            (serm, "f32"), (torch, "f32"), (ort, "f32"), (serm, "bf16"), (serm, "int8"), (quantised, "int8"))])
        share = measure_shares(serm, f"share {tokens} {batch} alone", ROUNDS, ROUNDS)[0].every[0]
        print(f"{tokens:4} {batch:3} {f32:9.1f} {t:8.1f} {o:8.1f} {bf16:8.1f} {int8:8.1f} {o8:9.1f}"
              f" {ratio(f32, t):>10} {ratio(f32, o):>8} {ratio(int8, o):>9} {ratio(int8, o8):>10} {share:8.2f}", flush=True)


def shares(serm):
    """
    The gate is on the pass that has its core alone: where another guest computes on the core's second thread it takes half of the
    instructions that the core takes in, and multiply-adds in registers, which need a third of them, hardly show it.
    """
    def text(share):
        return f"{share.alone[0] if share.alone else math.nan:.2f} {share.every[0]:.2f}"

    own = measure_shares(serm, "share 128 8 alone", 2 * ROUNDS + 4, 2 * ALONE_ROUNDS)[0]
    print("\nshare of the peak of multiply-adds, whole forward pass of 8 x 128 tokens, the core left alone: " + (
        f"{own.alone[1]:.0f} of {own.alone[2]:.0f} GFLOP/s: {own.alone[0]:.3f}, at least {SHARE_LEAST}: {verdict(own.alone[0], SHARE_LEAST)}"
        if own.alone else "not measured, another guest kept it busy"))
    print(f"  the core as it was, {len(own.passes)} passes: {own.every[1]:.0f} of {own.every[2]:.0f} GFLOP/s: {own.every[0]:.3f}")
    own, *libraries = found = measure_shares(serm, "share 128 8", ROUNDS + 2, ALONE_ROUNDS)
    print("  in turns with libraries, core alone, core as it was: " + ", ".join(
        f"{name} {text(share)}" for name, share in zip(("serm",) + LIBRARIES, found) if share))
    for name, shape in (("query and out (384 from 384)", "672 384 384"), ("keys and values (768 from 384)", "336 768 384"),
                        ("up (1536 from 384)", "154 1536 384"), ("down (384 from 1536)", "154 384 1536")):
        found = measure_shares(serm, f"product {shape}", ROUNDS + 2, ALONE_ROUNDS)
        print(f"  product, {name}: " + ", ".join(
            f"{library} {text(share)}" for library, share in zip(("serm",) + LIBRARIES, found) if share), flush=True)
    if any(libraries):
        most = max(share.every[0] for share in libraries if share)
        print(f"  the best library's pass reaches {most:.3f};"
              f" serm's pass at least that of every library: {verdict(own.every[0], most)}", flush=True)


def together(engines, command):
    for engine in engines:
        engine.process.stdin.write(command + "\n")
        engine.process.stdin.flush()
    return [float(engine.process.stdout.readline()) for engine in engines]


def workers():
    """
    Two processes at once against one alone, by the clock on the wall, in turns: whole forward passes, and multiply-adds in
    registers. The latter share no memory and no cache: what they lose by each other no program gets back.
    """
    engines = [Engine([encoder], False) for _ in range(2)]
    for number, engine in enumerate(engines):
        if os.cpu_count() > 1:
            os.sched_setaffinity(engine.process.pid, {sorted(os.sched_getaffinity(0))[number]})
        engine.ask("hold 128 8")
    gains = {"forward": [], "spin": []}
    for _ in range(2 + 3 * ROUNDS):
        for kind, found in gains.items():
            command = f"during 1 {kind}"
            first, both, second = together(engines[:1], command), together(engines, command), together(engines[1:], command)
            found.append(2 * sum(both) / (first[0] + second[0]))
    forward, ceiling = (statistics.median(found) for found in gains.values())
    least = min(WORKERS_LEAST, OF_CEILING * ceiling)
    print(f"\ntwo workers against one, wall clock, medians of {len(gains['spin'])} turns: forward {forward:.2f}x; multiply-adds in registers"
          f" {ceiling:.2f}x, the ceiling of these processors (from {min(gains['spin']):.2f} to {max(gains['spin']):.2f})")
    print(f"  {forward / ceiling:.2f} of the ceiling; at least {WORKERS_LEAST} or {OF_CEILING} of the ceiling, here {least:.2f}:"
          f" {verdict(forward, least)} (load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors)")


def main():
    serm = Engine([encoder], False)
    model = os.path.join(build, "minilm.onnx")
    torch = start("PyTorch", ["/usr/bin/python3", os.path.join(here, "cross_torch.py"), model])
    module = os.path.join(build, "node_modules", "onnxruntime-node")
    ort = quantised = None
    if torch is None or not os.path.isdir(module):
        print("ONNX Runtime: skipped, it needs PyTorch to write the models and onnxruntime-node beside the build")
    else:
        ort, quantised = (start("ONNX Runtime", ["node", os.path.join(here, "cross_ort.js"), os.path.abspath(module), file])
                          for file in (model, model + ".int8"))
    print("peers:", *(engine.name for engine in (torch, ort) if engine), sep="\n  ")
    forward_table(serm, torch, ort, quantised)
    shares(serm)

    print("\nNarrow weights against f32 on 256 random pairs: difference of the logits in their own spread, Kendall's tau")
    for precision in ("bf16", "int8"):
        difference, tau = serm.ask(f"difference {precision}")
        print(f"{precision}: {difference:.4f}, {tau:.4f}")
    if ort and quantised:
        exact, narrow = (engine.ask("logits") for engine in (ort, quantised))
        apart = statistics.fmean((x - y) ** 2 for x, y in zip(exact, narrow)) ** .5 / statistics.pstdev(exact)
        print(f"ONNX Runtime's int8 against its f32, other weights: {apart:.4f}")

    source, lengths = passage_lengths()
    text = " ".join(map(str, [len(lengths)] + lengths))
    packed, padded = best(ROUNDS, [(serm, "mixed " + text), (serm, "padded " + text)])
    print(f"\nmixed lengths, {source}: packed {packed:.1f}, padded in batches of 32 {padded:.1f} pairs/s:"
          f" {packed / padded:.2f}x")

    ours, theirs = best(ROUNDS, [(serm, "train 128 32"), (torch, "train 128 32")])
    print(f"\ntraining step, T=128, batch 32: serm {ours:.2f}, torch {theirs:.2f} pairs/s: {ratio(ours, theirs).strip()}")
    workers()


main()
