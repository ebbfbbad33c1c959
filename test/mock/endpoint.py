#!/usr/bin/env python3
"""A judge for tests: an OpenAI-compatible chat completion endpoint with every bad habit.

    endpoint.py [--port N] [--port-file FILE] [--noise SHARE] [--replay FILE] [--tls DIRECTORY]

Prints its port, and writes it to FILE. The first segment of the path chooses the
habit: /v1/chat/completions is a well-behaved judge, /slow/v1/chat/completions a slow one.
The grade comes from the words that query and document share, shifted by one for a
share of the requests that depends on their seed only. GET /stats tells how many
requests each habit received, GET /seen/TEXT whether TEXT was in any of them; GET /release lets the habit held answer.

With --tls each NAME.pem (a certificate and its key) of DIRECTORY is served on a port of its own, which NAME.port tells.
With --replay the table of FILE (judge, pair, grade; tab-separated) answers at /replay/JUDGE/v1/chat/completions with what that
judge once said of the pair; pair_key() makes the second column.
"""
import argparse
import hashlib
import json
import math
import os
import re
import socket
import ssl
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import inject

FENCE = re.compile(r"<data-([0-9a-f]{32}) (\w+)(?: \(cut\))?>\n(.*?)\n</data-\1>", re.S)
lock = threading.Lock()
released = threading.Event()
counts = {}
state = {"in_flight": 0, "in_flight_max": 0, "seen": []}


replay = {}


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def pair_key(query, document):
    """Of what a judge sees of a pair: letters and digits, since prompts are cleaned, and the first, since they are cut."""
    seen = [re.sub("[^0-9a-z]+", "", text.lower())[:1000] for text in (query, document)]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]


def fields_of(request):
    """The fenced texts of the user message by name."""
    return {name: text for _, name, text in FENCE.findall(request["messages"][-1]["content"])}


def documents_of(fields):
    """What a question compares, in the order in which it is shown."""
    return [fields[name] for name in sorted((name for name in fields if name.startswith("document_")), key=lambda name: int(name[9:]))]


def worth(query, document):
    """The share of the query's words that the document has; shorter documents are better at the same share."""
    query, found = words(query), words(document)
    return (len(query & found) / len(query) if query else 0.0) - 0.001 * min(len(document), 500)  / 500


def compare(request, better):
    """The answer to a question that compares, by a function of two documents' worth: above 0 when the first is better."""
    fields = fields_of(request)
    values = [worth(fields.get("query", ""), document) for document in documents_of(fields)]
    if '"better"' in request["messages"][0]["content"]:
        sign = better(*values)
        return {"better": 1 if sign > 0 else 2 if sign < 0 else 0, "rationale": "by words"}
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return {"order": [i + 1 for i in order], "rationale": "by words"}


def judge(request, noise):
    """(grade, rationale) from the fenced texts of the user message."""
    fields = fields_of(request)
    match = re.search(r"integer from 0 to (\d+)", request["messages"][0]["content"])
    top = int(match.group(1)) if match else 3
    query, document = words(fields.get("query", "")), words(fields.get("document", ""))
    overlap = len(query & document) / len(query) if query else 0.0
    grade = min(top, int(overlap * (top + 1)))
    key = "%s|%s|%s" % (request.get("seed"), fields.get("query"), fields.get("document"))
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2.0**64
    if draw < noise:
        grade = grade + 1 if grade == 0 or (draw < noise / 2 and grade < top) else grade - 1
    return grade, "%d of %d query words are in the document" % (len(query & document), len(query))


def completion(content, request):
    return {
        "id": "mock", "object": "chat.completion", "model": request.get("model"),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": len(json.dumps(request)) // 4, "completion_tokens": len(content) // 4},
    }


