"""What the model of a set costs, and whether training it twice gives the same bytes."""
import re

from quality_sets import psql
from quality_systems import Interaction, SPENT, TICKS

ROUNDS = 3
PAIRS = 10000
# Microseconds of CPU per pair, stored and from text of about 60 words; seconds of CPU of a training of 33k pairs (10) that
# learns embeddings from 36k titles before (5).
STORED_US = 10
RAW_US = 20
TRAIN_SECONDS = 15


def microseconds(argument):
    """CPU time of one backend per pair, the best of ROUNDS; reading the rows and joining is left out by a run that does not
    score."""
    best = {}
    for kind, call in (("score", f"serm.score(query, {argument}, 'bench_cost')"), ("read", f"length({argument}::text)")):
        if kind == "read" and argument == "stored":
            call = "pg_column_size(stored)"
        out = psql("\\t on\n\\a\nSET max_parallel_workers_per_gather = 0;\n"
                   + f"SELECT count({call}) FROM bench.cost_pair;\n" + ROUNDS * (
                       f"SELECT 'ticks ' || {SPENT};\nSELECT count({call}) FROM bench.cost_pair, generate_series(1, 3);\n"
                       f"SELECT 'ticks ' || {SPENT}, 'pairs ' || 3 * count(*) FROM bench.cost_pair;\n"))
        ticks = [int(t) for t in re.findall(r"ticks (\d+)", out)]
        pairs = int(re.search(r"pairs (\d+)", out).group(1))
        best[kind] = min(b - a for a, b in zip(ticks[::2], ticks[1::2])) / TICKS / pairs * 1e6
    return best["score"] - best["read"]


def cost(name, ours):
    """Prints what fold 0 costs; returns the figures that have a gate, and the gates."""
    again = Interaction(name, [])
    again.train(name, 0, "bench_cost")
    same = again.tensors[0] == ours.tensors[0]
    psql(f"""CREATE TABLE bench.cost_pair AS SELECT query, doc, serm.encode(doc) AS stored FROM bench.grade
            JOIN bench.query USING (query_id) JOIN bench.product USING (doc_id) WHERE pool = 1
            ORDER BY query_id, doc_id LIMIT {PAIRS};
        ANALYZE bench.cost_pair;""")
    stored, raw = microseconds("stored"), microseconds("doc")
    psql("SELECT serm.drop_model('bench_cost');")
    print(f"  cost: {stored:.1f} us per pair stored, {raw:.1f} us from text, training {again.seconds:.1f} s of CPU; trained "
          f"twice: {'the same bytes' if same else 'OTHER BYTES'}")
    found, gates = {"same bytes": float(same)}, {"same bytes": 1}
    if name == "homedepot":
        found.update({"us per stored pair": stored, "seconds of training": again.seconds})
        gates.update({"us per stored pair": -STORED_US, "seconds of training": -TRAIN_SECONDS})
    if name == "trec_dl2019":
        found.update({"us per stored pair": stored, "us per pair of text": raw})
        gates.update({"us per stored pair": -STORED_US, "us per pair of text": -RAW_US})
    return found, gates
