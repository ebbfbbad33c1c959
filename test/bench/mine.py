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


SECTIONS = {"yandex": lambda session, root, rows: yandex(session, root)}


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
