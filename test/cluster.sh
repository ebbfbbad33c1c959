#!/bin/bash
# Run a command against a private PostgreSQL cluster and throw the cluster away.
#
#   [PG_BINDIR=dir] [SERM_CONF='name = value; ...'] test/cluster.sh command [argument...]
#
# The server runs as an unprivileged user in a temporary directory and listens on
# a socket in it only. The command sees it through PGHOST, PGPORT, PGUSER and PGDATABASE.
set -euo pipefail

bindir=${PG_BINDIR:-$(pg_config --bindir)}
base=$(mktemp -d "${TMPDIR:-/tmp}/serm.XXXXXX")
chmod 755 "$base"

# The server refuses to run as root; the packages bring the user postgres.
if [ "$(id -u)" = 0 ]; then
	chown postgres "$base"
	as_user() { (cd "$base" && setpriv --reuid=postgres --regid=postgres --clear-groups env -u HOME "$@"); }
else
	as_user() { (cd "$base" && "$@"); }
fi

cleanup() {
	status=$?
	trap - EXIT
	if [ $status -ne 0 ] && [ -s "$base/log" ]; then
		echo "--- the end of the server's log:" >&2
		tail -n "${SERM_LOG_LINES:-20}" "$base/log" >&2
	fi
	as_user "$bindir/pg_ctl" -D "$base/data" -m immediate -w stop >/dev/null 2>&1 || true
	rm -rf "$base"
	exit $status
}
trap cleanup EXIT INT TERM

as_user "$bindir/initdb" -D "$base/data" -U admin -A trust -E UTF8 --locale=C --no-sync >"$base/initdb.log" 2>&1 ||
	{ cat "$base/initdb.log" >&2; exit 1; }
{
	echo "listen_addresses = ''"
	echo "unix_socket_directories = '$base'"
	echo "fsync = off"
	echo "max_worker_processes = 16"
	echo "shared_buffers = 256MB"
	echo "shared_preload_libraries = '${SERM_PRELOAD-serm}'"
	[ -z "${SERM_CONF:-}" ] || tr ';' '\n' <<<"$SERM_CONF"
} | as_user tee -a "$base/data/postgresql.conf" >/dev/null
as_user "$bindir/pg_ctl" -D "$base/data" -l "$base/log" -w -t 60 start >/dev/null

export PGHOST=$base PGPORT=5432 PGUSER=admin PGDATABASE=serm PATH="$bindir:$PATH" SERM_SERVER_LOG=$base/log
createdb -T template0 serm
"$@"
