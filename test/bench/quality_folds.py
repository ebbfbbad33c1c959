#!/usr/bin/python3
"""Folds and candidates of `make bench-quality` for build/quality_core, so that what it measures is comparable.

    test/cluster.sh test/bench/quality_folds.py DATA_ROOT SET...

For each set build/bench/SET gets docs.tsv, queries.tsv, qrels.tsv with the mapped grades (0 for a candidate that nobody
judged), and folds.tsv: query, document, grade, fold, 1 for a candidate. `build/quality_core any build/bench/SET folds`
reads them. Needs python3-numpy.
"""
import os
import subprocess
import sys

from quality_sets import load, rows
from quality_systems import Bm25


def write(root, name):
    load(root, name, lambda queries: Bm25().pool_of(queries))
    to = os.path.join("build/bench", name)
    os.makedirs(to, exist_ok=True)
    for part in ("docs", "queries"):
        with open(f"{to}/{part}.tsv", "wb") as out:
            subprocess.run(["gzip", "-dc", f"{root}/{name}/{part}.tsv.gz"], stdout=out, check=True)
    pairs = rows("SELECT query_id, doc_id, grade, fold, pool FROM bench.grade ORDER BY query_id, doc_id")
    for part, width in (("qrels", 3), ("folds", 5)):
        with open(f"{to}/{part}.tsv", "w", encoding="utf-8") as out:
            out.writelines("\t".join(pair[:width]) + "\n" for pair in pairs)


if __name__ == "__main__":
    for one in sys.argv[2:]:
        write(sys.argv[1], one)
