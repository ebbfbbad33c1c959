#!/bin/sh
# Arrows go down only: each room may include itself and the rooms listed for it (doc/architecture.md).
set -eu
awk '
BEGIN {
	core = "core/base"
	allow["core/base"] = ""
	allow["core/text"] = allow["core/math"] = core
	core = core " core/text core/math"
	allow["core/model"] = allow["core/click"] = allow["core/stats"] = allow["core/agent"] = core
	allow["core/train"] = core " core/model core/stats"
	core = core " core/model core/click core/stats core/agent core/train"
	allow["pg"] = core
	allow["pg/store"] = core " pg"
	allow["pg/score"] = allow["pg/mine"] = allow["pg/annotate"] = allow["pg/eval"] = core " pg pg/store"
	allow["pg/evolve"] = allow["pg/score"] " pg/score pg/mine pg/annotate pg/eval"
	for (room in allow) {
		allowed[room, room] = 1
		n = split(allow[room], list, " ")
		for (i = 1; i <= n; i++) allowed[room, list[i]] = 1
	}
}
function room_of(path) { sub(/\/[^\/]*$/, "", path); return path }
function complain(what) { print FILENAME ":" FNR ": " what; bad = 1 }
/^#[ \t]*include/ {
	from = FILENAME; sub(/^src\//, "", from)
	room = room_of(from)
	target = $0; sub(/^#[ \t]*include[ \t]*[<"]/, "", target); sub(/[>"].*/, "", target)
	if (target ~ /^(core|pg)\//) {
		if (from != "pg/init.c" && !((room, room_of(target)) in allowed)) complain(room " includes " target)
	} else if (room ~ /^core/) {
		if (target ~ /cJSON/ && room != "core/agent" && room != "core/model") complain("cJSON outside agent and model")
		else if (target ~ /utf8proc/ && room != "core/text") complain("utf8proc outside core/text")
		else if (target ~ /postgres|fmgr|utils\/|catalog\/|executor\/|access\// || target ~ /curl|cblas/) complain("core includes " target)
	} else if (target ~ /^curl\// && from != "pg/annotate/http.c") complain("curl outside pg/annotate/http.c")
}
END { exit bad }
' $(find src -name '*.[ch]' | sort)
