#!/usr/bin/env python3
"""A listener that nothing may reach: trap.py PORT_FILE LOG

Listens on one port of every address of this machine, writes a line to LOG for each connection, and would answer with the top grade.
"""
import os
import socket
import sys

CONTENT = b'{"choices":[{"message":{"content":"{\\"grade\\": 3}"}}]}'
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(CONTENT), CONTENT)

port_file, log = sys.argv[1:]
if socket.has_dualstack_ipv6():
    server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
else:
    server = socket.create_server(("0.0.0.0", 0), backlog=64)
with open(port_file + ".new", "w") as file:
    file.write("%d\n" % server.getsockname()[1])
os.replace(port_file + ".new", port_file)
while True:
    connection, peer = server.accept()
    with open(log, "a") as file:
        file.write("%s\n" % peer[0])
    connection.settimeout(2)
    try:
        connection.recv(65536)
        connection.sendall(ANSWER)
    except OSError:
        pass
    connection.close()
