#!/bin/bash
# Write search_log.tsv of the sample: simulated by test/demo/30-log.sql from truth.tsv.
#
#   test/cluster.sh test/data/make-log.sh [FILE]      (SERM_PRELOAD= lets a server without serm do)
#
# search_log.tsv  query, doc_id, shown_at, position, clicked, dwell_ms, session_id; tab-separated, no header
set -euo pipefail
cd "$(dirname "$0")/../.."
export SERM_DEMO_DATA=test/data PGTZ=UTC
psql -X -q -v ON_ERROR_STOP=1 -f test/demo/10-schema.sql -f test/demo/20-load-sample.sql -c "TRUNCATE shop.search_log" \
	-f test/demo/30-log.sql \
	-c 'COPY (SELECT * FROM shop.search_log ORDER BY shown_at, session_id, position) TO STDOUT' \
	>"${1:-test/data/search_log.tsv.new}"
[ $# -gt 0 ] || mv test/data/search_log.tsv.new test/data/search_log.tsv
