#!/bin/bash
# Quality on public data, and one round of the loop on a real set; `make bench-quality [DATA=root]`.
#
#   test/cluster.sh test/bench/quality.sh DATA_ROOT [SET...]
#
# DATA_ROOT holds one directory per set with docs.tsv.gz, queries.tsv.gz and qrels.tsv.gz. A set that is not there is
# skipped with a message. Exit status 1: a gate of doc/benchmarks.md was missed.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=${1:?usage: test/bench/quality.sh DATA_ROOT [SET...]}
shift
[ $# -gt 0 ] || set -- crowdflower_srr homedepot epqa trec_dl2019 cranfield

present=()
for name in "$@"; do
	if [ -r "$root/$name/docs.tsv.gz" ] && [ -r "$root/$name/queries.tsv.gz" ] && [ -r "$root/$name/qrels.tsv.gz" ]; then
		present+=("$name")
	else
		echo "skipped: $name is not in $root"
	fi
done
[ ${#present[@]} -gt 0 ] || { echo "skipped: no data set to measure"; exit 0; }

# The loop has a database of its own, so that one part does not find the models of the other.
createdb -T template0 quality
PGDATABASE=quality psql -X -q -c 'CREATE EXTENSION serm'
status=0
PGDATABASE=quality /usr/bin/python3 test/bench/quality.py "$(realpath "$root")" "${present[@]}" || status=$?
PGDATABASE=quality /usr/bin/python3 test/bench/cold.py "$(realpath "$root")" || status=$?

if [ -r "$root/crowdflower_srr/docs.tsv.gz" ]; then
	printf '\nThe loop on crowdflower_srr: clicks simulated from its grades, two noisy judges and one over HTTP\n'
	test/demo.sh "$root/crowdflower_srr"
fi
exit $status
