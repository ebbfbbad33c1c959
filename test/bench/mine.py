#!/usr/bin/python3
"""Click models and mining: speed, recovery of a known truth, and real clicks. Run by test/bench/mine.sh.

    mine.py DATA_ROOT ROWS [SECTION...]

ROWS is the size of the log that is made in SQL. Sections are yandex, session, simulated, scale; all without a name. Exit
status 1: a gate is missed.
"""
import gzip
import os
import subprocess
import sys
import time

import numpy as np

import click_models

FAILED = []


def gate(good, text):
    print(f"{'pass' if good else 'FAIL'}  {text}", flush=True)
    if not good:
        FAILED.append(text)


class Session:
    """A psql that stays connected, and the backend behind it."""

    def __init__(self):
        self.psql = subprocess.Popen(["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1"],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.pid = int(self.run("SET client_min_messages = warning; SELECT pg_backend_pid()"))

    def run(self, sql):
        self.psql.stdin.write(sql.rstrip().rstrip(";") + ";\n\\echo <done>\n")
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line == "<done>\n":
                return "".join(lines).rstrip("\n")
            lines.append(line)
        sys.exit("mine.py: psql ended")

    def rows(self, sql):
        return [line.split("\t") for line in self.run(sql).split("\n") if line]

    def cpu(self):
        with open(f"/proc/{self.pid}/schedstat") as file:
            return int(file.read().split()[0]) * 1e-9

    def peak_mb(self):
        """Most private memory since the last reset, shared buffers left out."""
        with open(f"/proc/{self.pid}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return (int(lines["VmHWM"].split()[0]) - int(lines["RssShmem"].split()[0])) / 1024

    def reset_peak(self):
        with open(f"/proc/{self.pid}/clear_refs", "w") as file:
            file.write("5")

    def time(self, sql):
        """CPU seconds of one statement."""
        start = self.cpu()
        self.run(sql)
        return self.cpu() - start


def copy(name, rows):
    lines = ("\t".join("\\N" if value is None else str(value) for value in row) + "\n" for row in rows)
    subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", f"COPY {name} FROM STDIN"],
                   input="".join(lines).encode(), check=True)


def table(path):
    with gzip.open(path, "rt") as file:
        next(file)
        for line in file:
            yield line.rstrip("\n").split("\t")


def moment(second):
    return time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime(1577836800 + second))


# --- real clicks against another implementation

