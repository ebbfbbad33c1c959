#!/bin/bash
# Click models and mining against what they are asked for; `make bench-mine [DATA=root] [MINE_ROWS=10000000]`.
#
#   test/cluster.sh test/bench/mine.sh DATA_ROOT
#
# The log is made in SQL; the comparisons with real clicks are skipped, and say so, where DATA_ROOT has no such set. Exit status 1: a
# gate of doc/benchmarks.md is missed.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=${1:?usage: test/bench/mine.sh DATA_ROOT}
psql -X -q -c 'CREATE EXTENSION serm'
exec /usr/bin/python3 test/bench/mine.py "$root" "${MINE_ROWS:-10000000}"
