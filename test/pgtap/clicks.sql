-- Click models: the counted ones against their formulas in SQL, the others against a log of known truth; tables, rights, errors.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(62);

-- --- a log of pages: three results of six documents, clicks by a hash
CREATE TABLE page AS
	SELECT s, 'query ' || s % 4 AS query, '2026-01-01 00:00+00'::timestamptz + s / 3 * interval '1 minute' AS shown_at, 'user ' || s % 3 AS session_id
	  FROM generate_series(1, 1200) AS s;
CREATE TABLE click_log AS
	SELECT query, 'doc ' || (s + k * 5 + s / 7) % 6 AS doc_id, shown_at, k AS position,
		('x' || substr(md5(s || ' ' || k), 1, 8))::bit(32)::bigint % 100 < 50 / k AS clicked, session_id
	  FROM page, generate_series(1, 3) AS k;
INSERT INTO click_log VALUES (NULL, 'doc 1', now(), 1, true, 'x'), ('query 1', NULL, now(), 1, true, 'x'), ('query 1', 'doc 1', NULL, 1, true, 'x'),
	('query 1', 'doc 1', now(), 0, true, 'x'), ('query 1', 'doc 1', now(), NULL, true, 'x'), (E' \t', 'doc 1', now(), 1, true, 'x');
CREATE TABLE text_of (doc_id text, doc text);
SELECT serm.create_model('tap_clicks', log => 'click_log') \g /dev/null

SELECT throws_ok($$CALL serm.fit_click_model('tap_clicks')$$, '2D000', NULL, 'fitting commits, so it is no part of a transaction of others');
SELECT throws_ok($$SELECT * FROM serm.evaluate_click_model('tap_clicks')$$, '55000', 'model "tap_clicks" has no click model of kind "pbm"', 'a model that was not fitted cannot be judged');
SELECT is_empty($$SELECT * FROM serm.click_relevance('tap_clicks')$$, 'and says nothing');
CALL serm.fit_click_model('tap_clicks');
CALL serm.fit_click_model('tap_clicks', 'ubm');
CALL serm.fit_click_model('tap_clicks', 'cascade', options => '{"strength": 3, "mean": 0.2}');
CALL serm.fit_click_model('tap_clicks', 'sdbn', options => '{"strength": 0}');
CALL serm.fit_click_model('tap_clicks', 'dbn');
CALL serm.fit_click_model('tap_clicks', 'coec', options => '{"strength": 2}');

