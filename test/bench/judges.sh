#!/bin/bash
# How good labels of real judges are under each rule; `make bench-judges [DATA=root]`.
#
#   test/cluster.sh test/bench/judges.sh DATA_ROOT [SET...]
#
# What the judges once said is replayed, so the whole way from the queue to the judgment is gone. JUDGES_WIRE=all replays
# every answer over HTTP (some ten minutes), otherwise 100 pairs of each set.
# A set that is not there is skipped with a message. Exit status 1: a gate of doc/benchmarks.md was missed.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=${1:?usage: test/bench/judges.sh DATA_ROOT [SET...]}
shift
sets=("$@")
[ ${#sets[@]} -gt 0 ] || sets=(trec_dl2019 llmjudge_2024)
present=()
for name in "${sets[@]}"; do
	if [ -r "$root/$name/judge_labels.tsv.gz" ]; then
		present+=("$name")
	else
		echo "skipped: $name is not in $root"
	fi
done
[ ${#present[@]} -gt 0 ] || { echo "skipped: no labels of judges to replay"; exit 0; }
createdb -T template0 judges
PGDATABASE=judges psql -X -q -c 'CREATE EXTENSION serm'
PGDATABASE=judges /usr/bin/python3 test/bench/judges.py "$(realpath "$root")" "${present[@]}"
