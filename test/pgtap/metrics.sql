-- Metric aggregates: hand-worked values, a recomputation in SQL, ties, parallel plans, bad input.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

SELECT plan(90);

-- Numbers that look random and are the same everywhere.
CREATE FUNCTION noise(seed text, range int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
	$$ SELECT (('x' || substr(md5(seed), 1, 7))::bit(28)::int) % range $$;
CREATE FUNCTION near(value float8, expected float8) RETURNS bool LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
	$$ SELECT coalesce(abs(value - expected) <= 1e-12, value IS NULL AND expected IS NULL) $$;
CREATE FUNCTION plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	whole text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		whole := whole || line || E'\n';
	END LOOP;
	RETURN whole;
END $$;

-- What is declared.
SELECT is(count(*), 28::bigint, 'the aggregates are there') FROM pg_proc p
	JOIN pg_namespace n ON n.oid = pronamespace
	WHERE nspname = 'serm' AND prokind = 'a'
		AND proname IN ('dcg', 'ndcg', 'precision_at', 'recall_at', 'average_precision', 'reciprocal_rank',
			'err', 'pair_accuracy', 'accuracy', 'cohen_kappa', 'krippendorff_alpha');
SELECT is(count(*), 0::bigint, 'each is parallel safe, immutable and can combine, serialize and deserialize')
	FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid JOIN pg_namespace n ON n.oid = pronamespace
	WHERE nspname = 'serm'
		AND (proparallel <> 's' OR provolatile <> 'i' OR aggcombinefn = 0 OR aggserialfn = 0
			OR aggdeserialfn = 0);
SELECT is(count(*), 0::bigint, 'each has a comment')
	FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid JOIN pg_namespace n ON n.oid = pronamespace
	WHERE nspname = 'serm' AND obj_description(p.oid, 'pg_proc') IS NULL;

-- One list by hand: grades 3, 2, 3, 0, 1, 2 in rank order.
CREATE TABLE hand (grade int, score real);
INSERT INTO hand VALUES (3, 6), (2, 5), (3, 4), (0, 3), (1, 2), (2, 1);
CREATE TABLE worked AS SELECT
	3 + 2 / (ln(3) / ln(2)) + 3 / 2.0 + 1 / (ln(6) / ln(2)) + 2 / (ln(7) / ln(2)) AS dcg,
	3 + 3 / (ln(3) / ln(2)) + 2 / 2.0 + 2 / (ln(5) / ln(2)) + 1 / (ln(6) / ln(2)) AS ideal;
SELECT ok(near(serm.dcg(grade, score), 6.8611266885935012), 'dcg') FROM hand;
SELECT ok(near((SELECT serm.dcg(grade, score, 6) FROM hand), dcg), 'dcg at 6 as written out') FROM worked;
SELECT ok(near(serm.dcg(grade, score, 3, 'exponential'), 7 + 3 / (ln(3) / ln(2)) + 7 / 2.0),
	'exponential dcg at 3') FROM hand;
SELECT ok(near((SELECT serm.ndcg(grade, score) FROM hand), dcg / ideal), 'ndcg') FROM worked;
SELECT is(serm.ndcg(grade, score, 1), 1::float8, 'ndcg at 1 of the best first') FROM hand;
SELECT ok(near(serm.ndcg(grade, score, 3, 'exponential'),
	(7 + 3 / (ln(3) / ln(2)) + 7 / 2.0) / (7 + 7 / (ln(3) / ln(2)) + 3 / 2.0)),
	'exponential ndcg at 3') FROM hand;
SELECT is(serm.precision_at(grade, score, 4), 0.75::float8, 'precision at 4') FROM hand;
SELECT is(serm.precision_at(grade, score, 10), 0.5::float8, 'a short list is divided by k all the same')
	FROM hand;
SELECT is(serm.precision_at(grade, score, 4, 3), 0.5::float8, 'precision with a threshold') FROM hand;
SELECT is(serm.recall_at(grade, score, 2), 0.4::float8, 'recall at 2') FROM hand;
SELECT is(serm.recall_at(grade, score, 2, 2), 0.5::float8, 'recall with a threshold') FROM hand;
SELECT ok(near(serm.average_precision(grade, score), (1 + 1 + 1 + 4 / 5.0 + 5 / 6.0) / 5),
	'average precision') FROM hand;
SELECT ok(near(serm.average_precision(grade, score, 2), (1 + 1 + 1 + 4 / 6.0) / 4), 'with a threshold')
	FROM hand;
SELECT is(serm.reciprocal_rank(grade, score), 1::float8, 'reciprocal rank') FROM hand;
SELECT is(serm.reciprocal_rank(grade, -score, 3), 0.25::float8, 'of the reverse, from grade 3') FROM hand;
SELECT ok(near(serm.err(grade, score, 2, 4), 7 / 16.0 + 9 / 16.0 * 3 / 16.0 / 2), 'err by hand') FROM hand;
SELECT ok(near(serm.pair_accuracy(grade, score), 9 / 13.0), 'pair accuracy by hand') FROM hand;

-- Ties without ids count by their expectation.
SELECT ok(near(serm.dcg(g, 0.5), 1.5 * (1 + 1 / (ln(3) / ln(2)))), 'dcg of a tie')
	FROM (VALUES (3), (0)) v(g);
SELECT is(serm.precision_at(g, 0.5, 1), 0.5::float8, 'precision of a tie') FROM (VALUES (3), (0)) v(g);
SELECT is(serm.recall_at(g, 0.5, 1), 0.5::float8, 'recall of a tie') FROM (VALUES (3), (0)) v(g);
SELECT is(serm.reciprocal_rank(g, 0.5), 0.75::float8, 'reciprocal rank of a tie') FROM (VALUES (3), (0)) v(g);
SELECT ok(near(serm.average_precision(g, 0.5), (1 + (1 + 2 / 3.0) / 2 + (1 / 2.0 + 2 / 3.0) / 2) / 3),
	'average precision of a tie')
	FROM (VALUES (1), (1), (0)) v(g);
SELECT ok(near(serm.err(g, 0.5, 2, 1), (0.5 + 0.25) / 2), 'err of a tie') FROM (VALUES (1), (0)) v(g);
SELECT is(serm.pair_accuracy(g, 0.5), 0.5::float8, 'pair accuracy of a tie') FROM (VALUES (3), (0)) v(g);
SELECT is(serm.ndcg(g, 0.5, 1, 'linear', d), 0::float8, 'with ids the higher id is first')
	FROM (VALUES (3, 'a'), (0, 'b')) v(g, d);
SELECT is(serm.ndcg(g, 0.5, 1, 'linear', d), 1::float8, 'as bytes, not by a collation')
	FROM (VALUES (3, 'a'), (0, 'B')) v(g, d);
SELECT is(serm.ndcg(g, 0.5, 1, NULL, d), 1::float8, 'a NULL id is after any')
	FROM (VALUES (3, 'a'), (0, NULL)) v(g, d);
SELECT is(serm.ndcg(g, 0.5, 1, 'linear', 'same'), 0.5::float8, 'equal ids are a tie again')
	FROM (VALUES (3), (0)) v(g);

-- The list whose values trec_eval 10.0 prints (d9 and d10 are not judged).
CREATE TABLE trec (d text, s float8, g int);
INSERT INTO trec VALUES ('d2', 2.5, 0), ('d1', 2.5, 3), ('d9', 2.5, NULL), ('d4', 2.0, 1), ('d10', 1.5, NULL),
	('d3', 1.5, 2),
	('d5', 1.5, 0), ('d8', 1.0, -1), ('d6', 0.5, 3), ('d7', 0.25, 2);
SELECT is(round(serm.ndcg(g, s, 4, 'linear', d)::numeric, 9), 0.285850734, 'trec_eval ndcg_cut_4') FROM trec;
SELECT is(round(serm.ndcg(g, s, NULL, 'linear', d)::numeric, 9), 0.577554034, 'trec_eval ndcg') FROM trec;
SELECT is(round(serm.average_precision(g, s, 1, d)::numeric, 9), 0.455555556, 'trec_eval map') FROM trec;
SELECT is(round(serm.average_precision(g, s, 2, d)::numeric, 9), 0.350000000, 'trec_eval map at level 2')
	FROM trec;
SELECT is(round(serm.reciprocal_rank(g, s, 1, d)::numeric, 9), 0.333333333, 'trec_eval recip_rank') FROM trec;
SELECT is(round(serm.precision_at(g, s, 20, 1, d)::numeric, 9), 0.250000000, 'trec_eval P_20') FROM trec;
SELECT is(round(serm.recall_at(g, s, 3, 1, d)::numeric, 9), 0.200000000, 'trec_eval recall_3') FROM trec;

-- The same again from the definitions, with window functions: 200 queries of 20 documents with many ties.
CREATE TABLE list AS SELECT q, 'd' || d AS doc, nullif(noise('g' || q || '/' || d, 5), 4) AS grade,
	noise('s' || q || '/' || d, 12) / 7.0::float8 AS score
	FROM generate_series(1, 200) q, generate_series(1, 20) d;
UPDATE list SET grade = least(grade, 0) WHERE q % 50 = 0;
CREATE VIEW placed AS SELECT *, coalesce(grade, 0) AS gain, coalesce(grade, 0) >= 1 AS good,
	row_number() OVER (PARTITION BY q ORDER BY score DESC, doc COLLATE "C" DESC) AS place,
	row_number() OVER (PARTITION BY q ORDER BY coalesce(grade, 0) DESC) AS best FROM list;
CREATE VIEW counted AS SELECT *, count(*) FILTER (WHERE good) OVER (PARTITION BY q ORDER BY place) AS seen
	FROM placed;
CREATE VIEW user_model AS SELECT *,
	coalesce(exp(sum(ln(1 - (2 ^ gain - 1) / 8)) OVER (PARTITION BY q ORDER BY place
	ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)), 1) AS reached FROM counted;
CREATE TABLE twin AS SELECT q,
	sum(gain / (ln(place + 1) / ln(2))) FILTER (WHERE place <= 10) AS dcg,
	sum((2 ^ gain - 1) / (ln(place + 1) / ln(2))) FILTER (WHERE place <= 10)
		/ nullif(sum((2 ^ gain - 1) / (ln(best + 1) / ln(2))) FILTER (WHERE best <= 10), 0) AS ndcg,
	count(*) FILTER (WHERE good AND place <= 5) / 5.0 AS precision_5,
	count(*) FILTER (WHERE good AND place <= 5)::float8 / nullif(count(*) FILTER (WHERE good), 0) AS recall_5,
	sum(seen::float8 / place) FILTER (WHERE good) / nullif(count(*) FILTER (WHERE good), 0) AS ap,
	1.0::float8 / min(place) FILTER (WHERE good) AS rr,
	sum(reached * (2 ^ gain - 1) / 8 / place) FILTER (WHERE place <= 10) AS err FROM user_model GROUP BY q;
CREATE TABLE own AS SELECT q, serm.dcg(grade, score, 10, 'linear', doc) AS dcg, serm.ndcg(grade, score, 10,
	'exponential', doc) AS ndcg,
	serm.precision_at(grade, score, 5, 1, doc) AS precision_5, serm.recall_at(grade, score, 5, 1,
		doc) AS recall_5,
	serm.average_precision(grade, score, 1, doc) AS ap, serm.reciprocal_rank(grade, score, 1, doc) AS rr,
	serm.err(grade, score, 10, 3, doc) AS err FROM list GROUP BY q;
SELECT is(count(*), 200::bigint, 'dcg of 200 queries') FROM own JOIN twin USING (q)
	WHERE near(own.dcg, twin.dcg);
SELECT is(count(*), 200::bigint, 'ndcg') FROM own JOIN twin USING (q) WHERE near(own.ndcg, twin.ndcg);
SELECT is(count(*), 200::bigint, 'precision') FROM own JOIN twin USING (q)
	WHERE near(own.precision_5, twin.precision_5);
SELECT is(count(*), 200::bigint, 'recall') FROM own JOIN twin USING (q)
	WHERE near(own.recall_5, twin.recall_5);
SELECT is(count(*), 200::bigint, 'average precision') FROM own JOIN twin USING (q)
	WHERE near(own.ap, twin.ap);
SELECT is(count(*), 200::bigint, 'reciprocal rank') FROM own JOIN twin USING (q) WHERE near(own.rr, twin.rr);
SELECT is(count(*), 200::bigint, 'err') FROM own JOIN twin USING (q) WHERE near(own.err, twin.err);
SELECT is(count(*), 4::bigint, 'four of them have no positive grade: NULL') FROM own WHERE ndcg IS NULL
	AND ap IS NULL AND rr IS NULL AND recall_5 IS NULL AND dcg = 0;
SELECT is(count(*), 0::bigint, 'pair accuracy against all pairs') FROM (SELECT q, serm.pair_accuracy(grade,
	score) AS value FROM list GROUP BY q) own
	JOIN (SELECT a.q,
		avg(CASE WHEN a.score > b.score THEN 1 WHEN a.score = b.score THEN 0.5 ELSE 0 END)
			FILTER (WHERE a.grade > b.grade) AS value
		FROM list a JOIN list b USING (q) GROUP BY a.q) twin USING (q) WHERE NOT near(own.value, twin.value);
SELECT ok(max(value) <= 1 AND min(value) >= 0, 'ndcg stays within 0 and 1')
	FROM (SELECT serm.ndcg(grade, score, k, gain) AS value
	FROM list, (VALUES (1, 'linear'), (3, 'exponential'), (NULL, 'linear')) v(k, gain) GROUP BY q, k, gain) x;
SELECT is((SELECT serm.ndcg(grade, score, 7 ORDER BY doc) FROM list
	WHERE q = 7), (SELECT serm.ndcg(grade, score, 7 ORDER BY grade, doc DESC) FROM list WHERE q = 7),
	'the order of the rows does not change a bit');
SELECT is(count(DISTINCT value), 20::bigint, 'as a window aggregate it can be asked again and again') FROM
	(SELECT serm.dcg(1, -d) OVER (ORDER BY d) AS value FROM generate_series(1, 20) d) x;

-- Unjudged, unscored, nothing.
SELECT is(serm.ndcg(g, s, 1), 0::float8, 'an unjudged document takes a rank')
	FROM (VALUES (NULL, 2), (3, 1)) v(g, s);
SELECT is(serm.pair_accuracy(g, s), 1::float8, 'but no pair') FROM (VALUES (NULL, 2), (3, 1), (0, 0)) v(g, s);
SELECT is(serm.reciprocal_rank(g, s), 0.5::float8, 'a document without a score is last')
	FROM (VALUES (3, NULL), (0, '-infinity'::float8)) v(g, s);
SELECT is(serm.ndcg(g, s), NULL, 'a row of NULLs counts as no row') FROM (VALUES (NULL::int, NULL::real)) v(g,
	s);
SELECT is(serm.precision_at(g, s, 1), NULL, 'in any metric') FROM (VALUES (NULL::int, NULL::real)) v(g, s);
SELECT ok(serm.dcg(grade, score) IS NULL AND serm.ndcg(grade, score) IS NULL
	AND serm.precision_at(grade, score, 1) IS NULL AND serm.recall_at(grade, score, 1) IS NULL
	AND serm.average_precision(grade, score) IS NULL AND serm.reciprocal_rank(grade, score) IS NULL
		AND serm.err(grade, score, 1, 3) IS NULL
	AND serm.pair_accuracy(grade, score) IS NULL AND serm.accuracy(grade, grade) IS NULL
		AND serm.cohen_kappa(grade, grade) IS NULL
	AND serm.krippendorff_alpha('u', 'r', grade) IS NULL, 'no rows: NULL everywhere') FROM hand WHERE false;

-- Refusals.
SELECT throws_ok($$SELECT serm.ndcg(1, 'NaN'::float8)$$, '22023', 'score is NaN', 'a NaN score');
SELECT throws_ok($$SELECT serm.ndcg('NaN'::float8, 1)$$, '22023', 'grade is NaN', 'a NaN grade');
SELECT throws_ok($$SELECT serm.ndcg('infinity'::float8, 1)$$, '22023', NULL, 'an infinite grade');
SELECT throws_ok($$SELECT serm.ndcg(501, 1)$$, '22023', NULL, 'a huge grade');
SELECT throws_ok($$SELECT serm.ndcg(1, 1, -1)$$, '22023', 'k must be at least 1, not -1', 'a negative k');
SELECT throws_ok($$SELECT serm.precision_at(1, 1, 0)$$, '22023', 'k must be at least 1, not 0', 'k = 0');
SELECT throws_ok($$SELECT serm.ndcg(1, 1, 5, 'cubic')$$, '22023', 'unknown gain "cubic"', 'an unknown gain');
SELECT throws_ok($$SELECT serm.recall_at(1, 1, 5, 'NaN')$$, '22023', 'threshold is NaN', 'a NaN threshold');
SELECT throws_ok($$SELECT serm.err(1, 1, 5, NULL)$$, '22023', NULL, 'err without a scale');
SELECT throws_ok($$SELECT serm.err(4, 1, 5, 3)$$, '22023', 'grade 4 is above max_grade 3',
	'a grade above the scale');
SELECT throws_ok($$SELECT serm.ndcg(1, 1, d) FROM generate_series(1, 2) d$$, '22023', NULL,
	'a cutoff that varies');
SELECT throws_ok($$SELECT serm.cohen_kappa(1, 1, 'cubic')$$, '22023', 'unknown weights "cubic"',
	'unknown weights');
SELECT throws_ok($$SELECT serm.cohen_kappa(d, 1) FROM generate_series(1, 300) d$$, '54000', NULL,
	'labels that are no classes');
SELECT throws_ok($$SELECT serm.krippendorff_alpha('u', d::text, 1, 'ratio')
	FROM generate_series(1, 2) d$$, '22023', 'unknown metric "ratio"', 'an unknown metric');
SELECT throws_ok($$SELECT serm.krippendorff_alpha('u', 'r', d) FROM generate_series(1, 2) d$$, '22023',
	'rater "r" rated unit "u" more than once', 'a rater who rates twice');

-- Labels. The textbook table of 50 proposals; Krippendorff's example of 2011.
CREATE TABLE proposals AS SELECT a, b FROM (VALUES (1, 1, 20), (1, 0, 5), (0, 1, 10), (0, 0, 15)) v(a, b, n),
	generate_series(1, n);
SELECT ok(near(serm.cohen_kappa(a, b), 0.4), 'kappa .4') FROM proposals;
SELECT is(serm.accuracy(a, b), 0.7::float8, 'accuracy .7') FROM proposals;
SELECT is(serm.accuracy(a, b), 0.5::float8, 'a NULL label is skipped')
	FROM (VALUES (1, 1), (1, 2), (NULL, 1), (1, NULL)) v(a, b);
SELECT is(serm.cohen_kappa(3, 3), NULL, 'one common label: kappa is undefined') FROM generate_series(1, 5);
CREATE TABLE two_raters AS SELECT noise('a' || i, 4) AS a, (noise('a' || i, 4) * 2 + noise('b' || i,
	4)) / 3 AS b FROM generate_series(1, 500) i;
CREATE FUNCTION twin_kappa(power int) RETURNS float8 LANGUAGE sql AS $$
	SELECT 1 - (SELECT avg(CASE power WHEN 0 THEN (a <> b)::int ELSE abs(a - b) ^ power END) FROM two_raters)
		/ (SELECT avg(CASE power WHEN 0 THEN (x.a <> y.b)::int ELSE abs(x.a - y.b) ^ power END)
			FROM two_raters x, two_raters y) $$;
SELECT ok(near(serm.cohen_kappa(a, b, 'none'), twin_kappa(0)) AND serm.cohen_kappa(a, b) = serm.cohen_kappa(a,
	b, 'none'), 'kappa from its definition') FROM two_raters;
SELECT ok(near(serm.cohen_kappa(a, b, 'linear'), twin_kappa(1)), 'linear') FROM two_raters;
SELECT ok(near(serm.cohen_kappa(a, b, 'quadratic'), twin_kappa(2)), 'quadratic') FROM two_raters;
CREATE TABLE observers AS SELECT unit::text, rater::text, value FROM
	unnest('{{1,2,3,3,2,1,4,1,2,0,0,0},{1,2,3,3,2,2,4,1,2,5,0,3},
		{0,3,3,3,2,3,4,2,2,5,1,0},{1,2,3,3,2,4,4,1,2,5,1,0}}'::int[]) WITH ORDINALITY x(value, n),
	LATERAL (SELECT (n - 1) % 12 AS unit, (n - 1) / 12 AS rater) y WHERE value > 0;
SELECT is(round(serm.krippendorff_alpha(unit, rater, value, 'nominal')::numeric, 3), 0.743, 'alpha, nominal')
	FROM observers;
SELECT is(round(serm.krippendorff_alpha(unit, rater, value)::numeric, 3), 0.815, 'ordinal is the default')
	FROM observers;
SELECT is(round(serm.krippendorff_alpha(unit, rater, value, 'interval')::numeric, 3), 0.849, 'interval')
	FROM observers;
SELECT is(serm.krippendorff_alpha(unit, rater, v, 'nominal'), serm.krippendorff_alpha(unit, rater, value,
	'nominal'), 'a NULL value is a hole')
	FROM (SELECT unit, rater, value AS v, value FROM observers UNION ALL SELECT '10', '9', NULL, NULL) x;

-- Parallel plans give the same bits.
CREATE TABLE wide AS SELECT i % 3 AS part, 'd' || i AS doc, nullif(noise('g' || i, 5), 4) AS grade,
	noise('s' || i, 900)::float8 / 7 AS score,
	noise('a' || i, 4) AS a, noise('b' || i, 4) AS b FROM generate_series(1, 30000) i;
ANALYZE wide;
CREATE VIEW measured AS SELECT part, serm.dcg(grade, score, 100) AS m1, serm.ndcg(grade, score, NULL,
	'exponential') AS m2,
	serm.ndcg(grade, score, 50, 'linear', doc) AS m3, serm.precision_at(grade, score, 77) AS m4,
		serm.recall_at(grade, score, 5000, 2) AS m5,
	serm.average_precision(grade, score) AS m6, serm.average_precision(grade, score, 2, doc) AS m7,
		serm.reciprocal_rank(grade, score, 3) AS m8,
	serm.err(grade, score, 30, 3) AS m9, serm.pair_accuracy(grade, score) AS m10, serm.accuracy(a, b) AS m11,
	serm.cohen_kappa(a, b, 'quadratic') AS m12, serm.krippendorff_alpha(left(doc, 4), doc, a) AS m13
		FROM wide GROUP BY part;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE serial AS TABLE measured;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET parallel_leader_participation = off;
SET min_parallel_table_scan_size = 0;
SELECT matches(plan_of('TABLE measured'), 'Gather.*Partial', 'the plan is parallel');
CREATE TABLE parallel AS TABLE measured;
SELECT is(count(*), 3::bigint, 'three groups') FROM parallel WHERE num_nonnulls(m1, m2, m3, m4, m5, m6, m7,
	m8, m9, m10, m11, m12, m13) = 13;
SELECT set_eq('TABLE parallel', 'TABLE serial', 'parallel equals serial, to the last bit');
SELECT is((SELECT serm.ndcg(grade, score, 10) FROM wide
	WHERE part = 9), NULL, 'workers without rows are no trouble');
CREATE TABLE pieces (LIKE wide) PARTITION BY HASH (part);
CREATE TABLE pieces_0 PARTITION OF pieces FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE pieces_1 PARTITION OF pieces FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO pieces SELECT * FROM wide;
ANALYZE pieces;
SET enable_partitionwise_aggregate = on;
SELECT is((SELECT serm.ndcg(grade, score, 100) FROM pieces), (SELECT serm.ndcg(grade, score, 100)
	FROM wide), 'partition by partition too');
SELECT throws_ok($$SELECT serm.ndcg(grade, score, a + 1)
	FROM wide$$, '22023', NULL, 'errors come through from workers');

-- Everybody may measure, nobody may call the parts.
CREATE ROLE measuring_stranger;
SET ROLE measuring_stranger;
SELECT lives_ok($$SELECT serm.ndcg(1, 1), serm.cohen_kappa(1, 1), serm.krippendorff_alpha('u', 'r', 1)$$,
	'a role without rights may measure');
RESET ROLE;
SELECT ok(NOT has_function_privilege('measuring_stranger', 'serm._rank_combine(internal, internal)',
	'EXECUTE'), 'the parts are internal');
DROP ROLE measuring_stranger;

SELECT * FROM finish();
