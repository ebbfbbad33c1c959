#!/bin/sh
# The install script: nothing adopted, nothing SECURITY DEFINER, every function says its volatility and parallel label.
set -eu
awk '
/OR REPLACE|IF NOT EXISTS|SECURITY DEFINER/ { print FILENAME ":" FNR ": " $0; bad = 1 }
/^CREATE (FUNCTION|AGGREGATE|PROCEDURE) / { kind = $2; name = $3; text = ""; line = FNR }
kind { text = text " " $0 }
kind && /;[ \t]*$/ && !(text ~ /BEGIN ATOMIC/ && $0 !~ /END;[ \t]*$/) && !(text ~ /\$\$/ && gsub(/\$\$/, "&", text) < 2) {
	if (kind == "FUNCTION" && (text !~ /(IMMUTABLE|STABLE|VOLATILE)/ || text !~ /PARALLEL (SAFE|RESTRICTED|UNSAFE)/)) {
		print FILENAME ":" line ": " name " lacks a volatility or a parallel label"; bad = 1
	}
	if (name !~ /^serm\./) { print FILENAME ":" line ": " name " is not in schema serm"; bad = 1 }
	kind = ""
}
END { exit bad }
' "$1"
