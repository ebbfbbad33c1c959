#!/bin/sh
# `make install`, through sudo where the server's directories are not ours.
set -eu
directory=$(${PG_CONFIG:-pg_config} --pkglibdir)
if [ -w "$directory" ]; then
	"$@" --no-print-directory -s install >/dev/null
else
	sudo "$@" --no-print-directory -s install >/dev/null
fi
