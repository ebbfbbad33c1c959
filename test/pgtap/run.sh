#!/bin/bash
# Run each pgTAP file in a database of its own, with the extension and pgTAP installed.
set -euo pipefail
psql -qX -c 'CREATE EXTENSION pgtap' -c 'CREATE EXTENSION serm'
status=0
for file in ${PGTAP_TESTS:-test/pgtap/*.sql}; do
	name=tap_$(basename "$file" .sql)
	createdb -T serm "$name"
	pg_prove -Q -d "$name" "$file" || status=1
done
exit $status
