#!/usr/bin/python3
"""No labels at all: what a model is worth after CALL serm.pretrain, against BM25. Run by test/bench/quality.sh.

    cold.py DATA_ROOT [SET...]

A SET is the name of a directory, or taught, or taught/SEED: a model taught by questions in English.

Everything that the model does is SQL: create_model with documents, CALL serm.pretrain, serm.score of every candidate. No
grade reaches the model; grades are used here, to measure. Conventions and gates are those of doc/benchmarks.md. Exit
status 1: a gate was missed. Needs python3-numpy.
"""
import collections
import os
import re
import sys
import time
import unicodedata

import numpy as np

from quality import DRAWS, bootstrap, copy, csv_lines, ndcg, psql, rows, share

K1, B = 1.2, .75
POOL = 100
QUESTIONS = 400  # of a language; 0: all
# No set may fall below BM25 by more points than this.
BELOW = .5
LANGUAGES = {"en": "english", "de": "german", "es": "spanish", "ar": "arabic", "zh": None}
# Per set: its grades as gains, the least lin@10 (None: only not below BM25), and whether candidates are a pool of BM25.
SETS = {
    "crowdflower_srr": (lambda g: g - 1, None, False),
    "homedepot": (lambda g: 0 if g < 1.5 else 1 if g < 2.17 else 2 if g < 2.84 else 3, None, False),
    "epqa": (lambda g: g, None, False),
    "trec_dl2019": (lambda g: g, .49, False),
    "trec_session2013": (lambda g: min(max(g, 0), 3), .515, False),
    "cranfield": (lambda g: 1 if g < 3 else 2 if g < 4 else 3, None, True),
}


# --- loading

def load(path, stemmer):
    """Documents, queries and grades of a directory; stems of `stemmer` without stop words, because questions need those."""
    psql(f"""
        DROP SCHEMA IF EXISTS cold CASCADE;
        CREATE SCHEMA cold;
        CREATE TABLE cold.product (doc_id text PRIMARY KEY, title text, body text,
            doc text GENERATED ALWAYS AS (title || E'\\n' || body) STORED);
        CREATE VIEW cold.document AS SELECT doc_id, doc FROM cold.product;
        CREATE TABLE cold.query (query_id text PRIMARY KEY, query text, place int GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE cold.raw (query_id text, doc_id text, grade float8);
        \\copy cold.product (doc_id, title, body) from program 'gzip -dc {path}/docs.tsv.gz | sed "s/\\\\\\\\/&&/g"'
        \\copy cold.query (query_id, query) from program 'gzip -dc {path}/queries.tsv.gz | sed "s/\\\\\\\\/&&/g"'
        \\copy cold.raw from program 'gzip -dc {path}/qrels.tsv.gz'
        CREATE TEXT SEARCH DICTIONARY cold.stem (TEMPLATE = snowball, language = {stemmer or 'english'});
        CREATE TEXT SEARCH CONFIGURATION cold.stems (COPY = simple);
        ALTER TEXT SEARCH CONFIGURATION cold.stems ALTER MAPPING REPLACE simple WITH cold.stem;
        CREATE TABLE cold.candidate (query_id text, doc_id text, PRIMARY KEY (query_id, doc_id));
    """)


CHINESE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(f"[{CHINESE}]+|[^\\W_{CHINESE}]+")
MARKS = re.compile("[\u0300-\u036f\u0610-\u061a\u0640\u064b-\u065f\u0670]")


def words(text):
    """Lower-case words without marks; of a run of Chinese characters the pairs of neighbours."""
    out = []
    for run in WORD.findall(MARKS.sub("", unicodedata.normalize("NFKD", text)).lower()):
        chinese = re.match(f"[{CHINESE}]", run)
        out += [run[i:i + 2] for i in range(max(1, len(run) - 1))] if chinese else [run]
    return out


def stemmed(stemmer):
    """All documents and queries as counts of stems."""
    texts = [{key: collections.Counter(words(text)) for key, text in rows(f"SELECT {key}, {text} FROM cold.{table}")}
             for key, text, table in (("doc_id", "doc", "product"), ("query_id", "query", "query"))]
    if stemmer is None:
        return texts
    distinct = sorted({w for side in texts for counts in side.values() for w in counts})
    psql("CREATE TABLE cold.word (word text);" + copy("cold.word", csv_lines([w] for w in distinct)))
    stem = dict(rows("SELECT word, (ts_lexize('cold.stem', word))[1] FROM cold.word"))
    for side in texts:
        for key, counts in side.items():
            side[key] = collections.Counter()
            for word, n in counts.items():
                side[key][stem[word] or word] += n
    return texts