def yandex(session, root):
    path = os.path.join(root, "yandex_clicks_pyclick", "train.tsv.gz")
    if not os.path.exists(path):
        print(f"skip  click models on real pages: {path} is not there")
        return
    session.run("CREATE TABLE page_log (query text, doc_id text, shown_at timestamptz, position int, clicked bool, session_id text)")
    names, pages = {}, {}
    rows = [(int(r[0]), f"{r[1]} {r[2]}", int(r[3]), r[4], int(r[5]) > 0) for r in table(path)]
    copy("page_log", ((q, d, moment(serp), k, "t" if c else "f", serp) for serp, q, k, d, c in rows))
    for serp, query, rank, doc, click in sorted(rows):
        pages.setdefault(serp, []).append((names.setdefault((query, doc), len(names)), click))
    order = sorted(serp for serp, page in pages.items() if len(page) == 10)
    whole = len(order) == len(pages)
    pair = np.array([[p for p, _ in pages[serp]] for serp in order])
    click = np.array([[c for _, c in pages[serp]] for serp in order])
    cut = len(order) * 3 // 4
    boundary = moment(order[cut])
    known = np.zeros(len(names), bool)
    known[np.unique(pair[:cut])] = True
    fresh = np.where(known[pair[cut:]], pair[cut:], -1)
    session.run("SELECT serm.create_model('pages', log => 'page_log')")
    gate(whole, f"{len(order)} pages of ten results, {len(names)} pairs; fitted on the first {cut}, judged on the rest")
    for kind, other in click_models.KINDS.items():
        # The smoothing that the other implementation has: one of two, where the model has no more to say.
        laplace = '{"strength": 1}' if kind == "coec" else '{"strength": 2, "mean": 0.5}'
        session.run(f"CALL serm.fit_click_model('pages', '{kind}', until => '{boundary}', options => '{laplace}')")
        model = other(pair[:cut], click[:cut], len(names))
        for what, window, p, c in (("fitted", f"NULL, '{boundary}'", pair[:cut], click[:cut]),
                                   ("unseen", f"'{boundary}', NULL", fresh, click[cut:])):
            ours = [float(v) for v in session.run(
                "SELECT log_likelihood, perplexity FROM serm.evaluate_click_model('pages', "
                f"'{kind}', {window}) WHERE position IS NULL").split("\t")]
            theirs = click_models.quality(model, p, c)
            gap = max(abs(ours[i] / theirs[i] - 1) for i in range(2))
            gate(gap < 0.01, f"{kind:8} {what} pages: log-likelihood {ours[0]:.4f} ({theirs[0]:.4f}), perplexity {ours[1]:.4f} "
                 f"({theirs[1]:.4f}), {100 * gap:.2f} % apart (at most 1 %)")
        session.run(f"CALL serm.fit_click_model('pages', '{kind}', until => '{boundary}')")
        own = session.run("SELECT round(log_likelihood::numeric, 4), round(perplexity::numeric, 4) FROM "
                          f"serm.evaluate_click_model('pages', '{kind}', '{boundary}') WHERE position IS NULL").split("\t")
        print(f"      {kind:8} unseen pages with serm's own priors: log-likelihood {own[0]}, perplexity {own[1]}")
    session.run("SELECT serm.drop_model('pages'); DROP TABLE page_log")


# --- real clicks against human grades

def pair_accuracy(topic, grade, score):
    """Of the pairs of documents of one topic that people grade differently, how many the score orders so; by topic."""
    right, pairs = [], []
    for one in np.unique(topic):
        here = topic == one
        more = grade[here][:, None] > grade[here][None, :]
        order = np.sign(score[here][:, None] - score[here][None, :])[more]
        right.append((order > 0).sum() + 0.5 * (order == 0).sum())
        pairs.append(more.sum())
    return np.array(right), np.array(pairs)


def session_clicks(session, root):
    directory = os.path.join(root, "trec_session2013")
    if not os.path.isdir(directory):
        print(f"skip  click models against human grades: {directory} is not there")
        return
    with gzip.open(os.path.join(directory, "qrels.tsv.gz"), "rt") as file:
        grades = {(t, d): max(0, int(g)) for t, d, g in (line.rstrip("\n").split("\t") for line in file)}
    session.run("CREATE TABLE session_log (query text, doc_id text, shown_at timestamptz, position int, clicked bool, session_id text)")
    copy("session_log", ((f"topic {r[1]}", r[5], moment(int(float(r[3]))), r[4], "t" if int(r[6]) > 0 else "f", f"{r[0]} {r[2]}")
                         for r in table(os.path.join(directory, "serp_clicks.tsv.gz"))))
    session.run("SELECT serm.create_model('session', log => 'session_log')")
    rng = np.random.default_rng(1)
    for kind in click_models.KINDS:
        session.run(f"CALL serm.fit_click_model('session', '{kind}')")
        rows = [(q.split()[1], d, float(a), float(r), int(n), int(c)) for q, d, a, r, n, c in session.rows(
            "SELECT query, doc_id, attractiveness, relevance, impressions, clicks FROM "
            f"serm.click_relevance('session', '{kind}') ORDER BY query, doc_id") if (q.split()[1], d) in grades]
        topic = np.array([r[0] for r in rows])
        grade = np.array([grades[r[0], r[1]] for r in rows])
        rate = np.array([r[5] / r[4] for r in rows])
        base, pairs = pair_accuracy(topic, grade, rate)
        ours, _ = pair_accuracy(topic, grade, np.array([r[2] for r in rows]))
        product, _ = pair_accuracy(topic, grade, np.array([r[3] for r in rows]))
        draws = rng.integers(0, len(pairs), (2000, len(pairs)))
        low, high = np.percentile((ours - base)[draws].sum(1) / pairs[draws].sum(1), (2.5, 97.5))
        text = (f"{kind:8} pair accuracy against human grades {ours.sum() / pairs.sum():.4f} (with satisfaction "
                f"{product.sum() / pairs.sum():.4f}), click rate {base.sum() / pairs.sum():.4f}, difference "
                f"[{low:+.4f}, {high:+.4f}], {len(rows)} pairs, {len(pairs)} topics")
        # The kind that doc/mining.md recommends where pairs are shown once or twice.
        if kind == "sdbn":
            gate(low > 0, text)
        else:
            print("     ", text)
    session.run("SELECT serm.drop_model('session'); DROP TABLE session_log")


