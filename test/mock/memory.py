#!/usr/bin/env python3
"""memory.py PID TEXT: how often TEXT stands in the writable memory of a process; "unreadable" where that may not be read."""
import sys

pid, text = sys.argv[1], sys.argv[2].encode()
count = 0
try:
    with open("/proc/%s/maps" % pid) as maps, open("/proc/%s/mem" % pid, "rb", 0) as memory:
        for line in maps:
            place, rights, _, device = line.split()[:4]
            # Not shared memory: it is the buffers of tables.
            if not rights.startswith("rw") or rights[3] == "s":
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            try:
                memory.seek(start)
                tail = b""
                while start < end:
                    block = memory.read(min(1 << 20, end - start))
                    if not block:
                        break
                    count += (tail + block).count(text)
                    tail = block[-(len(text) - 1):]
                    start += len(block)
            except (OSError, ValueError):
                continue
except OSError:
    print("unreadable")
    sys.exit()
print(count)
