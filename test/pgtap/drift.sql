-- Drift: the aggregates against formulas and under parallel plans; serm.drift on streams that shifted and on shuffled ones.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(37);

-- --- the aggregates
CREATE TABLE stream AS
	SELECT i, i % 3 = 0 AS recent, (i / 4)::text AS unit, (hashint4(i) & 1023) / 1024.0::float8 AS value, 'item ' || (hashint4(i + 7) & 63) AS item,
		((hashint4(i + 99) & 3) = 0)::int::float8 AS outcome
	  FROM generate_series(1, 60000) AS i;
CREATE TABLE small AS SELECT i, i > 20 AS recent, i::text AS unit, (i % 7 + CASE WHEN i > 20 THEN 3 ELSE 0 END)::float8 AS value,
	'w' || (i % 5 + CASE WHEN i > 20 THEN 2 ELSE 0 END) AS item FROM generate_series(1, 40) AS i;
SELECT cmp_ok(abs((serm.ks_shift(value, recent, unit)).statistic - (SELECT max(abs(a - b)) FROM small AS s, LATERAL (SELECT
	avg((value <= s.value)::int) FILTER (WHERE recent) AS a, avg((value <= s.value)::int) FILTER (WHERE NOT recent) AS b FROM small) AS c)), '<', 1e-12::float8,
	'ks is the largest distance of the distribution functions') FROM small;
SELECT cmp_ok(abs((serm.novelty_shift(item, recent, unit)).statistic - (SELECT avg((item NOT IN (SELECT item FROM small WHERE NOT recent))::int) FROM small WHERE recent)),
	'<', 1e-12::float8, 'novelty is the share of items that the reference lacks') FROM small;
SELECT cmp_ok(abs((serm.js_shift(item, recent, unit)).statistic - (SELECT sum(CASE WHEN p > 0 THEN p / 2 * log(2, p * 2 / (p + q)) ELSE 0 END + CASE WHEN q > 0 THEN q / 2 * log(2, q * 2 / (p + q)) ELSE 0 END)
	FROM (SELECT count(*) FILTER (WHERE NOT recent) / 20.0 AS p, count(*) FILTER (WHERE recent) / 20.0 AS q FROM small GROUP BY item) AS c)), '<', 1e-9::float8,
	'js is the divergence in bits') FROM small;
SELECT ok((serm.ks_shift(value, recent, unit)).p_value <= 0.06 AND (serm.psi_shift(value, recent, unit)).p_value <= 0.03, 'what moved is found') FROM small;
SELECT ok((serm.ks_shift(value, recent, unit)).p_value > 0.01 AND (serm.psi_shift(value, recent, unit)).p_value > 0.01 AND (serm.js_shift(item, recent, unit)).p_value > 0.01
	AND (serm.calibration_shift(value, outcome, recent, unit)).p_value > 0.01, 'and what did not is not') FROM stream;
SELECT is((serm.ks_shift(value, recent, unit)).reference_units + (serm.ks_shift(value, recent, unit)).recent_units < 40000, true, 'of a long stream units are sampled') FROM stream;
SELECT is(serm.ks_shift(value, recent, unit)::text, NULL, 'one part alone cannot have shifted') FROM small WHERE recent;
SELECT is(serm.ks_shift(value, recent, unit)::text, NULL, 'nor nothing') FROM small WHERE false;
SELECT is((serm.ks_shift(value, recent, unit)).recent_units, 20, 'rows with a NULL are skipped') FROM (TABLE small UNION ALL VALUES (1, NULL::bool, 'a', 1::float8, 'b'), (1, true, NULL, 1, 'b'), (1, true, 'z', NULL, 'b')) AS s;
SELECT throws_ok($$SELECT serm.ks_shift('NaN', true, 'u')$$, '22023', NULL, 'a value that is no number is refused');
CREATE TEMP TABLE serial AS
	SELECT serm.ks_shift(value, recent, unit) AS ks, serm.psi_shift(value, recent, unit) AS psi, serm.js_shift(item, recent, unit) AS js,
		serm.novelty_shift(item, recent, unit) AS novelty, serm.calibration_shift(value, outcome, recent, unit) AS calibration FROM stream;
CREATE FUNCTION pg_temp.plan_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; whole text := '';
BEGIN FOR line IN EXECUTE 'EXPLAIN ' || statement LOOP whole := whole || ' ' || line; END LOOP; RETURN whole; END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 3;
SELECT matches(pg_temp.plan_of('SELECT serm.ks_shift(value, recent, unit) FROM stream'), 'Finalize.*Gather.*Partial', 'the plan is parallel');
SELECT results_eq($$SELECT serm.ks_shift(value, recent, unit), serm.psi_shift(value, recent, unit), serm.js_shift(item, recent, unit),
	serm.novelty_shift(item, recent, unit), serm.calibration_shift(value, outcome, recent, unit) FROM stream$$, 'TABLE serial', 'partial states merge to the bits of one pass');