# --- clicks of known truth

def spearman(x, y):
    def rank(v):
        _, inverse, count = np.unique(v, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count - 1) / 2)[inverse]
    return np.corrcoef(rank(x), rank(y))[0, 1]


def simulated(session):
    rng = np.random.default_rng(7)
    queries, documents, pages, shown = 100, 20, 60000, 10
    truth = rng.uniform(0.02, 0.6, (queries, documents))
    engine = rng.uniform(0, 1, (queries, documents))
    examined = (1 / np.arange(1, shown + 1)) ** 0.9
    query = rng.integers(0, queries, pages)
    order = np.argsort(-(engine[query] + 0.25 * rng.normal(size=(pages, documents))), axis=1)[:, :shown]
    click = rng.uniform(size=(pages, shown)) < examined[None, :] * truth[query[:, None], order]
    session.run("CREATE TABLE sim_log (query text, doc_id text, shown_at timestamptz, position int, clicked bool, session_id text)")
    copy("sim_log", ((f"q{query[s]}", f"d{order[s, k]}", moment(s), k + 1, "t" if click[s, k] else "f", s)
                     for s in range(pages) for k in range(shown)))
    session.run("SELECT serm.create_model('sim', log => 'sim_log'); CALL serm.fit_click_model('sim')")
    rows = session.rows("SELECT query, doc_id, attractiveness, ips, impressions, clicks FROM serm.click_relevance('sim') WHERE impressions >= 20")
    true = np.array([truth[int(r[0][1:]), int(r[1][1:])] for r in rows])
    value = np.array([[float(v) for v in r[2:]] for r in rows])
    fitted, rate = spearman(value[:, 0], true), spearman(value[:, 3] / value[:, 2], true)
    gate(fitted > rate + 0.1, f"planted attractiveness of {len(rows)} pairs: Spearman {fitted:.3f}, click rate {rate:.3f} (at least .1 more)")
    weight = value[:, 2]
    bias = (value[:, 1] * weight).sum() / (true * weight).sum() - 1
    naive = value[:, 3].sum() / (true * weight).sum() - 1
    gate(abs(bias) < 0.02, f"inverse propensity: bias {100 * bias:+.2f} % of the mean attractiveness (at most 2 %), raw clicks {100 * naive:+.1f} %")
    session.run("SELECT serm.drop_model('sim'); DROP TABLE sim_log")


# --- a large log