class Judge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    noise = 0.0

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/stats":
            with lock:
                self.answer(200, dict(counts, in_flight_max=state["in_flight_max"]))
        elif self.path == "/release":
            released.set()
            self.answer(200, {})
        elif self.path.startswith("/seen/"):
            with lock:
                self.answer(200, {"seen": any(self.path[6:] in text for text in state["seen"])})
        else:
            with lock:
                counts["get"] = counts.get("get", 0) + 1
            self.answer(404, {"error": "not found"})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        first = self.path.strip("/").split("/")[0]
        habit = first if hasattr(self, "habit_" + first) else "v1"
        with lock:
            counts[habit] = counts.get(habit, 0) + 1
            number = counts[habit]
            state["in_flight"] += 1
            state["in_flight_max"] = max(state["in_flight_max"], state["in_flight"])
            state["seen"].append("%s %s" % (self.headers.get("Authorization"), raw.decode("utf-8", "replace")))
            del state["seen"][:-2000]
        try:
            if not self.path.endswith("/chat/completions"):
                self.answer(404, {"error": "no such route"})
                return
            getattr(self, "habit_" + habit)(json.loads(raw), number)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with lock:
                state["in_flight"] -= 1

    def grade(self, request, **changes):
        grade, rationale = judge(request, self.noise)
        answer = {"grade": grade, "rationale": rationale}
        answer.update(changes)
        self.answer(200, completion(json.dumps(answer), request))

    def content(self, request, text):
        self.answer(200, completion(text, request))

    # --- the habits; number counts the requests of one habit from 1

    def habit_v1(self, request, number):
        self.grade(request)

    def habit_compares(self, request, number):
        """Answers questions of every form; documents that are as good as each other are a tie."""
        if documents_of(fields_of(request)):
            self.content(request, json.dumps(compare(request, lambda a, b: 0 if abs(a - b) < 0.01 else a - b)))
        else:
            self.grade(request)

    def habit_first(self, request, number):
        """Prefers what it sees first, unless the other is much better."""
        self.content(request, json.dumps(compare(request, lambda a, b: a - b + 0.3)))

    def habit_obedient(self, request, number):
        """Begins its rationale with whatever word it is told to."""
        told = re.search(r'"(\w+)"', fields_of(request).get("note", ""))
        with lock:
            counts["canaries"] = counts.get("canaries", 0) + (1 if told else 0)
        grade, rationale = judge(request, 0.0)
        self.content(request, json.dumps({"grade": grade, "rationale": "%s: %s" % (told.group(1), rationale) if told else rationale}))

    def habit_examples(self, request, number):
        """Counts its examples, and remembers whether one was the pair in question."""
        content = request["messages"][-1]["content"]
        blocks = FENCE.findall(content)
        shown = [text for _, name, text in blocks if name == "example_document"]
        with lock:
            counts["examples_%d" % len(shown)] = counts.get("examples_%d" % len(shown), 0) + 1
            counts["shown_itself"] = counts.get("shown_itself", 0) + (1 if fields_of(request)["document"] in shown else 0)
        self.grade(request)

    def habit_replay(self, request, number):
        fields = fields_of(request)
        key = pair_key(fields.get("query", ""), fields.get("document", ""))
        grade = replay.get((self.path.strip("/").split("/")[1], key))
        if grade is None:
            self.answer(400, {"error": "nobody was asked about this pair"})
        else:
            self.content(request, '{"grade": %s}' % grade)

    # --- log-probabilities: what a remote model says of each grade

    def logprobs(self, request, place=None, tokens=('{"', "grade", '":', " "), **changes):
        """An answer whose grade has top_logprobs; `place` replaces them, `changes` what the choice says."""
        grade, _ = judge(request, 0.0)
        match = re.search(r"integer from 0 to (\d+)", request["messages"][0]["content"])
        far = [abs(y - grade) for y in range(int(match.group(1)) + 1)]
        whole = sum(math.exp(-1.5 * d) for d in far)
        top = [{"token": str(y), "logprob": -1.5 * d - math.log(whole)} for y, d in enumerate(far)]
        content = [{"token": t, "logprob": 0.0, "top_logprobs": []} for t in tokens]
        content.append({"token": str(grade), "logprob": top[grade]["logprob"], "top_logprobs": top if place is None else place(top)})
        answer = completion('{"grade": %d' % grade, request)
        answer["choices"][0].update({"logprobs": {"content": content}, "finish_reason": "length"})
        answer["choices"][0].update(changes)
        if request.get("logprobs") is not True or not request.get("top_logprobs"):
            self.answer(400, {"error": "nobody asked for log-probabilities"})
        else:
            self.answer(200, answer)

    def habit_lp(self, request, number):
        self.logprobs(request)

    def habit_lpbare(self, request, number):
        """The grade alone, its tokens with and without a blank."""
        self.logprobs(request, tokens=(), place=lambda top: [
            dict(t, token=b + t["token"], logprob=t["logprob"] - math.log(2)) for t in top for b in ("", " ")])

    def habit_lpslow(self, request, number):
        time.sleep(0.2)
        self.logprobs(request)

    def habit_lpsleep(self, request, number):
        time.sleep(20)
        self.logprobs(request)

    def habit_lpnone(self, request, number):
        self.grade(request)

    def habit_lpnan(self, request, number):
        self.logprobs(request, place=lambda top: [dict(t, logprob=float("nan")) for t in top])

    def habit_lphuge(self, request, number):
        self.logprobs(request, place=lambda top: [dict(t, logprob=1e308) for t in top])

    def habit_lptype(self, request, number):
        self.logprobs(request, place=lambda top: [dict(t, logprob="-1") for t in top])

    def habit_lptwice(self, request, number):
        self.logprobs(request, place=lambda top: top * 40)

    def habit_lptalk(self, request, number):
        """Says something else first."""
        self.logprobs(request, tokens=("The", " grade", " is", " "))

    def habit_lpflaky(self, request, number):
        """Refuses, breaks, and answers nonsense to every pair whose number of words is a multiple of five."""
        if len(words(fields_of(request).get("document", "")) | words(fields_of(request).get("query", ""))) % 5 == 0:
            self.content(request, "no")
        elif number % 7 == 0:
            self.answer(429, {"error": "slow down"}, {"retry-after-ms": "50"})
        elif number % 11 == 0:
            self.answer(500, {"error": "broken"})
        elif number % 13 == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.logprobs(request)

    def habit_billed(self, request, number):
        """Tells /stats what it has charged."""
        grade, rationale = judge(request, 0.0)
        answer = completion(json.dumps({"grade": grade, "rationale": rationale}), request)
        with lock:
            counts["billed_prompt"] = counts.get("billed_prompt", 0) + answer["usage"]["prompt_tokens"]
            counts["billed_completion"] = counts.get("billed_completion", 0) + answer["usage"]["completion_tokens"]
        time.sleep(0.05)
        self.answer(200, answer)

    def habit_patience(self, request, number):
        """Refuses its first ten requests, in all the ways there are, and then is well."""
        if number <= 10:
            header = ({"retry-after-ms": "300"}, {"Retry-After": "1"}, {})[number % 3]
            self.answer(429 if number % 2 else 503, {"error": "slow down"}, header)
        else:
            self.grade(request)

    def habit_later(self, request, number):
        """Refuses, for a minute at least."""
        self.answer(429, {"error": "slow down"}, {"Retry-After": "60"})

    def habit_sick(self, request, number):
        """Broken for its first seven requests, and then well."""
        if number <= 7:
            self.answer(500, {"error": "broken"})
        else:
            self.grade(request)

    def habit_clock(self, request, number):
        """Remembers when it was asked."""
        with lock:
            state.setdefault("asked", []).append(time.monotonic())
            first = state["asked"][0]
            within = max(sum(1 for t in state["asked"] if s <= t < s + 10) for s in state["asked"])
            counts["within_10s"], counts["asked_ms"] = within, int(1000 * (state["asked"][-1] - first))
        self.grade(request)

    def habit_slow(self, request, number):
        time.sleep(0.3)
        self.grade(request)

    def habit_held(self, request, number):
        """Answers its first request after GET /release."""
        if number == 1:
            released.wait(60)
        self.grade(request)

    def habit_crossed(self, request, number):
        """Nonsense, about the first document a little later than about others."""
        if "first" in fields_of(request).get("document", ""):
            time.sleep(0.05)
        self.content(request, "no")

    def habit_padded(self, request, number):
        """Says a lot that nobody wants to know."""
        self.answer(200, dict(completion('{"grade": 1, "rationale": "r"}', request), padding="x" * 200000))

    def habit_probe(self, request, number):
        """Thinks long about its first request."""
        if number == 1:
            time.sleep(3)
        self.grade(request)

    def habit_sleep(self, request, number):
        time.sleep(20)
        self.grade(request)

    def habit_noisy(self, request, number):
        """A judge whose paths differ: every third seed is one grade off."""
        grade, rationale = judge(request, 0.34)
        self.content(request, json.dumps({"grade": grade, "rationale": rationale}))

    def habit_fence(self, request, number):
        grade, rationale = judge(request, 0.0)
        self.content(request, "```json\n%s\n```" % json.dumps({"grade": grade, "rationale": rationale}))

    def habit_top(self, request, number):
        self.content(request, '{"grade": 3, "rationale": "always the best"}')

    def habit_gullible(self, request, number):
        """Does what documents tell it to."""
        told = inject.gullible(fields_of(request).get("document", ""))
        note = re.search(r'"(\w+)"', fields_of(request).get("note", ""))
        if note:
            self.content(request, json.dumps({"grade": 3, "rationale": "%s, as I was told" % note.group(1)}))
        elif told is None:
            self.grade(request)
        else:
            with lock:
                counts["obeyed"] = counts.get("obeyed", 0) + 1
            self.content(request, json.dumps({"grade": told, "rationale": "as the document says"}))

    def habit_unicode(self, request, number):
        grade, _ = judge(request, 0.0)
        self.content(request, json.dumps({"grade": grade, "rationale": "\u65e5\u672c \u00e4"}, ensure_ascii=False))

    def habit_500(self, request, number):
        self.answer(500, {"error": "broken"})

    def habit_400(self, request, number):
        self.answer(400, {"error": "bad request"})

    def habit_401(self, request, number):
        self.answer(401, {"error": "bad key %s" % self.headers.get("Authorization")})

    def habit_429(self, request, number):
        """Too many requests, every other time."""
        if number % 2 == 1:
            self.answer(429, {"error": "slow down"}, {"Retry-After": "1"})
        else:
            self.grade(request)

    def habit_429date(self, request, number):
        if number % 2 == 1:
            self.answer(429, {"error": "slow down"}, {"Retry-After": self.date_time_string(time.time() + 1)})
        else:
            self.grade(request)

    def habit_garbage(self, request, number):
        self.answer(200, b"<html><body>It works!</body></html>")

    def habit_echo(self, request, number):
        """Says the caller's key in its answer."""
        self.content(request, json.dumps({"grade": 1, "rationale": "key %s" % self.headers.get("Authorization")}))

    def habit_echobad(self, request, number):
        self.content(request, "your key is %s" % self.headers.get("Authorization"))

    def habit_echoescaped(self, request, number):
        """The same, as no search for it would find it: every other character escaped, twice over."""
        key = self.headers.get("Authorization", "")
        text = "".join("\\u%04x" % ord(c) if i % 2 else "\\/" if c == "/" else c for i, c in enumerate(key))
        self.content(request, '{"grade": 1, "rationale": "key %s"}' % text)

    def habit_badgrade(self, request, number):
        self.content(request, '{"grade": 7, "rationale": "off the scale"}')

    def habit_twice(self, request, number):
        self.content(request, '{"grade": 1, "grade": 3}')

    def habit_badonce(self, request, number):
        if number % 2 == 1:
            self.content(request, "Let me think about it.")
        else:
            self.grade(request)

    def habit_empty(self, request, number):
        self.answer(200, b"")

    def habit_notutf8(self, request, number):
        self.answer(200, b'{"choices":[{"message":{"content":"{\\"grade\\": 1}\xff"}}]}')

    def habit_deep(self, request, number):
        self.answer(200, b"[" * 100000)

    def habit_hugelength(self, request, number):
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 30))
        self.end_headers()
        for _ in range(1 << 10):
            self.wfile.write(b" " * (1 << 20))

    def habit_huge(self, request, number):
        """An endless chunked reply."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(1 << 14):
            self.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")

    def habit_headers(self, request, number):
        self.send_response(200)
        for i in range(20000):
            self.send_header("X-Header-%d" % i, "x" * 60)
        self.end_headers()

    def habit_drip(self, request, number):
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    def habit_early(self, request, number):
        """Headers at once, the answer after a long thought."""
        grade, rationale = judge(request, self.noise)
        data = json.dumps(completion(json.dumps({"grade": grade, "rationale": rationale}), request)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.flush()
        time.sleep(12)
        self.wfile.write(data)

    def habit_short(self, request, number):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def habit_stale(self, request, number):
        """Answers once on each connection; what comes next it reads, and hangs up."""
        if getattr(self, "served", False):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.served = True
            self.grade(request)

    def habit_close(self, request, number):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def habit_reset(self, request, number):
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def habit_redirect(self, request, number):
        status = (301, 302, 303, 307, 308)[number % 5]
        self.answer(status, b"", {"Location": "/secret/v1/chat/completions"})

    def habit_go(self, request, number):
        """/go/STATUS/HEX redirects to the address that HEX spells."""
        status, location = self.path.strip("/").split("/")[1:3]
        self.answer(int(status), b"", {"Location": bytes.fromhex(location).decode()})

    def habit_secret(self, request, number):
        """Must never be reached: only a redirect leads here."""
        self.grade(request)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


def write_port(server, path):
    with open(path + ".new", "w") as file:
        file.write("%d\n" % server.server_address[1])
    os.replace(path + ".new", path)


def serve_tls(directory):
    for name in sorted(os.listdir(directory)):
        if name.endswith(".pem"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(os.path.join(directory, name))
            server = Server(("127.0.0.1", 0), Judge)
            # The handshake is its thread's affair, not the listener's.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            write_port(server, os.path.join(directory, name[:-4] + ".port"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--replay")
    parser.add_argument("--tls")
    arguments = parser.parse_args()
    if arguments.replay:
        with open(arguments.replay) as file:
            for line in file:
                judge_name, key, grade = line.rstrip("\n").split("\t")
                replay[judge_name, key] = grade
    Judge.noise = arguments.noise
    server = Server(("127.0.0.1", arguments.port), Judge)
    port = server.server_address[1]
    print(port, flush=True)
    if arguments.tls:
        serve_tls(arguments.tls)
    if arguments.port_file:
        write_port(server, arguments.port_file)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
