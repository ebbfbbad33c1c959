#!/bin/sh
# What the library exports: the magic block, _PG_init, worker entry points and SQL-callable functions, nothing else;
# and every external symbol of the core carries the prefix.
set -eu
exported=$(nm -D --defined-only serm.so | awk '{print $3}' | grep -v -E '^(Pg_magic_func|_PG_init|pg_finfo_serm_[a-z0-9_]+|serm_[a-z0-9_]+)$' || true)
[ -z "$exported" ] || { echo "exported without need: $exported"; exit 1; }
bare=$(find src -name '*.o' -exec nm --defined-only -g {} + | awk 'NF == 3 {print $3}' |
	grep -v -E '^(Pg_magic_func|_PG_init|pg_finfo_serm_|serm_|__gcov|_GLOBAL)' | sort -u || true)
[ -z "$bare" ] || { echo "without the prefix: $bare"; exit 1; }
