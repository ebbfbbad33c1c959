#!/usr/bin/env python3
"""Write the sample of serm from its hand-written sources.

    test/data/generate.py            writes the TSV files beside it
    test/data/generate.py --check    writes nothing; fails if they are not what it would write

Sources: catalogue/*.txt (products with what they are) and queries.txt (what shoppers type, with what they
mean). A grade comes from what a product is and what a shopper means, never from shared words.

products.tsv   doc_id, title, body
queries.tsv    query_id, query, segment, sessions (how often it is asked in the simulated log)
truth.tsv      query_id, doc_id, grade: every pair of the judged pools, the new season's queries included
judgments.tsv  query_id, doc_id, grade: what the shop had labelled before the new season: two fifths
               of the pairs of the older queries, about the older products

The pool of a query holds every product its rules grade above 0, the products that share its rarest words (the
lexical traps) and a few at random. No header, tab-separated, no quoting.
"""
import collections
import hashlib
import math
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
DEPARTMENTS = ["bedroom", "living", "kitchen", "garden", "outdoor", "season"]
TRAPS = 13
POOL_MIN = 20


def fail(message):
    sys.exit("generate.py: " + message)


def lines_of(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            yield f"{path.name}:{number}", line


def share(*key):
    """A number in [0, 1) that depends on the key alone: the same on every machine."""
    digest = hashlib.sha256("\t".join(key).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def words(text):
    return {re.sub(r"(es|s|ing)$", "", w) for w in re.findall(r"[a-z]+|\d+", text.lower())}


def read_products():
    products = []
    for department in DEPARTMENTS:
        for where, line in lines_of(HERE / "catalogue" / f"{department}.txt"):
            fields = line.split(" | ")
            if len(fields) != 3:
                fail(f"{where}: expected tags | title | body")
            tags, title, body = fields
            count = len(body.split())
            if not 20 <= count <= 80:
                fail(f"{where}: a body of {count} words")
            products.append({
                "id": f"{department[:2].upper()}{len(products) + 1001}",
                "tags": set(tags.split()), "kind": tags.split()[0], "title": title, "body": body,
                "season": department == "season", "words": words(title + " " + body),
            })
    if len({p["title"] for p in products}) != len(products):
        fail("two products have one title")
    return products


def read_rules(where, text, known):
    rules = []
    for part in text.split(";"):
        grade, _, alternatives = part.strip().partition(":")
        if grade not in ("0", "1", "2", "3"):
            fail(f"{where}: a grade of {grade!r}")
        for alternative in alternatives.split(","):
            has, lacks = set(), set()
            for tag in alternative.strip().split("+"):
                (lacks if tag.startswith("!") else has).add(tag.lstrip("!"))
            unknown = (has | lacks) - known
            if unknown or not has:
                fail(f"{where}: no product is {', '.join(sorted(unknown)) or 'meant'}")
            rules.append((int(grade), has, lacks))
    return rules


def read_queries(products):
    known = set().union(*(p["tags"] for p in products))
    queries = []
    for where, line in lines_of(HERE / "queries.txt"):
        fields = line.split(" | ")
        if len(fields) != 4:
            fail(f"{where}: expected query | segment | sessions | rules")
        queries.append({
            "id": f"q{len(queries) + 1:03d}", "query": fields[0], "segment": fields[1], "sessions": int(fields[2]),
            "rules": read_rules(where, fields[3], known),
        })
    return queries


def grade_of(query, product):
    for grade, has, lacks in query["rules"]:
        if has <= product["tags"] and not lacks & product["tags"]:
            return grade
    return 0


def pool_of(query, products, idf):
    grades = {p["id"]: grade_of(query, p) for p in products}
    pool = {p["id"] for p in products if grades[p["id"]] > 0}
    asked = words(query["query"])
    overlap = {p["id"]: sum(idf[w] for w in asked & p["words"]) for p in products}
    traps = sorted((i for i in overlap if overlap[i] > 0 and i not in pool), key=lambda i: (-overlap[i], i))
    pool.update(traps[:TRAPS])
    others = sorted((p["id"] for p in products if p["id"] not in pool), key=lambda i: share(query["id"], i))
    pool.update(others[:max(3, POOL_MIN - len(pool))])
    return {i: grades[i] for i in sorted(pool)}


def build():
    products = read_products()
    queries = read_queries(products)
    counts = collections.Counter(w for p in products for w in p["words"])
    idf = collections.defaultdict(float, {w: math.log(1 + len(products) / n) for w, n in counts.items()})
    by_id = {p["id"]: p for p in products}
    truth, judgments = [], []
    for query in queries:
        pool = pool_of(query, products, idf)
        if 3 not in pool.values():
            fail(f"nothing is right for {query['query']!r}")
        for doc_id, grade in pool.items():
            truth.append((query["id"], doc_id, grade))
            labelled = query["segment"] != "season" and not by_id[doc_id]["season"]
            if labelled and share("label", query["id"], doc_id) < 0.42:
                judgments.append((query["id"], doc_id, grade))
    return {
        "products.tsv": [(p["id"], p["title"], p["body"]) for p in products],
        "queries.tsv": [(q["id"], q["query"], q["segment"], q["sessions"]) for q in queries],
        "truth.tsv": truth,
        "judgments.tsv": judgments,
    }


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        fail("the only argument is --check")
    for name, rows in build().items():
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        path = HERE / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            fail(f"{name} is not what its sources say; run test/data/generate.py")
        grades = collections.Counter(row[2] for row in rows) if len(rows[0]) == 3 and name != "products.tsv" else {}
        print(name, len(rows), *(f"{g}:{n}" for g, n in sorted(grades.items())))


if __name__ == "__main__":
    main()
