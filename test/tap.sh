#!/bin/bash
# Run the TAP tests in a copy that the unprivileged user can read: they start servers of their own. Two files at a time, as they
# wait more than they work.
set -euo pipefail

bindir=$1
tests=${PROVE_TESTS:-test/t/*.pl}
pgxs=$(dirname "$("$bindir/pg_config" --pgxs)")/../..
copy=$(mktemp -d "${TMPDIR:-/tmp}/serm-tap.XXXXXX")
trap 'rm -rf "$copy"' EXIT
cp -r test "$copy/"
run=()
if [ "$(id -u)" = 0 ]; then
	chown -R postgres "$copy"
	run=(setpriv --reuid=postgres --regid=postgres --clear-groups)
fi
cd "$copy"
# shellcheck disable=SC2086
"${run[@]}" env HOME="$copy" PATH="$bindir:$PATH" PERL5LIB="$copy/test/perl:$pgxs/src/test/perl${PERL5LIB:+:$PERL5LIB}" \
	PG_REGRESS="$pgxs/src/test/regress/pg_regress" TESTDIR="$copy" TESTDATADIR="$copy/tmp_check" \
	TESTLOGDIR="$copy/tmp_check/log" PGPORT=65432 LC_ALL=C.UTF-8 prove --timer --jobs "${TAP_JOBS:-2}" $tests ||
	{ status=$?; grep -h -E 'PANIC|FATAL|ERROR|signal' tmp_check/log/* 2>/dev/null | tail -n 20 >&2; exit $status; }
