#!/bin/bash
# The speed table: scoring against its peers in one run; `make bench-speed [DATA=root]`.
#
#   test/cluster.sh test/bench/speed.sh DATA_ROOT
#
# Documents, queries and grades are those of DATA_ROOT/trec_dl2019 where it is present, else the bundled sample. Exit status 1: a
# figure is below what doc/benchmarks.md asks for.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=${1:?usage: test/bench/speed.sh DATA_ROOT}
data=$root/trec_dl2019
[ -r "$data/docs.tsv.gz" ] || { echo "$data is not there: measuring on the bundled sample"; data=test/data; }
psql -X -q -c 'CREATE EXTENSION serm'
exec /usr/bin/python3 test/bench/speed.py "$data"
