#!/bin/bash
# Agreement of distilled students with their teachers on public data; `make bench-distill [DATA=root]`. With BENCH=scratch what an
# encoder made from nothing is worth; `make bench-scratch`.
#
#   test/cluster.sh test/bench/distill.sh DATA_ROOT [SET...] [name=JSON]...
#
# A set that is not there is skipped with a message. Exit status 1: a distilled student does not agree better.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=${1:?usage: test/bench/distill.sh DATA_ROOT [SET...] [name=JSON]...}
shift
sets=() options=() present=()
for argument in "$@"; do
	if [[ $argument == *=* ]]; then options+=("$argument"); else sets+=("$argument"); fi
done
[ ${#sets[@]} -gt 0 ] || sets=(crowdflower_srr epqa)
for name in "${sets[@]}"; do
	if [ -r "$root/$name/docs.tsv.gz" ] && [ -r "$root/$name/queries.tsv.gz" ] && [ -r "$root/$name/qrels.tsv.gz" ]; then
		present+=("$name")
	else
		echo "skipped: $name is not in $root"
	fi
done
[ ${#present[@]} -gt 0 ] || { echo "skipped: no data set to measure"; exit 0; }
psql -X -q -c 'CREATE EXTENSION serm'
/usr/bin/python3 "test/bench/${BENCH:-distill}.py" "$(realpath "$root")" "${present[@]}" "${options[@]}"
