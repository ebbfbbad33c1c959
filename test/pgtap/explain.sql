-- serm.explain: contributions that sum to the score, over texts of every kind; the words that terms meet; rights and errors.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(30);

SELECT is(p.provolatile::text || p.proparallel::text || p.proisstrict::text || p.proretset::text, 'sstruetrue', f)
FROM unnest('{"serm.explain(text,text)","serm.explain(text,text,text)","serm.explain(text,serm.doc)","serm.explain(text,serm.doc,text)"}'::text[]) AS f
	JOIN pg_proc AS p ON p.oid = f::regprocedure;

SELECT throws_ok($$SELECT * FROM serm.explain('red shoe', 'red shoe')$$, '55000', NULL, 'without a model');
CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home, made to last.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,bathroom}'::text[]) AS thing;
SELECT FROM serm.create_model('m', documents => 'product');
INSERT INTO serm.judgment (model, query, doc_id, grade)
	SELECT 'm', replace(q.doc_id, '-', ' '), d.doc_id,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END
	  FROM product q, product d;
SELECT throws_ok($$SELECT * FROM serm.explain('red shoe', 'red shoe', 'm')$$, '55000', NULL, 'without an active version');
CALL serm.train('m', '{"epochs": 12}');
SELECT throws_ok($$SELECT * FROM serm.explain('red shoe', 'red shoe', 'nobody')$$, '42704', NULL, 'an unknown model');

-- --- the rows
CREATE TABLE e AS SELECT * FROM serm.explain('red shoe', E'red shoe\nA red shoe for your home.');
SELECT is(count(*), 5::bigint, 'a row for the base, and one for each term and field') FROM e;
SELECT is(count(*), 1::bigint, 'the base has no term, word or field') FROM e WHERE query_term IS NULL AND doc_term IS NULL AND field IS NULL;
SELECT results_eq($$SELECT query_term, doc_term, field FROM e WHERE field IS NOT NULL ORDER BY 1, 3$$,
	$$VALUES ('red', 'red', 'body'), ('red', 'red', 'title'), ('shoe', 'shoe', 'body'), ('shoe', 'shoe', 'title')$$, 'terms meet their words');
SELECT cmp_ok(sum(contribution), '>', .3::real, query_term || ' raises the score') FROM e WHERE query_term IS NOT NULL GROUP BY query_term ORDER BY query_term;
SELECT is(doc_term, 'pillow', 'a misspelled word') FROM serm.explain('pilow', 'red pillow') WHERE field = 'title';
SELECT is(string_agg(doc_term, ',' ORDER BY query_term), 'bathroom,bathroom', 'two words that are one') FROM serm.explain('bath room', 'red bathroom') WHERE field = 'title';
SELECT is(doc_term, 'bath room', 'one word that is two') FROM serm.explain('bathroom', 'red bath room') WHERE field = 'title';
SELECT is(doc_term, 'carpet', 'a word behind those that are spelled')
  FROM serm.explain('carpet', E'lamp\n' || repeat('filler ', 100) || 'carpet') WHERE field = 'body';
SELECT is(count(*), 2::bigint, 'an empty field has no rows') FROM serm.explain('shoe', 'shoe');
SELECT results_eq($$SELECT query_term FROM serm.explain('', 'red shoe')$$, $$VALUES (NULL::text)$$, 'a query without words has its base');
SELECT results_eq($$SELECT contribution FROM serm.explain('red shoe', '')$$, $$SELECT serm.score('red shoe', '')$$, 'and so has an empty document');
SELECT is_empty($$SELECT * FROM serm.explain(NULL, 'red shoe')$$, 'no rows for a query of NULL');
SELECT is_empty($$SELECT * FROM serm.explain('red shoe', NULL::text)$$, 'nor for a document of NULL');

-- --- sums
CREATE TABLE pair AS
	SELECT q.doc_id AS query, d.doc FROM product q, product d WHERE hashtext(q.doc_id || d.doc_id) % 3 = 0
	UNION ALL SELECT 'pilow red', E'réd PILLOWS\n赤い靴 и белая лампа ' || n || repeat(' last', n) FROM generate_series(1, 60) AS n
	UNION ALL SELECT '赤い靴 лампа', E'\n赤い靴'
	UNION ALL SELECT repeat('word red shoe ', 40), repeat(E'red lamp 3.5\n', 300)
	UNION ALL SELECT '', '' UNION ALL SELECT 'red', E'\n' UNION ALL SELECT '...', 'shoe'
	UNION ALL SELECT string_agg(chr(1 + (hashtext(n || 'q' || i) & 65535) % 50000), ''), string_agg(chr(1 + (hashtext(n || 'd' || i) & 65535) % 50000), ' ')
		FROM generate_series(1, 100) AS n, generate_series(1, 30) AS i GROUP BY n;
CREATE FUNCTION worst() RETURNS real LANGUAGE sql AS $$
	SELECT max(abs(serm.score(query, doc, 'm') - (SELECT sum(contribution::float8) FROM serm.explain(query, doc, 'm'))))::real FROM pair $$;
SELECT cmp_ok(count(*), '>', 400::bigint, 'pairs to look at') FROM pair;
SELECT cmp_ok(worst(), '<', 1e-5::real, 'contributions sum to the score');
SELECT is_empty($$SELECT query, doc FROM pair WHERE EXISTS (SELECT * FROM serm.explain(query, doc) EXCEPT SELECT * FROM serm.explain(query, serm.encode(doc)))
	OR EXISTS (SELECT * FROM serm.explain(query, serm.encode(doc), 'm') EXCEPT SELECT * FROM serm.explain(query, doc, 'm'))$$,
	'an encoded document is explained like its text');
CALL serm.train('m', '{"epochs": 3, "guard": 2, "loss": "ranknet", "promote": true}');
SELECT cmp_ok(worst(), '<', 1e-5::real, 'those of a version with a steep guard too');

-- --- rights, parallel workers, prepared statements
CREATE ROLE explain_reader;
SELECT FROM serm.grant_access('explain_reader', 'score');
SET ROLE explain_reader;
SELECT cmp_ok(count(*), '=', 5::bigint, 'the level score may explain') FROM serm.explain('red shoe', E'red shoe\nA red shoe.');
RESET ROLE;
REVOKE SELECT ON serm.tensor FROM explain_reader;
SET ROLE explain_reader;
SELECT throws_ok($$SELECT * FROM serm.explain('red shoe', 'red shoe')$$, '42501', NULL, 'not without the weights');
RESET ROLE;
DROP OWNED BY explain_reader;
DROP ROLE explain_reader;
SELECT name AS parallel_mode FROM pg_catalog.pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET :parallel_mode = on;
SELECT cmp_ok(worst(), '<', 1e-5::real, 'in a worker');
RESET :parallel_mode;
PREPARE p(text) AS SELECT count(*) FROM serm.explain($1, E'red shoe\nA red shoe.');
SELECT results_eq($$EXECUTE p('red white shoe')$$, $$VALUES (7::bigint)$$, 'in a prepared statement');
SELECT throws_ok($$SELECT * FROM serm.explain('red', '\x00'::serm.doc)$$, '22P02', NULL, 'no document');

SELECT * FROM finish();
