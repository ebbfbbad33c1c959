-- Scoring: everything of sql/api/20-score.sql.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

SELECT plan(79);

-- --- signatures
SELECT is(p.provolatile::text || p.proparallel::text || p.proisstrict::text, expected, f)
FROM (VALUES
	('serm.score(text,text)', 'sstrue'),
	('serm.score(text,text,text)', 'sstrue'),
	('serm.score_version(text,text,text,integer)', 'istrue'),
	('serm.predict(text,text)', 'sstrue'),
	('serm.predict(text,text,text)', 'sstrue'),
	('serm.rank(text,text[])', 'sstrue'),
	('serm.rank(text,text[],text)', 'sstrue'),
	('serm.rank(text,text[],integer)', 'sstrue'),
	('serm.rank(text,text[],text,integer)', 'sstrue')) AS t (f, expected)
	JOIN pg_proc AS p ON p.oid = f::regprocedure;

-- --- before there is anything to score with
SELECT throws_ok($$SELECT serm.score('q', 'd')$$, '55000', 'there is no model');
SELECT throws_ok($$SELECT serm.score('q', 'd', 'none')$$, '42704', 'model "none" does not exist');
\o /dev/null
SELECT serm.create_model('shop');
\o
SELECT throws_ok($$SELECT serm.score('q', 'd')$$, '55000', 'model "shop" has no active version');
SELECT throws_ok($$SELECT serm.score('q', 'd', 'shop')$$, '55000', 'model "shop" has no active version');
SELECT throws_ok($$SELECT serm.score('q', 'd', '')$$, '42704', 'model "" does not exist');
SELECT throws_ok($$SELECT serm.predict('q', 'd')$$, '55000');
SELECT throws_ok($$SELECT * FROM serm.rank('q', '{d}')$$, '55000');
SELECT throws_ok($$SELECT serm.score_version('q', 'd', 'shop', 1)$$, '42704', 'model "shop" has no version 1');
SELECT throws_ok($$SELECT serm.score_version('q', 'd', 'shop', 0)$$, '42704');
SELECT throws_ok($$SELECT serm.score_version('q', 'd', 'none', 1)$$, '42704', 'model "none" does not exist');

/* What ereport's hint says. */
CREATE FUNCTION hint_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
	EXECUTE sql;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN hint;
END $$;
SELECT is(hint_of($$SELECT serm.score('q', 'd', 'none')$$), 'The models there are: shop.', 'the hint lists the models');
SELECT is(hint_of($$SELECT serm.score('q', 'd')$$), 'Make one with CALL serm.pretrain(''shop''), or with CALL serm.train once there are judgments.', 'the hint says how to train');

-- --- a trained model
CREATE VIEW goods AS
SELECT c || ' ' || p AS query, d || ' ' || e || E'\nA ' || d || ' ' || e || ' for your home' AS doc, (c = d)::int + 2 * (p = e)::int AS grade
FROM unnest('{blue,red,green,black}'::text[]) AS c, unnest('{pillow,lamp,chair,desk,rug}'::text[]) AS p,
	unnest('{blue,red,green,black}'::text[]) AS d, unnest('{pillow,lamp,chair,desk,rug}'::text[]) AS e;
INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'shop', query, doc, grade FROM goods;
CALL serm.train('shop', '{"seed": 1, "epochs": 4, "pretrain_epochs": 1}');
CALL serm.train('shop', '{"seed": 2, "epochs": 4, "pretrain_epochs": 1}');

SELECT ok(avg(serm.score(query, doc)) FILTER (WHERE grade = 3) > avg(serm.score(query, doc)) FILTER (WHERE grade = 0) + 1,
	'what matches scores higher by more than a grade') FROM goods;
SELECT ok(bool_and(serm.score(query, doc) BETWEEN 0 AND 3), 'scores lie between the first and the last grade') FROM goods;
SELECT is(count(*), 0::bigint, 'all ways to score give the same bits')
FROM (SELECT serm.score(query, doc) AS score, serm.score(query, doc, 'shop') AS named, serm.score_version(query, doc, 'shop', 1) AS version,
	(serm.predict(query, doc)).score AS predicted, (serm.predict(query, doc, 'shop')).score AS predicted_named FROM goods) AS s
