"""The sets of `make bench-quality`: their grades, folds and gates, and how they get into the database."""
import csv
import hashlib
import io
import os
import subprocess
import sys

import numpy as np

SEED = 42
POOL = 100
# Per set: directory, grades as 0..G-1, folds (0: fold 0 is a quarter of the queries, and the only one held out), whether
# candidates are the first POOL documents of BM25 instead of the judged ones, gates (negative: at most).
SETS = {
    "crowdflower_srr": {
        "grade": lambda g: int(g) - 1, "grades": 4, "folds": 5, "pool": False,
        "gates": {"lin@4": .857, "lin@10": .865, "pacc": .672, "accuracy": .628, "nll": -.930, "kappa cuts": .52,
                  "ece": -.04},
    },
    "homedepot": {
        "grade": lambda g: 0 if g < 1.5 else 1 if g < 2.17 else 2 if g < 2.84 else 3, "grades": 4, "folds": 0, "pool": False,
        "gates": {"lin@4": .853, "pacc": .580, "pearson": .495, "accuracy": .474, "nll": -1.096, "kappa cuts": .465,
                  "ece": -.04},
    },
    "epqa": {
        "grade": int, "grades": 3, "folds": 5, "pool": False,
        "gates": {"lin@4": .765, "lin@10": .855, "pearson": .612, "accuracy": .731, "nll": -.643, "kappa cuts": .555,
                  "ece": -.04},
    },
    "trec_dl2019": {"grade": int, "grades": 4, "folds": 5, "pool": False, "gates": {"lin@10": .540}},
    "cranfield": {
        "grade": lambda g: 1 if g < 3 else 2 if g < 4 else 3, "grades": 4, "folds": 5, "pool": True,
        "gates": {"lin@10": .540},
    },
}


def share(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def psql(script):
    """Run a script, return its standard output; an error ends the benchmark with psql's message."""
    done = subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"], input=script.encode(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"quality.py: psql failed\n{done.stderr.decode()}")
    return done.stdout.decode()


def rows(select):
    text = psql(f"COPY ({select}) TO STDOUT (FORMAT csv);")
    csv.field_size_limit(1 << 30)
    return list(csv.reader(io.StringIO(text)))


def copy(table, lines):
    return f"COPY {table} FROM STDIN (FORMAT csv);\n" + "".join(lines) + "\\.\n"


def csv_lines(records):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(records)
    return [out.getvalue()]


def load(root, name, pool_of):
    """Load a set; `pool_of` gives the candidates of a set of queries. Returns the folds to hold out."""
    path = os.path.join(root, name)
    psql(f"""
        DROP SCHEMA IF EXISTS bench CASCADE;
        CREATE SCHEMA bench;
        CREATE TABLE bench.product (doc_id text PRIMARY KEY, title text, body text,
            doc text GENERATED ALWAYS AS (title || E'\\n' || body) STORED);
        CREATE VIEW bench.document AS SELECT doc_id, doc FROM bench.product;
        CREATE TABLE bench.query (query_id text PRIMARY KEY, query text, place int GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE bench.raw (query_id text, doc_id text, grade float8);
        \\copy bench.product (doc_id, title, body) from program 'gzip -dc {path}/docs.tsv.gz | sed "s/\\\\\\\\/&&/g"'
        \\copy bench.query (query_id, query) from program 'gzip -dc {path}/queries.tsv.gz | sed "s/\\\\\\\\/&&/g"'
        \\copy bench.raw from program 'gzip -dc {path}/qrels.tsv.gz'
        -- Stems as english has them, but no stop words: questions need them.
        CREATE TEXT SEARCH DICTIONARY bench.stem (TEMPLATE = snowball, language = english);
        CREATE TEXT SEARCH CONFIGURATION bench.stems (COPY = english);
        ALTER TEXT SEARCH CONFIGURATION bench.stems ALTER MAPPING REPLACE english_stem WITH bench.stem;
        CREATE TABLE bench.grade (query_id text, doc_id text, grade int, fold int, pool int, PRIMARY KEY (query_id, doc_id));
    """)
    spec = SETS[name]
    ids = [q for q, in rows("SELECT query_id FROM bench.query ORDER BY place")]
    fold = {}
    for place, i in enumerate(np.random.RandomState(SEED).permutation(len(ids))):
        held_out = place >= int(.75 * len(ids))
        fold[ids[i]] = place * spec["folds"] // len(ids) if spec["folds"] else int(not held_out)
    grade = {(q, d): spec["grade"](float(g))
             for q, d, g in rows("SELECT query_id, doc_id, avg(grade) FROM bench.raw "
                                 "JOIN bench.product USING (doc_id) JOIN bench.query USING (query_id) GROUP BY 1, 2")}
    # In a pool the judged documents that BM25 missed count for the ideal order only; what nobody judged has grade 0.
    pool = set(grade)
    if spec["pool"]:
        pool = pool_of({q for q, _ in grade})
        grade.update({pair: 0 for pair in pool if pair not in grade})
    pairs = [(q, d, g, fold[q], int((q, d) in pool)) for (q, d), g in grade.items()]
    psql(copy("bench.grade", csv_lines(pairs)) + "ANALYZE bench.grade, bench.product, bench.query;")
    return sorted({fold[q] for q, _ in grade}) if spec["folds"] else [0]
