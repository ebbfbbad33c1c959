#!/bin/bash
# The main job of serm in two minutes: load, train, search, mine, annotate, evolve twice, and one table at the end.
#
#   test/cluster.sh test/demo.sh [DATA]
#
# Without DATA it uses the sample of test/data; DATA is a directory with docs.tsv.gz, queries.tsv.gz and qrels.tsv.gz.
# SEED=2 trains with that seed; without it with 1, the default.
# What it runs is test/demo/*.sql, in order. Exit status 1: a step failed.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${1:-}
scratch=$(mktemp -d)
endpoint=
cleanup() {
	status=$?
	trap - EXIT
	[ -z "$endpoint" ] || kill "$endpoint" 2>/dev/null || true
	rm -rf "$scratch"
	exit $status
}
trap cleanup EXIT INT TERM

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { psql -X -q -v ON_ERROR_STOP=1 -P pager=off -P footer=off "$@"; }
export PGTZ=UTC PGOPTIONS='-c client_min_messages=warning'

started=$SECONDS
run -f test/demo/10-schema.sql
if [ -n "$data" ]; then
	for file in docs queries qrels; do
		[ -r "$data/$file.tsv.gz" ] || { echo "demo: $data has no $file.tsv.gz" >&2; exit 1; }
	done
	SERM_DEMO_DATA=$(realpath "$data")
	export SERM_DEMO_DATA
	say "Load $data, and simulate six weeks of searches from its grades"
	run -f test/demo/21-load-data.sql -f test/demo/30-log.sql
else
	export SERM_DEMO_DATA=test/data
	say "Load the sample: a shop's catalogue, six weeks of its search log, and the grades it has"
	run -f test/demo/20-load-sample.sql
fi
run -v seed="${SEED:-1}" -f test/demo/40-judges.sql -f test/demo/50-model.sql

say "Search: the first stage finds, serm.score ranks"
run -f test/demo/60-search.sql

say "Mine the log for pairs that are worth a grade"
run -f test/demo/70-mine.sql

say "Two judges in SQL, one behind HTTP; two rounds of evolution, each through the gate"
test/mock/endpoint.py --noise 0.1 --port-file "$scratch/port" >/dev/null &
endpoint=$!
for _ in $(seq 100); do
	[ ! -s "$scratch/port" ] || break
	kill -0 $endpoint || { echo "demo: the mock endpoint does not start" >&2; exit 1; }
	sleep 0.1
done
run -v seed="${SEED:-1}" -v endpoint="http://127.0.0.1:$(cat "$scratch/port")/v1" -f test/demo/80-evolve.sql

say "What came of it, on the queries of the test split"
run -f test/demo/90-report.sql
echo "done in $((SECONDS - started)) seconds"