def make_log(session, rows):
    """Page by page, as logs are written: the inner series depends on the page, or the planner would turn the loops round."""
    pages, queries = rows // 10, max(100, rows // 250)
    session.run(f"""CREATE TABLE big_log (query text, doc_id text, shown_at timestamptz, position int, clicked bool, dwell_ms int, session_id text);
    INSERT INTO big_log SELECT w.query, 'document ' || q * 15 + (k - 1 + jitter) % 15, '2026-01-01'::timestamptz + s * interval '1 second', k,
        (hashint8(s * 11 + k) & 1023) < 450 / (k + 1), CASE WHEN (hashint8(s * 11 + k) & 1023) < 450 / (k + 1) THEN (hashint8(s) & 65535) END, 'session ' || s
      FROM (SELECT s, ({queries} * pow(((hashint8(s) & 65535) + 0.5) / 65536, 3))::int AS q,
        CASE WHEN (hashint8(s + 5) & 3) = 0 THEN 1 + (hashint8(s + 9) & 3) ELSE 0 END AS jitter FROM generate_series(1, {pages}) AS s) AS p
      CROSS JOIN LATERAL (SELECT 'kind ' || q % 97 || ' thing ' || q AS query) AS w CROSS JOIN LATERAL generate_series(1, 10 + 0 * s) AS k;
    CREATE TABLE big_doc AS SELECT 'document ' || n AS doc_id, 'thing ' || n / 15 || ' of kind ' || n / 15 % 97 || ' make ' || n % 13 || E'\n' ||
        (SELECT string_agg(md5((n * 7 + i)::text) || ' with part ' || i, ' ') FROM generate_series(1, 6) AS i) AS doc
      FROM generate_series(0, {queries} * 15 + 15) AS n;
    VACUUM ANALYZE big_log; VACUUM ANALYZE big_doc;
    SELECT serm.create_model('big', log => 'big_log', documents => 'big_doc')""")
    session.run("SET max_parallel_workers_per_gather = 0; SET jit = off; SET serm.mine_pairs_max = 20000000; SET serm.train_memory = '8GB'")
    return moment_of(pages // 4)


def moment_of(second):
    return time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime(1767225600 + second))


def measured(session, sql):
    """CPU seconds and peak private megabytes of one statement."""
    session.reset_peak()
    seconds = session.time(sql)
    return seconds, session.peak_mb()


def one_pass(session, log):
    """CPU seconds of reading, of one pass of EM, of writing."""
    session.run(f"UPDATE serm.model SET log = '{log}' WHERE name = 'big'; CALL serm.fit_click_model('big', options => '{{\"iterations\": 1}}')")
    return [float(v) for v in session.run(
        "SELECT cost->>'read', cost->>'fit', cost->>'write' FROM serm.click_model WHERE model = 'big'").split("\t")]