class Bm25:
    """BM25 over stems of title and body together; statistics over all documents of the set, and `others` (counts)."""

    def __init__(self, stemmer, others=()):
        self.docs, self.queries = stemmed(stemmer)
        self.postings = collections.defaultdict(list)
        self.elsewhere = collections.Counter(word for terms in others for word in terms)
        self.count = len(self.docs) + len(others)
        length = {d: sum(terms.values()) for d, terms in self.docs.items()}
        average = (sum(length.values()) + sum(sum(terms.values()) for terms in others)) / self.count
        for d, terms in self.docs.items():
            norm = K1 * (1 - B + B * length[d] / average)
            for word, n in terms.items():
                terms[word] = n * (K1 + 1) / (n + norm)
                self.postings[word].append(d)

    def query(self, q, docs=None):
        """Scores of `docs`, or of every document that shares a term."""
        terms = {}
        for word in self.queries[q]:
            found = len(self.postings.get(word, ())) + self.elsewhere[word]
            terms[word] = np.log(1 + (self.count - found + .5) / (found + .5))
        if docs is None:
            docs = {d for word in terms for d in self.postings.get(word, ())}
        return {d: sum(idf * self.docs[d].get(word, 0) for word, idf in terms.items()) for d in docs}


# --- measuring: each set gives per query the value of a system

def ranks(q, docs, values):
    """Scores whose only ties are broken by a jitter that is the same for every system."""
    jitter = np.array([share(f"tie {q} {d}") for d in docs])
    rank = np.empty(len(docs))
    rank[np.lexsort((jitter, values))] = np.arange(len(docs))
    return rank


class Ranking:
    """A set of judged pools: lin@10 over the judged documents of a query."""
    metric = "lin@10"

    def __init__(self, name):
        self.grade_of, self.least, self.pooled = SETS[name]
        self.stemmer = "english"

    def candidates(self, bm25, order):
        """Per query the documents to rank, their gains, and the gains that an ideal ranking has."""
        self.raw = collections.defaultdict(dict)
        for q, d, g in rows("SELECT query_id, doc_id, avg(grade) FROM cold.raw JOIN cold.product USING (doc_id) "
                            "JOIN cold.query USING (query_id) GROUP BY 1, 2"):
            self.raw[q][d] = self.grade_of(float(g))
        for q in order:
            if max(self.raw[q].values(), default=0) <= 0:
                continue
            found = bm25.query(q) if self.pooled else self.raw[q]
            yield q, sorted(sorted(found, key=lambda d: (-found[d], d))[:POOL] if self.pooled else found)

    def value(self, q, docs, rank):
        gain = np.array([self.raw[q].get(d, 0) for d in docs], dtype=float)
        if not self.pooled:
            return ndcg(gain, rank, 10, False)
        ideal = np.sort(list(self.raw[q].values()))[::-1][:10]
        discount = 1 / np.log2(np.arange(2, 12))
        top = gain[np.argsort(-rank)][:10]
        return (top * discount[:len(top)]).sum() / (ideal * discount[:len(ideal)]).sum()