WHERE NOT (float4send(score) = float4send(named) AND float4send(score) = float4send(version)
	AND float4send(score) = float4send(predicted) AND float4send(score) = float4send(predicted_named));
SELECT is(count(*), 0::bigint, 'the order of rows does not matter')
FROM (SELECT query, doc, serm.score(query, doc) AS score FROM (SELECT * FROM goods ORDER BY md5(query || doc)) AS shuffled) AS a
	JOIN (SELECT query, doc, serm.score(query, doc) AS score FROM (SELECT * FROM goods ORDER BY query, doc) AS sorted) AS b USING (query, doc)
WHERE float4send(a.score) <> float4send(b.score);

-- --- predictions
SELECT is(count(*), 0::bigint, 'a prediction is a distribution and what follows from it')
FROM (SELECT (serm.predict(query, doc)).* FROM goods) AS p
WHERE NOT (cardinality(probs) = 4 AND abs((SELECT sum(x) FROM unnest(probs) AS x) - 1) < 1e-4
	AND abs(score - (SELECT sum((i - 1) * x) FROM unnest(probs) WITH ORDINALITY AS u (x, i))) < 1e-3
	AND abs(entropy + (SELECT sum(x * ln(x)) FROM unnest(probs) AS x WHERE x > 0)) < 1e-3
	AND grade = ANY ('{bad,fair,good,excellent}') AND disagreement BETWEEN 0 AND 3 AND version = 1);

-- --- NULL, empty, long, broken
SELECT is(serm.score(NULL, 'd'), NULL, 'no query');
SELECT is(serm.score('q', NULL), NULL, 'no document');
SELECT is(serm.score('q', 'd', NULL), NULL, 'no model');
SELECT is(serm.score_version('q', 'd', 'shop', NULL), NULL, 'no version');
SELECT ok(serm.predict(NULL, 'd') IS NULL, 'nothing to predict');
SELECT is_empty($$SELECT * FROM serm.rank('q', NULL)$$, 'nothing to rank');
SELECT ok(serm.score(q, d) BETWEEN 0 AND 3, 'finite for ' || to_json(q) || ' and ' || to_json(d))
FROM (VALUES ('', ''), ('', 'd'), ('q', ''), ('q', E'\n'), (' ', E' \n '), ('!?', '...')) AS t (q, d);
SELECT ok(serm.score(repeat('blue pillow ', 90000), repeat('blue pillow ', 90000)) BETWEEN 0 AND 3, 'finite for a megabyte');
SELECT ok(serm.score(repeat('x', 1100000), repeat('x', 1100000)) BETWEEN 0 AND 3, 'finite for a word of a megabyte');
SELECT is(serm.score('blue pillow', 'blue pillow' || repeat(' ', 70000) || 'red desk'), serm.score('blue pillow', 'blue pillow'),
	'what lies behind the first 64 kB of a document does not count');
CREATE TABLE long (id integer, doc text);
ALTER TABLE long ALTER COLUMN doc SET STORAGE EXTERNAL;
INSERT INTO long SELECT 1, 'blue pillow ' || string_agg('filler number ' || i, E'\n' ORDER BY i) FROM generate_series(1, 80000) AS i;
INSERT INTO long SELECT 2, doc FROM long;
CREATE TABLE packed AS SELECT * FROM long;
SELECT ok(pg_column_size(doc) > 1000000, 'one document lies out of line') FROM long WHERE id = 1;
SELECT is(count(DISTINCT score), 1::bigint, 'toasted, compressed and plain documents score the same')
FROM (SELECT float4send(serm.score('blue pillow', doc)) AS score FROM long
	UNION ALL SELECT float4send(serm.score('blue pillow', doc)) FROM packed
	UNION ALL SELECT float4send(serm.score('blue pillow', doc || '')) FROM long
	UNION ALL SELECT float4send(serm.score('blue pillow', left(doc, 65536))) FROM long) AS s;

