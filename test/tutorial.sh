#!/bin/bash
# The front door is true: the tutorial runs, the reference is complete, the sample is what its sources say.
#
#   test/cluster.sh test/tutorial.sh
#
# Runs every ```sql block of README.md, in order, in one session of a database of its own, from the project's root. An
# error, or a query of the tutorial that finds nothing, fails.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

test/data/generate.py --check >/dev/null
createdb -T template0 sample
PGDATABASE=sample test/data/make-log.sh "$scratch/search_log.tsv"
cmp "$scratch/search_log.tsv" test/data/search_log.tsv || { echo "tutorial: run test/data/make-log.sh" >&2; exit 1; }

awk '/^```sql$/ { inside = 1; next } /^```/ { inside = 0 } inside' README.md >"$scratch/tutorial.sql"
[ "$(grep -c ';' "$scratch/tutorial.sql")" -ge 15 ] || { echo "tutorial: README.md has lost its SQL" >&2; exit 1; }
createdb -T template0 tutorial
psql -X -d tutorial -v ON_ERROR_STOP=1 -P pager=off -f "$scratch/tutorial.sql" >"$scratch/output" 2>&1 ||
	{ cat "$scratch/output" >&2; exit 1; }
if grep -n '^(0 rows)$' "$scratch/output"; then
	cat "$scratch/output" >&2
	echo "tutorial: a query of README.md finds nothing" >&2
	exit 1
fi

# Every object that a user can see stands in the reference, in code style.
psql -X -At -d tutorial >"$scratch/objects" <<'SQL'
SELECT DISTINCT 'serm.' || proname FROM pg_proc p WHERE pronamespace = 'serm'::regnamespace AND proname NOT LIKE '\_%'
UNION SELECT 'serm.' || relname FROM pg_class WHERE relnamespace = 'serm'::regnamespace AND relkind IN ('r', 'v')
	AND relname NOT LIKE '\_%'
UNION SELECT name FROM pg_settings WHERE name LIKE 'serm.%' ORDER BY 1
SQL
[ "$(wc -l <"$scratch/objects")" -ge 55 ] || { echo "tutorial: the catalogue of serm looks empty" >&2; exit 1; }
missing=$(while read -r name; do grep -q "\`$name[\`(]" doc/sql-reference.md || echo "  $name"; done <"$scratch/objects")
[ -z "$missing" ] || { printf 'doc/sql-reference.md lacks:\n%s\n' "$missing" >&2; exit 1; }

# And the other way round: the reference names nothing that is not there.
stale=$(grep -oE '^\| `serm\.[a-z_]+' doc/sql-reference.md | tr -d '|` ' | sort -u | grep -vxF -f "$scratch/objects" || true)
[ -z "$stale" ] || { printf 'doc/sql-reference.md names what does not exist:\n%s\n' "$stale" >&2; exit 1; }
echo "the tutorial runs; the reference has all $(wc -l <"$scratch/objects") names"
