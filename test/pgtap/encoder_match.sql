-- An encoder made from nothing sees which words both texts have, and ranks by them before anybody has graded anything.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(9);

-- Words without meaning: nothing but being the same word tells that a query and a document belong together.
CREATE TABLE word AS
	SELECT n, substr('bcdfgklmnprstvz', 1 + n % 15, 1) || substr('aeiou', 1 + n / 15 % 5, 1) || substr('lmnrst', 1 + n * 7 % 6, 1) || 'ok' AS word
	  FROM generate_series(0, 71) AS n;
CREATE TABLE product AS
	SELECT 'p' || d AS doc_id, string_agg(word, ' ' ORDER BY md5(d || 'order' || n)) AS doc
	  FROM generate_series(1, 60) AS d, LATERAL (SELECT * FROM word ORDER BY md5(d || 'word' || n) LIMIT 8) AS w GROUP BY d;
CREATE TABLE pair AS
	SELECT word AS query, doc_id, doc, word = ANY (string_to_array(doc, ' ')) AS has FROM word, product WHERE n % 3 = 0;

-- The share of pairs of a document that has the word and one that lacks it that are in the right order: chance is 0.5.
CREATE FUNCTION in_order(model text, version int, split text) RETURNS float LANGUAGE sql AS $$
	WITH scored AS MATERIALIZED (SELECT query, has, serm.score_version(query, doc, model, version) AS score
	                               FROM pair WHERE split IS NULL OR serm.split_of(query) = split)
	SELECT avg(CASE WHEN a.score > b.score THEN 1.0 WHEN a.score = b.score THEN 0.5 ELSE 0 END)
	  FROM scored AS a JOIN scored AS b USING (query) WHERE a.has AND NOT b.has $$;

SELECT FROM serm.create_model('own', 'cross_encoder', documents => 'product',
	options => '{"layers": 1, "hidden": 64, "heads": 2, "vocab": 300, "max_length": 32}');
CALL serm.pretrain('own', '{"epochs": 80, "batch": 6, "learning_rate": 0.002}');
SELECT ok(convert_from(data, 'UTF8')::jsonb @> '{"match_types": true, "type_vocab_size": 4}', 'the stored config says that matches are marked')
  FROM serm.tensor WHERE name = 'config';
SELECT cmp_ok(in_order('own', 1, NULL), '>', 0.9::float, 'documents that have the word come first, before any judgment');

INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'own', query, doc_id, CASE WHEN has THEN 3 ELSE 0 END FROM pair WHERE has OR hashtext(query || doc_id) % 4 = 0;
CALL serm.train('own', '{"epochs": 3}');
SELECT cmp_ok(count(DISTINCT query), '>=', 3::bigint, 'some queries are held out') FROM pair WHERE serm.split_of(query) = 'test';
SELECT cmp_ok(in_order('own', 2, 'test'), '>', 0.9::float, 'and still after a training on other words');

-- --- the same bits by all ways
CREATE TABLE scored AS SELECT query, doc_id, doc, serm.score(query, doc, 'own') AS score FROM pair WHERE query IN (SELECT word FROM word WHERE n IN (0, 3)) ORDER BY 1, 2;
SELECT is(array_agg(serm.score(query, serm.encode(doc, 'own'), 'own') ORDER BY query, doc_id), array_agg(score ORDER BY query, doc_id), 'stored tokens') FROM scored;
SELECT is(array_agg(b ORDER BY query, doc_id), array_agg(score ORDER BY query, doc_id), 'batches')
  FROM (SELECT query, doc_id, score, serm.score_batch(query, doc, 'own') OVER () AS b FROM scored) AS s;
SELECT is(array_agg((SELECT p.score FROM serm.predict(query, doc, 'own') AS p) ORDER BY query, doc_id), array_agg(score ORDER BY query, doc_id), 'predictions') FROM scored;
SELECT ok(bool_and(abs(score - (SELECT sum(contribution) FROM serm.explain(query, doc, 'own'))) < 1e-5), 'explanations') FROM scored;
SELECT serm.alter_model('own', '{"long_documents": "chunk_max"}') \g /dev/null
SELECT is(array_agg(serm.score(query, doc, 'own') ORDER BY query, doc_id), array_agg(score ORDER BY query, doc_id), 'and chunks of documents that fit') FROM scored;
SELECT * FROM finish();