class Finding:
    """Questions in one language: the reciprocal rank of the right paragraph among all."""
    metric = "MRR"
    least = None

    def __init__(self, language):
        self.stemmer = LANGUAGES[language]

    def candidates(self, bm25, order):
        self.right = dict(rows("SELECT query_id, doc_id FROM cold.raw WHERE grade > 0"))
        docs = sorted(bm25.docs)
        for q in order[::max(1, len(order) // QUESTIONS)][:QUESTIONS] if QUESTIONS else order:
            yield q, docs

    def value(self, q, docs, rank):
        return 1 / (1 + (rank > rank[docs.index(self.right[q])]).sum())


def prepare(path, kind):
    """Load a set; its candidates and the value of BM25 per query."""
    load(path, kind.stemmer)
    bm25 = Bm25(kind.stemmer)
    order = [q for q, in rows("SELECT query_id FROM cold.query ORDER BY place")]
    pools = list(kind.candidates(bm25, order))
    psql(copy("cold.candidate", csv_lines((q, d) for q, docs in pools for d in docs)) + "ANALYZE cold.candidate;")
    return pools, values_of(bm25, pools, kind)


def values_of(bm25, pools, kind):
    """The value per query of BM25."""
    theirs = []
    for q, docs in pools:
        found = bm25.query(q, docs)
        theirs.append(kind.value(q, docs, ranks(q, docs, np.array([found[d] for d in docs]))))
    return np.array(theirs)


def scores(model, pools, kind):
    """The value per query of a model, scored by SQL."""
    score = {(q, d): float(s) for q, d, s in rows(
        f"SELECT query_id, doc_id, serm.score_batch(query, doc, '{model}') OVER (PARTITION BY query_id) FROM cold.candidate "
        "JOIN cold.query USING (query_id) JOIN cold.product USING (doc_id)")}
    return np.array([kind.value(q, docs, ranks(q, docs, np.array([score[q, d] for d in docs]))) for q, docs in pools])


def tell(name, kind, system, ours, theirs, gated=True):
    """One line of the table; returns the gates that were missed."""
    draws = np.random.default_rng(15).integers(0, len(ours), (DRAWS, len(ours)))
    low, high = bootstrap(ours - theirs, draws)
    apart = 100 * (ours - theirs).mean()
    good = apart >= -BELOW and (kind.least is None or ours.mean() >= kind.least)
    gate = f"not {BELOW} below" + (f", >= {kind.least}" if kind.least is not None else "")
    if not gated:
        print(f"        {name:18}{system:24}{kind.metric:7}{ours.mean():.4f}  BM25 {theirs.mean():.4f}  "
              f"{apart:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]  of {len(ours)}", flush=True)
        return False
    print(f"  {'pass' if good else 'MISS'}  {name:18}{system:24}{kind.metric:7}{ours.mean():.4f}  BM25 {theirs.mean():.4f}  "
          f"{apart:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]  of {len(ours)}, gate {gate}", flush=True)
    return not good


def pretrain(model, documents):
    psql(f"""SELECT serm.create_model('{model}', documents => '{documents}');
        SET client_min_messages = warning; CALL serm.pretrain('{model}');""")


def measure(root, name):
    kind = Finding(name[6:]) if name.startswith("xquad/") else Ranking(name)
    pools, theirs = prepare(os.path.join(root, name), kind)
    pretrain("cold", "cold.document")
    missed = tell(name, kind, "no labels", scores("cold", pools, kind), theirs)
    psql("SELECT serm.drop_model('cold');")
    return missed


# --- languages: judgments in English, questions in another language

def zero_shot(root, seed):
    """One model over the paragraphs of all languages, taught by English questions only: each has its paragraph (grade 1) and
    nine others (grade 0), those that generation 0 takes for the best. The gate is against BM25 over the paragraphs of the
    language alone; a second opponent has the statistics of the table that the model has."""
    psql("""DROP SCHEMA IF EXISTS taught CASCADE; CREATE SCHEMA taught;
        CREATE TABLE taught.document (doc_id text, doc text);""")
    present = [x for x in LANGUAGES if os.path.exists(os.path.join(root, "xquad", x, "docs.tsv.gz"))]
    if "en" not in present:
        print(f"  skipped: xquad/en is not in {root}")
        return 0
    counts = {}
    for language in present:
        load(os.path.join(root, "xquad", language), LANGUAGES[language])
        counts[language] = list(stemmed(LANGUAGES[language])[0].values())
        psql(f"INSERT INTO taught.document SELECT '{language}' || doc_id, doc FROM cold.product;")
    load(os.path.join(root, "xquad", "en"), "english")
    psql(f"""SELECT serm.create_model('taught', grades => '{{wrong,right}}', documents => 'taught.document',
            options => '{{"test_share": 0}}');
        SET client_min_messages = warning; CALL serm.pretrain('taught', '{{"seed": {seed}}}');
        INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge)
            SELECT 'taught', query, 'en' || d.doc_id, (d.doc_id = r.doc_id)::int, 'human', 'bench'
            FROM cold.query JOIN cold.raw r USING (query_id), LATERAL (
                SELECT r.doc_id UNION (SELECT p.doc_id FROM cold.product p WHERE p.doc_id <> r.doc_id
                    ORDER BY serm.score(query, p.doc) DESC, p.doc_id LIMIT 9)) d;
        CALL serm.train('taught', '{{"guard": 1, "seed": {seed}}}');""")
    missed = 0
    for language in present:
        if language == "en":
            continue
        kind = Finding(language)
        pools, theirs = prepare(os.path.join(root, "xquad", language), kind)
        ours = scores("taught", pools, kind)
        missed += tell(f"xquad/{language}", kind, f"in English, seed {seed}", ours, theirs)
        mixed = Bm25(LANGUAGES[language], [terms for other in present if other != language for terms in counts[other]])
        tell(f"xquad/{language}", kind, "  BM25 over the table", ours, values_of(mixed, pools, kind), False)
    psql("SELECT serm.drop_model('taught');")
    return missed


def main():
    root, names = sys.argv[1], sys.argv[2:] or [*SETS, *(f"xquad/{x}" for x in LANGUAGES), "taught"]
    print("\nNo labels: CALL serm.pretrain, then serm.score, in points against BM25", flush=True)
    started, missed = time.time(), 0
    for name in names:
        if name.startswith("taught"):
            missed += zero_shot(root, int(name[7:] or 1))
        elif os.path.exists(os.path.join(root, name, "docs.tsv.gz")):
            missed += measure(root, name)
        else:
            print(f"  skipped: {name} is not in {root}")
    print(f"{missed} gate(s) missed" if missed else "all gates passed", f"in {time.time() - started:.0f} s")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
