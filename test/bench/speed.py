#!/usr/bin/python3
"""Speed of scoring in SQL against its peers, in one run. Run by test/bench/speed.sh.

    speed.py DIRECTORY        trec_dl2019, or test/data

Rates are rows per second of CPU time of one backend, pinned to one processor: on a quiet machine that is wall time, on a
shared one it leaves out what neighbours take (though not the caches that they take). Statements are run in turns, ROUNDS
times, and the best of each counts. Exit status 1: a figure is below the least that doc/benchmarks.md asks for.
"""
import csv
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

DOCUMENTS = 20000      # rows; what is slow is measured on fewer of them
WORDS = 100
ROUNDS = 7
COPIES = 10
JUDGMENTS = 3000
XGB_TREES = 100
# Two processes gain no more than two processors give: so much of that is asked for at most.
OF_CEILING = 0.97
csv.field_size_limit(1 << 30)


class Session:
    """A psql that stays connected, and the backend behind it."""

    def __init__(self, pin=True):
        self.psql = subprocess.Popen(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True, bufsize=1)
        self.pid = int(self.run("SELECT pg_backend_pid()"))
        if pin and os.cpu_count() > 1:
            subprocess.run(["taskset", "-cp", str(os.cpu_count() - 1), str(self.pid)], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)

    def run(self, sql):
        self.start(sql)
        return self.finish()

    def cpu(self):
        with open(f"/proc/{self.pid}/schedstat") as file:
            return int(file.read().split()[0]) * 1e-9

    def private_kb(self):
        """Memory of the backend that no other process shares."""
        with open(f"/proc/{self.pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))

    def time(self, sql):
        """CPU and wall seconds of one statement."""
        cpu, wall = self.cpu(), time.monotonic()
        self.run(sql)
        return self.cpu() - cpu, time.monotonic() - wall

    def start(self, sql):
        self.psql.stdin.write(sql.rstrip().rstrip(";") + ";\n\\echo <done>\n")
        self.psql.stdin.flush()

    def finish(self):
        lines = []
        for line in self.psql.stdout:
            if line == "<done>\n":
                return "".join(lines).rstrip("\n")
            lines.append(line)
        sys.exit("speed.py: psql ended")

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()


def open_text(directory, name):
    path = os.path.join(directory, name)
    return gzip.open(path + ".gz", "rt") if os.path.exists(path + ".gz") else open(path)


def table(directory, name):
    with open_text(directory, name + ".tsv") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def load(directory):
    """Texts of about WORDS words without a title, queries, and graded pairs (query, text, grade)."""
    sample = os.path.basename(os.path.normpath(directory)) != "trec_dl2019"
    docs = {row[0]: " ".join(row[1:3]) for row in table(directory, "products" if sample else "docs")}
    queries = {row[0]: row[1] for row in table(directory, "queries")}
    grades = table(directory, "judgments" if sample else "qrels")
    texts, made = list(docs.values()), []
    for i in range(DOCUMENTS):
        words = []
        for step in range(1, 40):
            words += texts[(i * step * step + 13 * (step - 1) + i // len(texts) * 7 * step) % len(texts)].split()
            if len(words) >= WORDS:
                break
        made.append(" ".join(words[:WORDS]))
    pairs = [(queries[q], "\n" + docs[d], int(g)) for q, d, g in grades[::max(1, len(grades) // JUDGMENTS)]
             if q in queries and d in docs]
    return made, list(queries.values()), pairs


def words_of(query):
    return re.findall(r"\w+", query.lower())


def pick(queries, least, most):
    """A query of so many words; the sample's are short, so several are joined there."""
    for query in queries:
        if least <= len(words_of(query)) <= most:
            return query
    joined = " ".join(queries).split()
    return " ".join(joined[:least])


def copy(name, rows):
    out = [f"COPY {name} FROM STDIN (FORMAT csv);\n"]
    for row in rows:
        out.append(",".join('"' + str(value).replace('"', '""') + '"' for value in row) + "\n")
    out.append("\\.\n")
    subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"], input="".join(out).encode(), check=True)


def prepare(session, directory):
    texts, queries, pairs = load(directory)
    session.run("CREATE TABLE doc (id integer, doc text, tv tsvector GENERATED ALWAYS AS (to_tsvector('english', doc)) STORED, "
                "encoded serm.doc GENERATED ALWAYS AS (serm.encode(doc)) STORED)")
    copy("doc (id, doc)", enumerate(texts))
    session.run("CREATE TABLE pair (query text, doc text, grade integer)")
    copy("pair", pairs)
    session.run("CREATE VIEW documents AS SELECT id::text AS doc_id, doc FROM doc; ANALYZE")
    session.run("SELECT serm.create_model('speed', documents => 'documents')")
    session.run("INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'speed', query, doc, least(grade, 3) FROM pair")
    session.run("CALL serm.train('speed', '{\"seed\": 1, \"epochs\": 3, \"pretrain_epochs\": 2}')")
    session.run("VACUUM (ANALYZE) doc")
    short = pick(queries, 6, 8)
    long = " ".join((" ".join(queries)).split()[:30])
    return short, long, texts


def quote(text):
    return "'" + text.replace("'", "''") + "'"


def statements(short, long):
    """Name: (rows, SQL). Every statement reads the same rows in the same order."""
    few = DOCUMENTS // 10
    any_of = quote(" | ".join(words_of(short)))
    return {
        "scan": (DOCUMENTS, "SELECT sum(pg_column_size(encoded)) FROM doc"),
        "stored": (DOCUMENTS, f"SELECT sum(serm.score({quote(short)}, encoded)) FROM doc"),
        "batch": (DOCUMENTS, f"SELECT sum(s) FROM (SELECT serm.score_batch({quote(short)}, encoded) OVER () AS s FROM doc) AS b"),
        "raw": (DOCUMENTS, f"SELECT sum(serm.score({quote(short)}, doc)) FROM doc"),
        "long": (DOCUMENTS, f"SELECT sum(serm.score({quote(long)}, encoded)) FROM doc"),
        "encode": (DOCUMENTS, "SELECT count(serm.encode(doc)) FROM doc"),
        "changing": (few, f"SELECT sum(serm.score({quote(short)} || CASE id % 2 WHEN 0 THEN ' x' ELSE ' y' END, encoded)) FROM doc WHERE id < {few}"),
        "ts_rank_cd": (DOCUMENTS, f"SELECT sum(ts_rank_cd(tv, to_tsquery('english', {any_of}))) FROM doc"),
        "ts_rank": (DOCUMENTS, f"SELECT sum(ts_rank(tv, to_tsquery('english', {any_of}))) FROM doc"),
        "ts_rank raw": (few, f"SELECT sum(ts_rank(to_tsvector('english', doc), to_tsquery('english', {any_of}))) FROM doc WHERE id < {few}"),
    }


def measure(session, work):
    """Best rate per statement, rows per second of CPU."""
    session.run("SET max_parallel_workers_per_gather = 0; SET jit = off")
    best = {name: 1e9 for name in work}
    for _ in range(ROUNDS):
        for name, (_, sql) in work.items():
            best[name] = min(best[name], session.time(sql)[0])
    return {name: rows / best[name] for name, (rows, _) in work.items()}


def scan_rows(plan):
    """Rows that the leader read and that the workers read, of the plan of one statement."""
    nodes = [plan]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Scan" in node["Node Type"]:
            workers = sum(worker["Actual Rows"] * worker["Actual Loops"] for worker in node.get("Workers", []))
            return node["Actual Rows"] * node["Actual Loops"] - workers, workers
    return 0, 0


def spin(processors):
    """GFLOP/s of multiply-adds in registers on each of these processors at once."""
    running = [subprocess.Popen(["taskset", "-c", str(number), "build/bench_spin", "0.5"], stdout=subprocess.PIPE, text=True)
               for number in processors]
    return [float(process.communicate()[0]) for process in running]


def wall_of(sessions, sql):
    begin = time.monotonic()
    for session in sessions:
        session.start(sql)
    for session in sessions:
        session.finish()
    return time.monotonic() - begin


def parallel(work):
    """
    Leader and one worker against one process, by wall time: medians of the ratios of rounds, each of which takes turns between one
    process, leader and worker, two sessions at once that share nothing but the table, and multiply-adds in registers on one processor
    and on two. The last is what the machine allows just now. Then the same from the CPU time that a row costs the leader, were the rows
    shared evenly, and the worker's share of the rows. On COPIES of the rows: starting a worker takes some 15 ms, which would
    decide over a statement of 120 ms.
    """
    session, other_session = Session(pin=False), Session(pin=False)
    session.run(f"CREATE TABLE many WITH (parallel_workers = 1) AS SELECT encoded FROM doc CROSS JOIN generate_series(1, {COPIES})")
    session.run("VACUUM ANALYZE many")
    for each in (session, other_session):
        each.run("SET jit = off; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; "
                 "SET max_parallel_workers_per_gather = 0")
    stored = work["stored"][1].replace(" FROM doc", " FROM many")
    processors = sorted(os.sched_getaffinity(0))[:2]
    gains, per_row, shares = {"worker": [], "sessions": [], "spin": []}, {}, []
    for _ in range(ROUNDS):
        session.run("SET max_parallel_workers_per_gather = 0")
        alone = wall_of([session], stored)
        gains["sessions"].append(2 * alone / wall_of([session, other_session], stored))
        session.run("SET max_parallel_workers_per_gather = 1")
        gains["worker"].append(alone / wall_of([session], stored))
        single = [spin([number])[0] for number in processors]
        gains["spin"].append(2 * sum(spin(processors)) / sum(single) if len(single) == 2 else 1)
        for workers in (0, 1):
            session.run(f"SET max_parallel_workers_per_gather = {workers}")
            start = session.cpu()
            plan = session.run("EXPLAIN (ANALYZE, VERBOSE, TIMING OFF, FORMAT JSON) " + stored)
            leader, other = scan_rows(json.loads(plan)[0]["Plan"])
            per_row[workers] = min(per_row.get(workers, 1e9), (session.cpu() - start) / max(leader, 1))
            if workers:
                shares.append(other / (leader + other))
    session.close()
    other_session.close()
    return {name: statistics.median(found) for name, found in gains.items()}, 2 * per_row[0] / per_row[1], statistics.median(shares)


def growth(texts, short, long):
    """Microseconds by length, from the core alone; False when something grows faster than its length."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(texts[:2000]) + "\n")
        file.flush()
        out = subprocess.run(["build/bench_stages", file.name, short, long, "growth"], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = {line.split()[0]: [float(value) for value in line.split()[1:]] for line in out.splitlines()}
    print(f"\n{'cost by length, microseconds':<36}{'parse':>10}{'score':>9}")
    for name, values in rows.items():
        print(f"{name.replace('_', ' '):<36}" + (f"{values[0]:>10.2f}{values[1]:>9.2f}" if len(values) > 1 else f"{'':>10}{values[0]:>9.2f}"))
    body = {int(name.split("_")[1]): values for name, values in rows.items() if name.startswith("body")}
    query = {int(name.split("_")[1]): values[0] for name, values in rows.items() if name.startswith("query")}
    # A query pays for eight words at a time; noise is allowed for.
    return (body[256][0] < 1.5 * 4 * body[64][0] and body[256][1] < 1.5 * 4 * body[64][1] and body[160000][0] < 2 * body[1024][0]
            and body[160000][1] < 2 * body[1024][1] and query[40] < 1.5 * 4 * query[10])


def first_score(short):
    """Milliseconds of the first score of a session that has run something else, by the server's clock."""
    sql = f"SELECT serm.score({quote(short)}, 'a document')"
    took = []
    for _ in range(11):
        session = Session()
        session.run("SELECT count(*) FROM pg_class; SELECT to_tsvector('english', 'warm')")
        took.append(session.time(sql)[0] * 1e3)
        session.close()
    return statistics.median(took), min(took)


def private_memory(short):
    """kB of two scoring sessions above an idle one: the mapped weights are shared between the two."""
    idle, scoring = Session(), [Session(), Session()]
    warm = "SET max_parallel_workers_per_gather = 0; SET jit = off; SELECT sum(pg_column_size(encoded)), sum(length(doc)) FROM doc"
    idle.run(warm)
    for session in scoring:
        session.run(warm)
        session.run(f"SELECT sum(serm.score({quote(short)}, encoded)), sum(serm.score({quote(short)}, doc)) FROM doc")
    above = scoring[0].private_kb() - idle.private_kb()
    for session in [idle] + scoring:
        session.close()
    return above


def heads():
    done = subprocess.run(["build/bench_heads"], stdout=subprocess.PIPE, check=True)
    return [float(rate) for rate in done.stdout.split()]


def xgboost_rates():
    """Rows per second of one thread: one tree per round (a ranker), and softprob of four grades (one tree per grade)."""
    try:
        import numpy
        import xgboost
    except ImportError:
        print("skipped: python3-xgboost is not installed (apt-get install python3-xgboost)")
        return None
    random = numpy.random.RandomState(1)
    x = random.normal(size=(100000, 73)).astype(numpy.float32)
    y = (x[:, :8].sum(axis=1) + random.normal(size=len(x))).argsort().argsort() * 4 // len(x)
    rates = []
    for objective in ({"objective": "reg:squarederror"}, {"objective": "multi:softprob", "num_class": 4}):
        train = xgboost.DMatrix(x[:20000], label=y[:20000], nthread=1)
        booster = xgboost.train({**objective, "max_depth": 6, "tree_method": "hist", "nthread": 1, "verbosity": 0}, train, XGB_TREES)
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            booster.inplace_predict(x)
            best = min(best, time.process_time() - start)
        rates.append(len(x) / best)
    return rates


def main():
    session = Session()
    short, long, texts = prepare(session, sys.argv[1])
    work = statements(short, long)
    size, length = session.run("SELECT avg(pg_column_size(encoded)), avg(array_length(regexp_split_to_array(doc, '\\s+'), 1)) FROM doc").split("|")
    print(f"{DOCUMENTS} documents of {float(length):.0f} words, {float(size):.0f} bytes encoded; queries of {len(words_of(short))} and "
          f"{len(words_of(long))} words; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    rate = measure(session, work)
    session.close()
    print(f"\n{'statement':<36}{'rows/s':>10}{'us/row':>9}")
    for name, text in (("scan", "reading serm.doc"), ("stored", "score, stored serm.doc"), ("batch", "score_batch, stored serm.doc"),
                       ("raw", "score, text"), ("long", "score, stored, long query"), ("changing", "score, stored, each row another query"),
                       ("encode", "encode"), ("ts_rank_cd", "ts_rank_cd, stored tsvector"), ("ts_rank", "ts_rank, stored tsvector"),
                       ("ts_rank raw", "ts_rank(to_tsvector(text))")):
        print(f"{text:<36}{rate[name]:>10.0f}{1e6 / rate[name]:>9.2f}")
    one, many = heads()
    print(f"{'heads alone, one row':<36}{one:>10.0f}{1e6 / one:>9.2f}\n{'heads alone, batches of 16':<36}{many:>10.0f}{1e6 / many:>9.2f}")
    trees = xgboost_rates()
    if trees:
        for name, value in ((f"XGBoost, {XGB_TREES} rounds, regression", trees[0]), (f"XGBoost, {XGB_TREES} rounds, 4 grades", trees[1])):
            print(f"{name:<36}{value:>10.0f}{1e6 / value:>9.2f}")
    linear = growth(texts, short, long)
    busy = os.getloadavg()[0] > os.cpu_count() / 2
    gain, by_cpu, share = parallel(work)
    worker_least = min(1.8, OF_CEILING * gain["spin"])
    first, first_best = first_score(short)
    rows = [
        ("stored serm.doc, 6-8 tokens, pairs/s", rate["stored"], 100e3, 150e3),
        ("raw text, pairs/s", rate["raw"], 60e3, 100e3),
        ("raw text / ts_rank(to_tsvector)", rate["raw"] / rate["ts_rank raw"], 5, None),
        ("stored, 30 tokens, pairs/s", rate["long"], 30e3, 60e3),
        ("stored / ts_rank_cd", rate["stored"] / rate["ts_rank_cd"], 0.4, 0.6),
        (f"leader + 1 worker, times, by {'CPU' if busy else 'wall'} time", by_cpu if busy else gain["worker"], worker_least, 1.9),
        ("first score of a session, ms", -first, -5, -2),
        ("private memory above idle, MB", -private_memory(short) / 1024, -8, -4),
    ]
    if trees:
        rows.insert(5, (f"heads / XGBoost, {XGB_TREES} trees", many / trees[0], 1, 2))
    rows.append(("serm.doc of 100 words, bytes", -float(size), -550, None))
    rows.append(("cost grows with length and no faster", float(linear), 1, None))
    missed = 0
    print(f"\n{'figure':<44}{'measured':>10}{'at least':>10}{'stretch':>10}")
    for name, value, least, stretch in rows:
        missed += value < least
        show = [f"{abs(v):>10.0f}" if abs(v) >= 1000 else f"{abs(v):>10.2f}" for v in (value, least)]
        show.append("" if stretch is None else f"{abs(stretch):>10.0f}" if abs(stretch) >= 1000 else f"{abs(stretch):>10.2f}")
        print(f"{name:<44}{''.join(show)}{'   missed' if value < least else ''}")
    print(f"leader + 1 worker: {gain['worker']:.2f} by wall time, {by_cpu:.2f} by CPU time, the worker read {100 * share:.0f} % of the rows; two sessions "
          f"at once {gain['sessions']:.2f}; multiply-adds in registers {gain['spin']:.2f}: at least 1.8 or {OF_CEILING} of that is asked for")
    print(f"best first score {first_best:.2f} ms; load at the end {os.getloadavg()[0]:.1f}")
    sys.exit(missed > 0)


main()