CREATE TEMP TABLE shown AS
	SELECT *, max(position) FILTER (WHERE clicked) OVER page AS last_click,
		coalesce(max(position) FILTER (WHERE clicked) OVER (page ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS previous
	  FROM click_log WHERE btrim(query, E' \t') <> '' AND doc_id IS NOT NULL AND shown_at IS NOT NULL AND position > 0
	  WINDOW page AS (PARTITION BY shown_at, session_id, query);
SELECT results_eq($$SELECT kind, impressions, clicks, pages, pairs, converged FROM serm.click_model ORDER BY kind COLLATE "C"$$,
	$$SELECT kind, count(*), count(*) FILTER (WHERE clicked), CASE WHEN kind IN ('coec', 'pbm') THEN NULL ELSE 1200 END::bigint, 24::bigint, true
		FROM shown, unnest('{cascade,coec,dbn,pbm,sdbn,ubm}'::text[]) AS kind GROUP BY kind ORDER BY kind COLLATE "C"$$,
	'each kind read every impression once, and every page');
SELECT set_eq($$SELECT kind, query, doc_id, impressions, clicks FROM serm.click_param WHERE query IS NOT NULL$$,
	$$SELECT kind, query, doc_id, count(*) AS n, count(*) FILTER (WHERE clicked) AS c FROM shown, unnest('{cascade,coec,dbn,pbm,sdbn,ubm}'::text[]) AS kind GROUP BY 1, 2, 3$$,
	'the counts of every pair are those of the log');
SELECT set_eq($$SELECT position, impressions, clicks FROM serm.click_propensity('tap_clicks', 'dbn')$$,
	$$SELECT position, count(*) AS n, count(*) FILTER (WHERE clicked) AS c FROM shown GROUP BY 1$$, 'and those of every position');
SELECT set_eq($$SELECT position, previous, impressions, clicks FROM serm.click_param WHERE kind = 'ubm' AND previous IS NOT NULL$$,
	$$SELECT position, previous, count(*) AS n, count(*) FILTER (WHERE clicked) AS c FROM shown GROUP BY 1, 2$$, 'ubm knows the click above');

-- --- the counted kinds are their formulas
SELECT set_eq($$SELECT query, doc_id, round(attractiveness::numeric, 9) FROM serm.click_relevance('tap_clicks', 'cascade')$$,
	$$SELECT query, doc_id, round((count(*) FILTER (WHERE clicked) + 3 * 0.2) / (count(*) + 3), 9) FROM shown WHERE previous = 0 GROUP BY 1, 2$$,
	'cascade: clicks over impressions down to the first click, with the prior');
SELECT set_eq($$SELECT query, doc_id, round(attractiveness::numeric, 9) AS a, round(satisfaction::numeric, 9) AS s, round(relevance::numeric, 9) AS r FROM serm.click_relevance('tap_clicks', 'sdbn')$$,
	$$SELECT query, doc_id, round(a, 9) AS a, round(s, 9) AS s, round(a * s, 9) AS r FROM (
		SELECT query, doc_id, count(*) FILTER (WHERE clicked)::numeric / count(*) FILTER (WHERE position <= coalesce(last_click, 3)) AS a,
			count(*) FILTER (WHERE position = last_click)::numeric / count(*) FILTER (WHERE clicked) AS s FROM shown GROUP BY 1, 2) AS f$$,
	'sdbn: attracted of those seen, satisfied of those clicked, relevance their product');
SELECT set_eq($$SELECT query, doc_id, round(relevance::numeric, 9) FROM serm.click_relevance('tap_clicks', 'coec')$$,
	$$SELECT query, doc_id, round(((count(*) FILTER (WHERE clicked) + 2) / (sum(rate) + 2))::numeric, 9) FROM shown
		JOIN (SELECT position, avg(clicked::int) AS rate FROM shown GROUP BY 1) AS r USING (position) GROUP BY 1, 2$$, 'coec: clicks over expected clicks');

-- --- likelihood and perplexity
SELECT cmp_ok(abs(m.log_likelihood - e.log_likelihood), '<', 1e-6::float8, m.kind || ': the log-likelihood of the fit is that of its judgement')
  FROM serm.click_model AS m, LATERAL serm.evaluate_click_model('tap_clicks', m.kind) AS e WHERE e.position IS NULL ORDER BY m.kind COLLATE "C";
SELECT results_eq($$SELECT position, impressions, clicks FROM serm.evaluate_click_model('tap_clicks')$$,
	$$SELECT position, count(*) AS n, count(*) FILTER (WHERE clicked) AS c FROM shown GROUP BY ROLLUP (position) ORDER BY position$$, 'judged by position and as a whole');
SELECT ok(bool_and(abs(e.perplexity - 2 ^ -(SELECT avg(CASE WHEN clicked THEN log(2, (p.examination * r.attractiveness)::numeric)
		ELSE log(2, (1 - p.examination * r.attractiveness)::numeric) END)
		FROM shown AS s JOIN serm.click_relevance('tap_clicks') AS r USING (query, doc_id) JOIN serm.click_propensity('tap_clicks') AS p USING (position)
		WHERE s.position = e.position)) < 1e-6), 'perplexity is 2 to the mean of minus log2 of the chance')
  FROM serm.evaluate_click_model('tap_clicks') AS e WHERE e.position IS NOT NULL;
SELECT is((SELECT impressions FROM serm.evaluate_click_model('tap_clicks', 'dbn', '2026-01-01 01:00+00', '2026-01-01 02:00+00') WHERE position IS NULL),
	(SELECT count(*) FROM shown WHERE shown_at >= '2026-01-01 01:00+00' AND shown_at < '2026-01-01 02:00+00'), 'of a window, half open');
SELECT is_empty($$SELECT * FROM serm.evaluate_click_model('tap_clicks', 'dbn', 'infinity')$$, 'an empty window gives no rows');
INSERT INTO click_log VALUES ('query 9', 'doc 9', '2030-01-01', 1, true, NULL), ('query 9', 'doc 8', '2030-01-01', 2, false, NULL);
SELECT is((SELECT perplexity BETWEEN 1 AND 10 AND impressions = 2 FROM serm.evaluate_click_model('tap_clicks', kind, '2030-01-01') WHERE position IS NULL), true,
	kind || ': pairs it never saw are foretold by the mean') FROM unnest('{pbm,ubm,cascade,dbn,sdbn,coec}'::text[]) AS kind;
DELETE FROM click_log WHERE query = 'query 9';

-- --- pages
CREATE VIEW one_user AS SELECT query, doc_id, shown_at, position, clicked FROM click_log;
UPDATE serm.model SET log = 'one_user' WHERE name = 'tap_clicks';
CALL serm.fit_click_model('tap_clicks', 'cascade');
SELECT is(pages, (SELECT count(DISTINCT (shown_at, query)) FROM shown), 'without session_id a page is a time and a query') FROM serm.click_model WHERE kind = 'cascade';
UPDATE serm.model SET log = 'click_log' WHERE name = 'tap_clicks';
CALL serm.fit_click_model('tap_clicks', 'cascade', '2026-01-01 01:00+00', '2026-01-01 02:00+00');
SELECT results_eq($$SELECT impressions, since, until FROM serm.click_model WHERE kind = 'cascade'$$,
	$$SELECT count(*), '2026-01-01 01:00+00'::timestamptz, '2026-01-01 02:00+00'::timestamptz FROM shown WHERE shown_at >= '2026-01-01 01:00+00' AND shown_at < '2026-01-01 02:00+00'$$,
	'a window is kept with the model, and a fit replaces the one before');
SELECT is((SELECT sum(impressions) FROM serm.click_param WHERE kind = 'cascade' AND query IS NOT NULL)::bigint, (SELECT impressions FROM serm.click_model WHERE kind = 'cascade'),
	'with all of its parameters');

-- --- a log of known truth: clicks are exactly theta * alpha * 200 with theta = 1 / position
CREATE TABLE planted AS
	SELECT 'q' || n % 9 AS query, 'd' || n AS doc_id, 0.1 + 0.8 * (n * 37 % 100) / 100 AS alpha FROM generate_series(1, 90) AS n;
CREATE TABLE planted_log AS
	SELECT query, doc_id, '2026-02-01 00:00+00'::timestamptz AS shown_at, k AS position, i <= round(200 * alpha / k) AS clicked
	  FROM planted, generate_series(1, 5) AS k, generate_series(1, 200) AS i WHERE (ascii(right(doc_id, 1)) + k) % 3 > 0;
SELECT serm.create_model('tap_planted', log => 'planted_log') \g /dev/null
CALL serm.fit_click_model('tap_planted', options => '{"clip": 0.25}');
SELECT cmp_ok(max(abs(attractiveness - alpha)), '<', 0.03::float8, 'pbm recovers the attractiveness') FROM planted JOIN serm.click_relevance('tap_planted') USING (query, doc_id);
SELECT cmp_ok(max(abs(examination - 1.0 / position)), '<', 0.02::float8, 'and the examination') FROM serm.click_propensity('tap_planted');
SELECT ok(bool_and(propensity = greatest(examination, 0.25) AND weight = 1 / propensity) AND min(propensity) = 0.25, 'the propensity is clipped as the fit says')
  FROM serm.click_propensity('tap_planted');
SELECT is(min(propensity), 0.5::float8, 'or as the call says') FROM serm.click_propensity('tap_planted', clip => 0.5);
SELECT cmp_ok(max(abs(r.ips - f.ips)), '<', 1e-9::float8, 'ips is clicks by their inverse propensity over impressions')
  FROM serm.click_relevance('tap_planted') AS r JOIN (SELECT query, doc_id, avg(clicked::int * weight) AS ips
	FROM planted_log JOIN serm.click_propensity('tap_planted') USING (position) GROUP BY 1, 2) AS f USING (query, doc_id);
SELECT cmp_ok(max(abs(r.examination - f.examination)), '<', 1e-9::float8, 'and the examination of a pair is the mean over its impressions')
  FROM serm.click_relevance('tap_planted') AS r JOIN (SELECT query, doc_id, avg(examination) AS examination
	FROM planted_log JOIN serm.click_propensity('tap_planted') USING (position) GROUP BY 1, 2) AS f USING (query, doc_id);

-- --- grades
SELECT is(count(*) FILTER (WHERE grade IS NOT NULL), 0::bigint, 'without judgments there is no grade') FROM serm.click_relevance('tap_planted');
INSERT INTO serm.judgment (model, query, doc_id, grade, source)
	SELECT 'tap_planted', query, doc_id, least(3, floor(alpha * 4)), 'human' FROM planted;
INSERT INTO serm.judgment (model, query, doc_id, grade, source) SELECT 'tap_planted', query, doc_id, 0, 'clicks' FROM planted;
CALL serm.fit_click_model('tap_planted');
SELECT results_eq($$SELECT calibration_pairs FROM serm.click_model WHERE model = 'tap_planted'$$,
	$$SELECT count(*)::int FROM planted WHERE serm.split_of(query) = 'train'$$, 'the curve to grades learns from judged pairs of train queries, not from clicks');
SELECT is((SELECT count(*) FROM (SELECT grade < lag(grade) OVER (ORDER BY relevance) AS falls FROM serm.click_relevance('tap_planted')) AS r WHERE falls), 0::bigint,
	'grades never fall where relevance rises');
SELECT cmp_ok(avg(abs(grade - least(3, floor(alpha * 4)))), '<', 0.25::float8, 'and are near those of people') FROM planted JOIN serm.click_relevance('tap_planted') USING (query, doc_id);
SELECT is(serm._isotonic('{1,2,4}', '{0,1,3}', x), y, format('a curve at %s', x)) FROM (VALUES (0::float8, 0::float8), (1.5, 0.5), (3, 2), (9, 3)) AS v (x, y);
SELECT is(serm._isotonic('{}', '{}', 1), NULL, 'a curve without knots has no value');
SELECT is(serm._isotonic('{1,2,4}', '{0,1,3}', 'NaN'), NULL, 'nor any curve at what is no number');
SELECT throws_ok($$SELECT serm._isotonic('{1,2}', '{1}', 1)$$, '22023', NULL, 'a crooked curve is refused');

-- --- errors; each is told before anything is written
SELECT throws_ok($$CALL serm.fit_click_model('tap_clicks', 'oracle')$$, '22023', 'unknown kind of click model "oracle"', 'an unknown kind');
SELECT throws_ok($$CALL serm.fit_click_model('tap_clicks', options => '{"strenght": 1}')$$, '22023', NULL, 'an unknown option');
SELECT throws_ok($$CALL serm.fit_click_model('tap_clicks', options => '{"clip": 0}')$$, '22023', NULL, 'an option out of range');
\set VERBOSITY sqlstate
\set ON_ERROR_STOP off
CALL serm.fit_click_model('tap_clicks', since => 'infinity');
SELECT is(:'SQLSTATE'::text, '55000', 'an empty window');
CALL serm.fit_click_model('nobody');
SELECT is(:'SQLSTATE'::text, '42704', 'an unknown model');
SET serm.mine_pairs_max = 5;
CALL serm.fit_click_model('tap_clicks', 'dbn');
SELECT is(:'SQLSTATE'::text, '54000', 'too many pairs');
\set ON_ERROR_STOP on
RESET serm.mine_pairs_max;
SELECT is(impressions, 3600::bigint, 'after which the model before still stands') FROM serm.click_model WHERE model = 'tap_clicks' AND kind = 'dbn';

-- --- rights, partitions, the end
CREATE ROLE tap_clicker;
SELECT serm.grant_access('tap_clicker', 'operate') \g /dev/null
CREATE TABLE parted (LIKE click_log) PARTITION BY RANGE (shown_at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2026-01-01 02:00+00');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-01-01 02:00+00') TO (MAXVALUE);
INSERT INTO parted SELECT * FROM click_log WHERE shown_at IS NOT NULL;
GRANT SELECT ON parted TO tap_clicker;
ALTER TABLE parted ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON parted TO tap_clicker USING (session_id = 'user 1');
UPDATE serm.model SET log = 'parted' WHERE name = 'tap_clicks';
SET ROLE tap_clicker;
CALL serm.fit_click_model('tap_clicks', 'sdbn');
RESET ROLE;
SELECT is(impressions, (SELECT count(*) FROM shown WHERE session_id = 'user 1'), 'a partitioned log under row security: only what the caller may see')
  FROM serm.click_model WHERE model = 'tap_clicks' AND kind = 'sdbn';

-- --- a plain table is scanned without a plan: other types and order of columns, dropped ones, long texts, dead rows
CREATE TABLE odd_log (session_id text, gone int, clicked bool, position smallint, doc_id varchar(20000), shown_at timestamptz, more int DEFAULT 7, query text);
ALTER TABLE odd_log DROP COLUMN gone, ALTER COLUMN query SET STORAGE EXTERNAL;
INSERT INTO odd_log SELECT session_id, clicked, position, doc_id, shown_at, 1, query FROM click_log;
INSERT INTO odd_log SELECT 's', n % 3 = 0, 1 + n % 2, CASE n % 4 WHEN 0 THEN repeat('long ', 3000) WHEN 1 THEN repeat('document ', 4) ELSE 'd' END || n % 5, now(), n,
	CASE n % 3 WHEN 0 THEN repeat(md5('q'), 300) WHEN 1 THEN repeat('query ', 10) ELSE 'q' END || n % 2 FROM generate_series(1, 400) AS n;
DELETE FROM odd_log WHERE more % 11 = 3;
CREATE FUNCTION pg_temp.counts_right(log text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE wrong bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM (SELECT query::text, doc_id::text, count(*) AS n, count(*) FILTER (WHERE clicked) AS c FROM %s'
		' WHERE btrim(query, E'' \t'') <> '''' AND doc_id IS NOT NULL AND shown_at IS NOT NULL AND position > 0 GROUP BY 1, 2) AS l'
		' FULL JOIN (SELECT query, doc_id, impressions AS n, clicks AS c FROM serm.click_param WHERE model = ''tap_clicks'' AND kind = ''coec'' AND query IS NOT NULL) AS p'
		' USING (query, doc_id) WHERE (l.n, l.c) IS DISTINCT FROM (p.n, p.c)', log) INTO wrong;
	RETURN wrong = 0;
END$$;
UPDATE serm.model SET log = 'odd_log' WHERE name = 'tap_clicks';
CALL serm.fit_click_model('tap_clicks', 'coec');
SELECT ok(pg_temp.counts_right('odd_log'), 'a table of another shape is counted row by row');
CREATE TABLE odd_child () INHERITS (odd_log);
INSERT INTO odd_child SELECT session_id, clicked, position, doc_id, shown_at, more, query FROM ONLY odd_log WHERE more % 2 = 0;
CALL serm.fit_click_model('tap_clicks', 'coec');
SELECT ok(pg_temp.counts_right('odd_log'), 'with its children');
DROP TABLE odd_child;
ALTER TABLE odd_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON odd_log TO tap_clicker USING (session_id = 'user 1');
GRANT SELECT ON odd_log TO tap_clicker;
SET ROLE tap_clicker;
CALL serm.fit_click_model('tap_clicks', 'coec');
RESET ROLE;
SELECT ok(pg_temp.counts_right('(SELECT * FROM odd_log WHERE session_id = ''user 1'') AS o'), 'under row security only what the caller may see');
ALTER TABLE odd_log DISABLE ROW LEVEL SECURITY;
REVOKE SELECT ON odd_log FROM tap_clicker;
\set ON_ERROR_STOP off
SET ROLE tap_clicker;
CALL serm.fit_click_model('tap_clicks', 'coec');
SELECT is(:'SQLSTATE'::text, '42501', 'and nothing without the privilege');
RESET ROLE;
\set ON_ERROR_STOP on
GRANT SELECT (query, doc_id, shown_at, position, clicked) ON odd_log TO tap_clicker;
SET ROLE tap_clicker;
CALL serm.fit_click_model('tap_clicks', 'coec');
RESET ROLE;
SELECT ok(pg_temp.counts_right('odd_log'), 'privileges on the columns are enough');

-- --- the same rows by scan and by plan: a domain, a generated column, one that old rows do not have, strange positions
CREATE DOMAIN tap_text AS text CHECK (VALUE <> 'never');
CREATE TABLE bare_log (position bigint, query tap_text, doc_id varchar, clicked boolean GENERATED ALWAYS AS (position % 3 = 1) STORED);
INSERT INTO bare_log SELECT CASE n % 10 WHEN 0 THEN 0 WHEN 1 THEN -n WHEN 2 THEN 2::bigint ^ 40 ELSE n % 7 END, nullif('query ' || n % 6, 'query 5'), 'doc ' || n % 11 FROM generate_series(1, 3000) AS n;
ALTER TABLE bare_log ADD COLUMN shown_at timestamptz DEFAULT '2026-03-01 00:00+00';
INSERT INTO bare_log (position, query, doc_id, shown_at) VALUES (1, 'query 1', 'doc 1', NULL), (NULL, 'query 1', 'doc 1', now()), (1, 'query 1', NULL, now());
CREATE VIEW bare_view AS SELECT * FROM bare_log;
UPDATE serm.model SET log = 'bare_log' WHERE name = 'tap_clicks';
CALL serm.fit_click_model('tap_clicks');
CREATE TEMP TABLE by_scan AS SELECT query, doc_id, position, attractiveness, examination, ips, impressions, clicks FROM serm.click_param WHERE model = 'tap_clicks' AND kind = 'pbm';
UPDATE serm.model SET log = 'bare_view' WHERE name = 'tap_clicks';
CALL serm.fit_click_model('tap_clicks');
SELECT set_eq($$SELECT query, doc_id, position, attractiveness, examination, ips, impressions, clicks FROM serm.click_param WHERE model = 'tap_clicks' AND kind = 'pbm'$$,
	'TABLE by_scan', 'a table and a view of it give the same model');
SELECT is((SELECT sum(impressions) FROM by_scan WHERE query IS NOT NULL), (SELECT count(*) FROM bare_log WHERE query IS NOT NULL AND position > 0 AND doc_id IS NOT NULL AND shown_at IS NOT NULL)::numeric,
	'of every row that counts');
SELECT serm.drop_model('tap_clicks') \g /dev/null
SELECT is_empty($$SELECT 1 FROM serm.click_param WHERE model = 'tap_clicks' UNION ALL SELECT 1 FROM serm.click_model WHERE model = 'tap_clicks'$$, 'a model takes its click models along');

SELECT * FROM finish();