-- --- ranking
SELECT results_eq($$SELECT ordinal, score FROM serm.rank('blue pillow', ARRAY['red desk', 'blue pillow', NULL, 'green pillow', 'blue pillow'])$$,
	$$SELECT i::int, serm.score('blue pillow', d) FROM unnest(ARRAY['red desk', 'blue pillow', NULL, 'green pillow', 'blue pillow'])
		WITH ORDINALITY AS u (d, i) WHERE d IS NOT NULL ORDER BY 2 DESC, 1$$, 'best first, ties in order, NULL passed over');
SELECT results_eq($$SELECT ordinal FROM serm.rank('blue pillow', ARRAY['red desk', 'blue pillow', NULL, 'blue pillow'], 2)$$,
	ARRAY[2, 4], 'the top two');
SELECT results_eq($$SELECT ordinal FROM serm.rank('blue pillow', ARRAY['red desk', 'blue pillow'], 'shop', 1)$$, ARRAY[2], 'the best by a named model');
SELECT results_eq($$SELECT ordinal FROM serm.rank('blue pillow', ARRAY['red desk', 'blue pillow'], 'shop')$$, ARRAY[2, 1], 'all by a named model');
SELECT results_eq($$SELECT count(*) FROM serm.rank('blue pillow', ARRAY['red desk', 'blue pillow'], 99)$$, ARRAY[2::bigint], 'more asked for than there is');
SELECT results_eq($$SELECT ordinal FROM serm.rank('blue pillow', ARRAY[['red desk', 'blue pillow'], ['green rug', 'blue pillow']], 2)$$,
	ARRAY[2, 4], 'two dimensions are counted through');
SELECT is_empty($$SELECT * FROM serm.rank('q', '{}')$$, 'an empty array');
SELECT is_empty($$SELECT * FROM serm.rank('q', ARRAY[NULL, NULL]::text[])$$, 'nothing but NULL');
SELECT throws_ok(format('SELECT * FROM serm.rank(''q'', ''{d}'', %s)', k), '22023', NULL, 'refuses top_k ' || k) FROM unnest(ARRAY[0, -1]) AS k;

-- --- which model, which version
SELECT is(bool_and(serm.score_version(query, doc, 'shop', version) = CASE version WHEN 1 THEN one ELSE two END), true, 'versions side by side')
FROM (SELECT *, serm.score_version(query, doc, 'shop', 1) AS one, serm.score_version(query, doc, 'shop', 2) AS two FROM goods LIMIT 9 OFFSET 0) AS g,
	generate_series(1, 2) AS version;
SELECT throws_ok($$SELECT serm.score_version('q', 'd', 'shop', v) FROM generate_series(1, 3) AS v$$, '42704', 'model "shop" has no version 3');
SELECT isnt(serm.score_version('blue pillow', 'blue pillow', 'shop', 1), serm.score_version('blue pillow', 'blue pillow', 'shop', 2),
	'versions differ');
SELECT is(serm.promote('shop', 2), 2, 'promote another version');
SELECT is(serm.score('blue pillow', 'blue pillow'), serm.score_version('blue pillow', 'blue pillow', 'shop', 2), 'promotion counts at once');
SELECT is((serm.predict('q', 'd')).version, 2, 'a prediction names its version');
BEGIN;
SELECT is(serm.rollback('shop'), 1, 'roll back in a transaction');
SELECT is((serm.predict('q', 'd')).version, 1, 'a transaction sees its own rollback');
ROLLBACK;
SELECT is((serm.predict('q', 'd')).version, 2, 'which is gone with it');
/* The versions that an open cursor scores with while its own transaction runs `sql`; it fetches 10 rows, then 50 at a time. */
CREATE FUNCTION versions_seen(sql text) RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
	row record;
	seen integer[] := '{}';
BEGIN
	FOR row IN SELECT (serm.predict('q', 'd' || i, 'shop')).version FROM generate_series(1, 100) AS i LOOP
		IF seen = '{}' THEN
			EXECUTE sql;
		END IF;
		IF row.version <> ALL (seen) THEN
			seen := seen || row.version;
		END IF;
	END LOOP;
	RETURN seen;
