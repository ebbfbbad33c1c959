#!/usr/bin/env python3
"""Write the reply fixtures as a fuzzing corpus: seed-reply.py FIXTURES DIRECTORY"""
import os
import re
import sys

ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.S)
NAMED = {b"n": b"\n", b"t": b"\t"}


def unescape(text):
    return ESCAPE.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else NAMED.get(m[2], m[2]), text)


fixtures, directory = sys.argv[1:]
with open(fixtures, "rb") as file:
    for number, line in enumerate(file):
        if not line.startswith(b"#"):
            with open(os.path.join(directory, "fixture-%03d" % number), "wb") as seed:
                seed.write(unescape(line.rstrip(b"\n").split(b"\t", 3)[3]))
