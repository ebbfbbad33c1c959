#!/bin/bash
# What students learn from real judges, and what rounds with them bring; `make bench-evolve [DATA=root]`.
#
#   test/cluster.sh test/bench/evolve.sh DATA_ROOT
#
# The parts are student, rounds and loop, the last on the bundled sample; PARTS="loop" runs that one alone. PARTS="gate"
# is a part that is not run unless it is named: it compares rules of the gate.
# A part whose sets are not there is skipped with a message. Exit status 1: a gate of doc/benchmarks.md was missed.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$(realpath "${1:?usage: test/bench/evolve.sh DATA_ROOT}")
parts=()
if [ -r "$root/trec_dl2019/judge_labels.tsv.gz" ]; then
	parts+=(student)
	if [ -r "$root/homedepot/docs.tsv.gz" ] && [ -r "$root/epqa/docs.tsv.gz" ]; then
		parts+=(rounds)
	else
		echo "skipped: rounds need homedepot and epqa in $root"
	fi
else
	echo "skipped: trec_dl2019 with labels of judges is not in $root"
fi
read -ra parts <<<"${PARTS:-${parts[*]} loop}"
status=0
createdb -T template0 evolve
PGDATABASE=evolve psql -X -q -c 'CREATE EXTENSION serm'
for part in "${parts[@]}"; do
	if [ "$part" = loop ] || [ "$part" = gate ]; then
		PGDATABASE=evolve /usr/bin/python3 "test/bench/$part.py" || status=$?
	else
		PGDATABASE=evolve /usr/bin/python3 test/bench/evolve.py "$root" "$part" || status=$?
	fi
done
exit $status