CREATE TABLE parted (LIKE stream) PARTITION BY HASH (unit);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES WITH (MODULUS 3, REMAINDER 2);
INSERT INTO parted SELECT * FROM stream ORDER BY md5(i::text);
SET enable_partitionwise_aggregate = on;
SELECT results_eq($$SELECT serm.ks_shift(value, recent, unit), serm.psi_shift(value, recent, unit), serm.js_shift(item, recent, unit),
	serm.novelty_shift(item, recent, unit), serm.calibration_shift(value, outcome, recent, unit) FROM parted$$, 'TABLE serial', 'over partitions and in another order too');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;

-- --- a log of two weeks; in the second, one of two markets asks for other things
CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product SELECT 'p' || n, (ARRAY['red shoe','blue lamp','green chair','white table','black pillow','solar kettle'])[1 + n % 6] || E'\nfor your home, made to last, number ' || n
	FROM generate_series(0, 35) AS n;
CREATE TABLE search_log AS
	SELECT CASE WHEN week = 1 AND s % 2 = 0 AND s % 3 > 0 THEN 'solar kettle ' ELSE '' END || (ARRAY['red shoe','blue lamp','green chair','white table'])[1 + (hashint4(s * 2 + week) & 3)] AS query,
		'p' || (hashint4(s + k * 1000 + week * 77) & 31) AS doc_id, '2026-03-01 00:00+00'::timestamptz + week * interval '7 days' + s * interval '10 minutes' AS shown_at,
		k AS position, (hashint4(s * 5 + k + week) & 7) < 2 AS clicked, s::text AS session_id, CASE WHEN s % 2 = 0 THEN 'de' ELSE 'en' END AS segment
	  FROM generate_series(0, 1) AS week, generate_series(1, 900) AS s, generate_series(1, 3) AS k;
SELECT serm.create_model('tap_drift', log => 'search_log', documents => 'product') \g /dev/null
\set before 'tstzrange(''2026-03-01 00:00+00'', ''2026-03-08 00:00+00'')'
\set after 'tstzrange(''2026-03-08 00:00+00'', ''2026-03-15 00:00+00'')'
SELECT set_eq($$SELECT DISTINCT signal FROM serm.drift('tap_drift', tstzrange('2026-03-01 00:00+00', '2026-03-08 00:00+00'), tstzrange('2026-03-08 00:00+00', '2026-03-15 00:00+00'))$$,
	ARRAY['query terms', 'query n-grams', 'clicks ks', 'clicks psi'], 'without a version there are no scores to shift');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_drift', 'red shoe', doc_id, CASE WHEN doc LIKE 'red%' THEN 3 ELSE 0 END FROM product;
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_drift', 'blue lamp', doc_id, CASE WHEN doc LIKE 'blue%' THEN 3 ELSE 1 END FROM product;
CALL serm.train('tap_drift');
CREATE TEMP TABLE found AS SELECT * FROM serm.drift('tap_drift', :before, :after);
SELECT results_eq('SELECT count(*)::int FROM found', 'VALUES (21)', 'seven signals, as a whole and in two segments');
SELECT set_eq($$SELECT signal, coalesce(segment, 'all') AS segment FROM found WHERE drifted AND signal LIKE 'query%'$$,
	$$VALUES ('query terms', 'all'), ('query n-grams', 'all'), ('query terms', 'de'), ('query n-grams', 'de')$$, 'the queries of one segment drifted, and with it the whole');
SELECT is_empty($$SELECT * FROM found WHERE drifted AND signal LIKE 'clicks%'$$, 'the clicks did not');
SELECT is_empty($$SELECT * FROM found WHERE drifted AND segment = 'en'$$, 'nothing did in the other segment');
SELECT ok(bool_and(p_value > 0 AND p_value <= 1 AND effect <= statistic), 'p-values and effects are in their ranges') FROM found;
SELECT results_eq($$SELECT * FROM found$$, $$SELECT * FROM serm.drift('tap_drift', tstzrange('2026-03-01 00:00+00', '2026-03-08 00:00+00'), tstzrange('2026-03-08 00:00+00', '2026-03-15 00:00+00'))$$, 'the same log gives the same answer');
SELECT set_eq($$SELECT term FROM serm.drift_terms('tap_drift', tstzrange('2026-03-01 00:00+00', '2026-03-08 00:00+00'), tstzrange('2026-03-08 00:00+00', '2026-03-15 00:00+00'), 2)$$,
	ARRAY['solar', 'kettle'], 'the emerging words are named');
SELECT ok(reference_pages = 0 AND recent_pages = (SELECT count(DISTINCT shown_at) FROM search_log WHERE query LIKE 'solar%') AND z > 5, 'with the pages that hold them')
  FROM serm.drift_terms('tap_drift', :before, :after, 1);
-- Days dealt at random into two parts: nothing has shifted.
CREATE VIEW shuffled AS SELECT query, doc_id, '2026-03-01 00:00+00'::timestamptz + (hashint4(extract(epoch FROM shown_at)::int) & 1) * interval '7 days'
	+ s * interval '1 second' AS shown_at, position, clicked, session_id, segment FROM (SELECT *, dense_rank() OVER (ORDER BY shown_at)::int AS s FROM search_log) AS l;