def scale(session, rows):
    session.run("SET timezone = 'UTC'")
    quarter = make_log(session, rows)
    group = "SELECT count(*) FROM (SELECT query, doc_id, position, count(*), count(*) FILTER (WHERE clicked) FROM big_log GROUP BY 1, 2, 3) AS g"
    scan = min(session.time("SELECT count(*) FROM big_log") for _ in range(2))
    # The columns that a fit reads, through the executor to nobody: what a plan costs before a row is anyone's.
    floor = min(session.time("EXPLAIN (ANALYZE, TIMING OFF) SELECT query, doc_id, position, clicked, shown_at FROM big_log") for _ in range(2))
    sql = min(session.time(group) for _ in range(2))
    session.run("SET work_mem = '2GB'")
    roomy = session.time(group)
    session.run("RESET work_mem")
    session.run("CREATE VIEW big_view AS SELECT * FROM big_log")
    view = min(one_pass(session, "big_view") for _ in range(2))
    read, fit, write = min(one_pass(session, "big_log") for _ in range(3))
    pairs = int(session.run("SELECT pairs FROM serm.click_model WHERE model = 'big'"))
    print(f"      {rows} impressions, {pairs} pairs; CPU seconds: scan {scan:.2f}, the five columns through a plan {floor:.2f}, GROUP BY {sql:.2f} "
          f"(work_mem 2 GB: {roomy:.2f}); reading and grouping {read:.2f} (a view: {view[0]:.2f}), one pass of EM {fit:.2f}, write {write:.2f}")
    for what, seconds in (("one pass of EM over the groups", fit), ("the same with reading and grouping the log", read + fit)):
        gate(rows / seconds >= 5e6, f"{what}: {rows / seconds / 1e6:.1f} M rows/s per core (at least 5)")
        gate(sql >= 5 * seconds, f"{what}: {sql / seconds:.1f} times the speed of GROUP BY (at least 5; with work_mem 2 GB {roomy / seconds:.1f})")
    session.run("CALL serm.fit_click_model('big')")
    print("      to the end: " + session.run("SELECT iterations || ' iterations, ' || round((cost->>'fit')::numeric, 2) || ' s of CPU' FROM serm.click_model"))

    one = Session()
    one.run("SET serm.mine_pairs_max = 20000000; SET max_parallel_workers_per_gather = 0")
    small = measured(one, f"CALL serm.fit_click_model('big', until => '{quarter}', options => '{{\"iterations\": 1}}')")[1]
    few = int(one.run("SELECT pairs FROM serm.click_model WHERE model = 'big'"))
    large = measured(one, "CALL serm.fit_click_model('big', options => '{\"iterations\": 1}')")[1]
    gate(large <= 1.6 * small * max(1, pairs / few), f"memory of a fit: {small:.0f} MB for a quarter of the log ({few} pairs), {large:.0f} MB for "
         f"all of it ({pairs} pairs)")

    session.run("""INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'big', query, doc_id, hashtext(doc_id) & 3
        FROM (SELECT DISTINCT query, doc_id FROM (SELECT * FROM big_log LIMIT 20000) AS l) AS j;
        CALL serm.train('big', '{"epochs": 2, "pretrain_epochs": 0, "corpus": 5000}');
        CREATE TABLE big_pair AS SELECT DISTINCT query, doc_id FROM big_log""")
    score = min(session.time("SELECT sum(serm.score(query, doc, 'big')) FROM (SELECT p.query, d.doc FROM big_pair AS p JOIN big_doc AS d "
                             "USING (doc_id) ORDER BY p.query COLLATE \"C\") AS s") for _ in range(2))
    # Scoring alone, without the join and the order that it profits from.
    join = session.time("SELECT sum(length(query) + length(doc)) FROM (SELECT p.query, d.doc FROM big_pair AS p JOIN big_doc AS d "
                        "USING (doc_id) ORDER BY p.query COLLATE \"C\") AS s")
    one.run("SELECT count(*) FROM serm.mine('big', budget => 10)")
    mine = "SELECT count(*) FROM serm.mine('big', {}budget => 10000, options => '{{\"include_judged\": true, \"stored_clicks\": {}}}')"
    part = measured(one, mine.format(f"until => '{quarter}', ", "false"))
    window = measured(one, mine.format("", "false"))
    one.run("CALL serm.fit_click_model('big')")
    stored = measured(one, mine.format("", "true"))
    for what, run in (("click model of the window", window), ("click model stored before", stored)):
        gate(run[0] <= 3 * score, f"mining with four agents and a budget of 10,000, {what}: {run[0]:.1f} s of CPU, scoring the {pairs} pairs {score:.1f} s "
             f"(of which join and order {join:.1f}), {run[0] / score:.2f} times (at most 3)")
        gate(run[1] <= 1.6 * part[1] * max(1, pairs / few), f"memory of mining: {part[1]:.0f} MB for a quarter, {run[1]:.0f} MB for all")
    session.run("SELECT serm.drop_model('big'); DROP VIEW big_view; DROP TABLE big_log, big_doc, big_pair")


SECTIONS = {"yandex": lambda session, root, rows: yandex(session, root),
            "session": lambda session, root, rows: session_clicks(session, root),
            "simulated": lambda session, root, rows: simulated(session),
            "scale": lambda session, root, rows: scale(session, rows)}


def main():
    root, rows, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:] or list(SECTIONS)
    session = Session()
    for name in names:
        print(f"--- {name}", flush=True)
        SECTIONS[name](session, root, rows)
    print(f"{len(FAILED)} gates missed" if FAILED else "every gate passed")
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