END $$;
BEGIN;
SELECT is(versions_seen($$SELECT serm.rollback('shop')$$), '{2}', 'a cursor goes on with its version when another is promoted');
SELECT is((serm.predict('q', 'd')).version, 1, 'which the next statement uses');
SELECT is(versions_seen($$SELECT serm.drop_model('shop')$$), '{1}', 'and when the model is dropped');
SELECT throws_ok($$SELECT serm.score('q', 'd', 'shop')$$, '42704', NULL, 'which the next statement finds gone');
ROLLBACK;
\o /dev/null
SELECT serm.create_model('other');
\o
SELECT throws_ok($$SELECT serm.score('q', 'd')$$, '55000', 'there are several models and none was named');
SET serm.model = 'shop';
SELECT ok(serm.score('q', 'd') IS NOT NULL, 'the setting names the model');
SET serm.model = 'other';
SELECT throws_ok($$SELECT serm.score('q', 'd')$$, '55000', 'model "other" has no active version');
RESET serm.model;

/* The name of a dropped model given to another one: nothing old is left in this session. */
CREATE TABLE before AS SELECT serm.score('blue pillow', 'blue pillow', 'shop') AS score;
\o /dev/null
SELECT serm.drop_model('shop');
\o
SELECT throws_ok($$SELECT serm.score('blue pillow', 'blue pillow', 'shop')$$, '42704');
\o /dev/null
SELECT serm.create_model('shop', grades => '{no,yes}');
\o
SELECT throws_ok($$SELECT serm.score('blue pillow', 'blue pillow', 'shop')$$, '55000');
INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'shop', query, doc, grade / 3 FROM goods;
CALL serm.train('shop', '{"seed": 1, "epochs": 2, "pretrain_epochs": 1}');
SELECT ok(serm.score('blue pillow', 'blue pillow', 'shop') BETWEEN 0 AND 1 AND serm.score('blue pillow', 'blue pillow', 'shop') <> score,
	'the new model scores') FROM before;
SELECT is(cardinality((serm.predict('q', 'd', 'shop')).probs), 2, 'with its own grades');

-- --- where functions are evaluated
CREATE TABLE indexed AS SELECT doc FROM goods;
SELECT lives_ok($$CREATE INDEX ON indexed (serm.score_version('blue pillow', doc, 'shop', 1))$$, 'an index by a version');
SELECT throws_ok($$CREATE INDEX ON indexed (serm.score('blue pillow', doc))$$, '42P17');
SELECT lives_ok($$DO 'DECLARE x real; BEGIN FOR i IN 1..100 LOOP x := serm.score(''blue pillow'' || i, ''red desk'', ''shop''); END LOOP; END'$$,
	'a loop in PL/pgSQL');
BEGIN READ ONLY;
SELECT ok(serm.score('q', 'd', 'shop') IS NOT NULL, 'a read-only transaction');
COMMIT;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT name AS parallel_mode FROM pg_catalog.pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET :parallel_mode = on;
CREATE TABLE goods_table AS SELECT * FROM goods, generate_series(1, 5);
ALTER TABLE goods_table SET (parallel_workers = 2);
CREATE FUNCTION plan_of(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || sql; END$$;
SELECT matches((SELECT string_agg(line, ' ') FROM plan_of($$SELECT sum(serm.score(query, doc, 'shop')) FROM goods_table$$) AS line),
	'Gather.*Partial Aggregate', 'scores are computed by parallel workers');
CREATE TABLE parallel AS SELECT md5(string_agg(s, ',' ORDER BY s)) AS sum
FROM (SELECT query || doc || float4send(serm.score(query, doc, 'shop')) AS s FROM goods_table) AS s;
SET max_parallel_workers_per_gather = 0;
SET :parallel_mode = off;
SELECT is(md5(string_agg(s, ',' ORDER BY s)), (SELECT sum FROM parallel), 'and are the same bits')
FROM (SELECT query || doc || float4send(serm.score(query, doc, 'shop')) AS s FROM goods_table) AS s;

SELECT * FROM finish();