UPDATE serm.model SET log = 'shuffled' WHERE name = 'tap_drift';
SELECT is_empty($$SELECT * FROM serm.drift('tap_drift', tstzrange('2026-03-01 00:00+00', '2026-03-08 00:00+00'), tstzrange('2026-03-08 00:00+00', '2026-03-15 00:00+00')) WHERE drifted$$,
	'a shuffled stream has not drifted');
-- Forty such deals, however small a shift: what is called drift at a level is no more often there than the level says.
CREATE VIEW dealt AS SELECT query, doc_id, '2026-03-01 00:00+00'::timestamptz + (hashint8(s * 1000003 + current_setting('tap.deal')::bigint) & 1) * interval '7 days'
	+ s * interval '1 second' AS shown_at, position, clicked, session_id, segment FROM (SELECT *, dense_rank() OVER (ORDER BY shown_at) AS s FROM search_log WHERE position < 3) AS l;
UPDATE serm.model SET log = 'dealt' WHERE name = 'tap_drift';
CREATE FUNCTION pg_temp.alarms(level real) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM generate_series(1, 40) AS deal, LATERAL (SELECT set_config('tap.deal', deal::text, false)) AS d (deal_is),
		LATERAL (SELECT bool_or(drifted) AS alarm FROM serm.drift('tap_drift', tstzrange('2026-03-01 00:00+00', '2026-03-08 00:00+00'),
			tstzrange('2026-03-08 00:00+00', '2026-03-15 00:00+00'), jsonb_build_object('level', level, 'effect', 0, 'rows', 800, 'seed', deal_is::int))) AS a WHERE alarm $$;
SELECT cmp_ok(n, '<=', 6::bigint, 'of forty shuffled streams not many more than two drift at .05: ' || n) FROM pg_temp.alarms(0.05) AS n;
SELECT ok(n BETWEEN 4 AND 28, 'nor than twenty at .5, but some do: ' || n) FROM pg_temp.alarms(0.5) AS n;
UPDATE serm.model SET log = 'search_log' WHERE name = 'tap_drift';
SELECT is_empty($$SELECT * FROM serm.drift('tap_drift', tstzrange('2026-03-01 00:00+00', '2026-03-08 00:00+00'), tstzrange('2026-03-08 00:00+00', '2026-03-15 00:00+00'), '{"effect": 0.99}') WHERE drifted$$,
	'an effect that is asked for is a condition');
SELECT cmp_ok(count(*), '<', 22::bigint, 'a sample of few rows does as well') FROM serm.drift('tap_drift', :before, :after, '{"rows": 400, "draws": 99, "level": 0.01, "seed": 3}');

CREATE ROLE tap_drifter;
SELECT serm.grant_access('tap_drifter', 'analyse') \g /dev/null
GRANT SELECT ON search_log, product, small TO tap_drifter;
SET ROLE tap_drifter;
SELECT is((SELECT count(*) FROM serm.drift('tap_drift', :before, :after)), 21::bigint, 'who may analyse may look for drift');
SELECT is((SELECT (serm.ks_shift(value, recent, unit)).recent_units FROM small), 20, 'and use its statistics');
SELECT is_empty($$SELECT * FROM serm.click_relevance('tap_drift')$$, 'and click models');
RESET ROLE;
ALTER TABLE search_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON search_log TO tap_drifter USING (segment = 'en');
SET ROLE tap_drifter;
SELECT results_eq($$SELECT segment, count(*) FROM serm.drift('tap_drift', tstzrange('2026-03-01 00:00+00', '2026-03-08 00:00+00'), tstzrange('2026-03-08 00:00+00', '2026-03-15 00:00+00'))
	GROUP BY segment ORDER BY segment$$, $$VALUES ('en', 7::bigint), (NULL, 7)$$, 'of the rows that row security shows');
RESET ROLE;

-- --- errors
SELECT throws_ok($$SELECT * FROM serm.drift('tap_drift', 'empty', '[2026-03-08,2026-03-15)')$$, '22023', NULL, 'an empty window');
SELECT throws_ok($$SELECT * FROM serm.drift('tap_drift', '[2026-03-01,2026-03-09)', '[2026-03-08,2026-03-15)')$$, '22023', 'the two windows of drift overlap', 'windows that overlap');
SELECT throws_ok($$SELECT * FROM serm.drift('tap_drift', NULL, '[2026-03-08,2026-03-15)')$$, '22004', NULL, 'no window');
SELECT throws_ok($$SELECT * FROM serm.drift('tap_drift', '[2026-03-01,2026-03-08)', '[2026-03-08,2026-03-15)', '{"alpha": 1}')$$, '22023', NULL, 'an unknown option');
SELECT throws_ok($$SELECT * FROM serm.drift_terms('tap_drift', '[2026-03-01,2026-03-08)', '[2026-03-08,2026-03-15)', 0)$$, '22023', NULL, 'no terms');
SELECT is_empty($$SELECT * FROM serm.drift('tap_drift', '[1999-01-01,2000-01-01)', '[2000-01-01,2001-01-01)')$$, 'windows without impressions give no rows');

SELECT * FROM finish();
