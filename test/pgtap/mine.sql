-- Mining: what each agent finds is compared with its definition in SQL; then selection, shapes of logs, and rights.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(126);

-- --- a small shop: 25 products, as many queries, a log that shows every query six of the products
CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home, made to last.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow}'::text[]) AS thing;
CREATE TABLE shop (n int, query text, doc_id text, grade int);
INSERT INTO shop
	SELECT row_number() OVER (ORDER BY q.doc_id COLLATE "C", d.doc_id COLLATE "C"), replace(q.doc_id, '-', ' '), d.doc_id,
		CASE WHEN q.doc_id = d.doc_id THEN 3
			WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END
	  FROM product q, product d;

CREATE TABLE impression (query text, doc_id text, shown_at timestamptz, position int, clicked bool, dwell_ms int, session_id text);
-- Shown four times each; clicks and dwell follow no grade, so that every agent has something to find.
INSERT INTO impression
	SELECT query, doc_id, '2026-01-01 00:00+00'::timestamptz + (n * 10 + i) * interval '1 minute', 1 + n % 6,
		i = 0 AND (n % 4 = 0 OR grade = 3), CASE WHEN i = 0 AND n % 4 = 0 THEN 1000 * (n % 90) WHEN i = 1 AND n % 7 = 0 THEN 95000 END, NULL
	  FROM shop, generate_series(0, 3) AS i WHERE n % 4 IN (0, 1) OR grade = 3;

SELECT lives_ok($$SELECT serm.create_model('tap_mine', log => 'impression', documents => 'product')$$, 'a model with a log');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_mine', query, doc_id, grade FROM shop
	WHERE grade > 0 AND n % 3 = 0 OR grade = 0 AND n % 9 = 0;
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine')$$, '55000', NULL, 'a model without an active version mines nothing');
CALL serm.train('tap_mine');

-- What the log says about each pair and what the model says: the material of every definition below.
CREATE TABLE pair AS
	SELECT l.*, p.score, p.entropy, p.disagreement, p.version,
		EXISTS (SELECT FROM serm.judgment j WHERE j.query = l.query AND j.doc_id = l.doc_id) AS judged
	  FROM (SELECT query, doc_id, doc, count(*) AS impressions, count(*) FILTER (WHERE clicked) AS clicks, max(dwell_ms) AS dwell,
			avg(position) AS position, max(shown_at) AS latest
			FROM impression JOIN product USING (doc_id) GROUP BY 1, 2, 3) AS l,
		LATERAL serm.predict(l.query, l.doc, 'tap_mine') AS p;
CREATE VIEW tau AS
	SELECT greatest(30000, percentile_cont(0.7) WITHIN GROUP (ORDER BY dwell) FILTER (WHERE clicks > 0)) AS u,
		percentile_cont(0.9) WITHIN GROUP (ORDER BY disagreement) AS md, percentile_cont(0.9) WITHIN GROUP (ORDER BY entropy) AS mu
	  FROM pair;
CREATE VIEW tau_new AS
	SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY disagreement) AS md, percentile_cont(0.9) WITHIN GROUP (ORDER BY entropy) AS mu
	  FROM pair WHERE NOT judged;

-- --- the four agents against their definitions
SELECT cmp_ok(count(*), '>', 20::bigint, 'the log has pairs that the feedback agent must find')
  FROM pair, tau WHERE (clicks > 0 OR dwell > u) AND score < 1.5 AND NOT judged;
SELECT cmp_ok(count(*), '>', 5::bigint, 'and clicked ones that it must not') FROM pair WHERE clicks > 0 AND score >= 1.5;
SELECT cmp_ok(count(*), '>', 5::bigint, 'and pairs that only dwell brings') FROM pair, tau WHERE clicks = 0 AND dwell > u AND score < 1.5;
SELECT set_eq($$SELECT query, doc_id, doc, score FROM serm.mine_feedback('tap_mine')$$,
	$$SELECT query, doc_id, doc, score FROM pair, tau WHERE (clicks > 0 OR dwell > u) AND score < 1.5 AND NOT judged$$,
	'feedback: (clicked or dwell > tau_u) and score < tau_c, without the judged');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_feedback('tap_mine', options => '{"tau_c": 2.25, "tau_u_ms": 45000, "include_judged": true}')$$,
	$$SELECT query, doc_id FROM pair WHERE (clicks > 0 OR dwell > 45000) AND score < 2.25$$, 'feedback: thresholds are options');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_disagreement('tap_mine', options => '{"include_judged": true}')$$,
	$$SELECT query, doc_id FROM pair, tau WHERE disagreement > md$$, 'disagreement: the top tenth of the window');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_disagreement('tap_mine')$$,
	$$SELECT query, doc_id FROM pair, tau_new WHERE disagreement > md AND NOT judged$$, 'disagreement: without the judged');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_disagreement('tap_mine', options => '{"disagreement": 0.05, "include_judged": true}')$$,
	$$SELECT query, doc_id FROM pair WHERE disagreement > 0.05$$, 'disagreement: or above a threshold');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_uncertainty('tap_mine', options => '{"include_judged": true}')$$,
	$$SELECT query, doc_id FROM pair, tau WHERE entropy > mu$$, 'uncertainty: the top tenth of the window');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_uncertainty('tap_mine', options => '{"uncertainty_quantile": 0.5}')$$,
	$$SELECT query, doc_id FROM pair WHERE NOT judged AND entropy >
		(SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY entropy) FROM pair WHERE NOT judged)$$, 'uncertainty: another quantile');
SELECT is_empty($$SELECT * FROM serm.mine_clicks('tap_mine')$$, 'clicks: no pair has enough impressions');

-- --- what a row says
SELECT results_eq(
	$$SELECT f.query, f.doc_id, (signals->>'impressions')::bigint, (signals->>'clicks')::bigint, (signals->>'dwell_ms')::int,
		round((signals->>'position')::numeric, 3), (signals->>'last_shown')::timestamptz, (signals->>'version')::int,
		abs((signals->>'score')::float - f.score) < 1e-5
		FROM serm.mine_feedback('tap_mine', options => '{"include_judged": true}') AS f ORDER BY f.query COLLATE "C", f.doc_id COLLATE "C"$$,
	$$SELECT query, doc_id, impressions, clicks, dwell, round(position, 3), latest, version, true
		FROM pair, tau WHERE (clicks > 0 OR dwell > u) AND score < 1.5 ORDER BY query COLLATE "C", doc_id COLLATE "C"$$,
	'signals repeat what the log and the model say');
SELECT results_eq(
	$$SELECT DISTINCT signals->'thresholds'->>'tau_c', (signals->'thresholds'->>'tau_u_ms')::numeric::int FROM serm.mine_feedback('tap_mine')$$,
	$$SELECT '1.5', u::numeric::int FROM tau$$, 'and the thresholds used');
SELECT is((SELECT count(*) FROM serm.mine_feedback('tap_mine') WHERE reason NOT LIKE 'feedback: clicked % of 4 times%, but scored % < 1.50'), 0::bigint,
	'feedback gives its reason');
SELECT is((SELECT count(*) FROM serm.mine_feedback('tap_mine') WHERE (reason ~ 'read for') <>
	((signals->>'dwell_ms')::float > (signals->'thresholds'->>'tau_u_ms')::float)), 0::bigint, 'dwell is named where it counted');
SELECT is((SELECT count(*) FROM serm.mine_disagreement('tap_mine') WHERE reason !~ '^disagreement: the heads differ by [0-9.]+ > [0-9.]+$'), 0::bigint,
	'disagreement gives its reason');
SELECT is((SELECT count(*) FROM serm.mine_uncertainty('tap_mine') WHERE reason !~ '^uncertainty: entropy [0-9.]+ > [0-9.]+ nats$'), 0::bigint,
	'uncertainty gives its reason');
SELECT results_eq($$SELECT priority FROM serm.mine_uncertainty('tap_mine')$$,
	$$SELECT cume_dist() OVER (ORDER BY entropy)::real AS priority FROM pair, tau_new WHERE entropy > mu AND NOT judged ORDER BY priority DESC$$,
	'the priority is the rank among the picks, and rows come by priority');

-- --- the click model: clicks are exactly theta * alpha * 40 with theta = 1 / position
CREATE TABLE clicklog AS
	SELECT query, doc_id, now() AS shown_at, k AS position, i <= round(40 * alpha / k) AS clicked
	  FROM (SELECT query, doc_id, n, CASE WHEN n % 50 = 1 THEN 0.9 ELSE 0.1 + (n % 3) * 0.1 END AS alpha FROM shop WHERE n % 10 = 1) AS s,
		generate_series(1, 5) AS k, generate_series(1, 40) AS i
	  WHERE k >= 3 OR n % 50 <> 1;
INSERT INTO clicklog SELECT 'red shoe', 'blue-lamp', now(), 1, true FROM generate_series(1, 19);
UPDATE serm.model SET log = 'clicklog' WHERE name = 'tap_mine';
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "include_judged": true}')$$,
	$$SELECT query, doc_id FROM shop WHERE n % 50 = 1$$, 'clicks: finds the attractive pairs');
SELECT cmp_ok(max(rate), '<', 0.5, 'which the plain click rate does not')
  FROM (SELECT avg(clicked::int) AS rate FROM clicklog JOIN shop USING (query, doc_id) WHERE n % 50 = 1 GROUP BY query, doc_id) AS r;
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_clicks('tap_mine', options => '{"include_judged": true}')$$,
	$$SELECT query, doc_id FROM shop JOIN product USING (doc_id), LATERAL serm.predict(query, doc, 'tap_mine') AS p WHERE n % 50 = 1 AND p.score < 1.5$$,
	'clicks: of those the low scored ones');
SELECT ok(bool_and(abs((signals->>'attractiveness')::float - 0.9) < 0.05), 'and recovers the attractiveness')
  FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "include_judged": true}');
SELECT ok(bool_and(reason ~ '^clicks: attractiveness 0[.]8[0-9] > 0.50 after 120 impressions at mean position 4.0, but scored [0-9.]+ < 3.00$'), 'clicks gives its reason')
  FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "include_judged": true}');
SELECT is_empty($$SELECT * FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "tau_cm": 0.99, "include_judged": true}')$$, 'clicks: tau_cm is an option');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "min_impressions": 19, "include_judged": true}')$$,
	$$SELECT query, doc_id FROM shop WHERE n % 50 = 1 UNION SELECT 'red shoe', 'blue-lamp'$$, 'clicks: so are the least impressions');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine('tap_mine', budget => 100000, options => '{"tau_c": 3, "include_judged": true}')
	WHERE 'clicks' = ANY (agents)$$, $$SELECT query, doc_id FROM shop WHERE n % 50 = 1$$, 'clicks: as one of several agents it finds the same');
SELECT is_empty($$SELECT * FROM serm.mine_clicks('tap_mine', '-infinity', '2000-01-01')$$, 'clicks: nothing from an empty window');
-- A stored model that covers the window is used instead of one of the window's own.
SELECT ok(NOT bool_or(signals->'thresholds' ? 'stored_clicks'), 'clicks: without a stored model the window is fitted')
  FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "include_judged": true}');
CALL serm.fit_click_model('tap_mine', options => '{"strength": 40}');
SELECT set_eq($$SELECT query, doc_id, round((signals->>'attractiveness')::numeric, 5), signals->'thresholds'->'stored_clicks'
		FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "tau_cm": 0.3, "include_judged": true}')$$,
	$$SELECT query, doc_id, round(attractiveness::numeric, 5), to_jsonb(true) FROM serm.click_relevance('tap_mine') JOIN product USING (doc_id)
		WHERE attractiveness > 0.3 AND impressions >= 20$$, 'clicks: a stored model is used');
SELECT ok(bool_and(abs((signals->>'attractiveness')::float - 0.9) < 0.05 AND NOT signals->'thresholds' ? 'stored_clicks'), 'clicks: but not against the option')
  FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "include_judged": true, "stored_clicks": false}');
SELECT ok(NOT bool_or(signals->'thresholds' ? 'stored_clicks'), 'clicks: nor where the window ends after it')
  FROM serm.mine_clicks('tap_mine', until => now() + interval '1 hour', options => '{"tau_c": 3, "include_judged": true}');
UPDATE serm.click_model SET since = now() - interval '1 day' WHERE model = 'tap_mine';
SELECT ok(NOT bool_or(signals->'thresholds' ? 'stored_clicks'), 'clicks: or begins before it')
  FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "include_judged": true}');
UPDATE serm.click_model SET since = NULL, log = 'impression' WHERE model = 'tap_mine';
SELECT ok(NOT bool_or(signals->'thresholds' ? 'stored_clicks'), 'clicks: or is of another log')
  FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "include_judged": true}');
DELETE FROM serm.click_param WHERE model = 'tap_mine';
DELETE FROM serm.click_model WHERE model = 'tap_mine';
CREATE VIEW short_log AS SELECT * FROM clicklog WHERE position = 3 AND doc_id IN (SELECT doc_id FROM shop WHERE n % 50 = 1) LIMIT 999;
UPDATE serm.model SET log = 'short_log' WHERE name = 'tap_mine';
SELECT is_empty($$SELECT * FROM serm.mine_clicks('tap_mine', options => '{"tau_c": 3, "tau_cm": 0}')$$, 'clicks: no model of fewer than 1000 impressions');
UPDATE serm.model SET log = 'impression' WHERE name = 'tap_mine';

-- --- the union
CREATE TEMP TABLE fired AS
	SELECT query, doc_id, array_agg(agent ORDER BY agent COLLATE "C") AS agents, sum(priority)::real AS priority FROM (
		SELECT query, doc_id, 'feedback' AS agent, priority FROM serm.mine_feedback('tap_mine')
		UNION ALL SELECT query, doc_id, 'disagreement', priority FROM serm.mine_disagreement('tap_mine')
		UNION ALL SELECT query, doc_id, 'uncertainty', priority FROM serm.mine_uncertainty('tap_mine')) AS f GROUP BY 1, 2;
SELECT set_eq($$SELECT query, doc_id, ARRAY(SELECT a FROM unnest(agents) AS a ORDER BY a COLLATE "C") FROM serm.mine('tap_mine', options => '{"explore": 0}')$$,
	$$SELECT query, doc_id, agents FROM fired$$, 'without exploring it is the union, one row per pair, with the agents that fired');
SELECT set_eq($$SELECT query, doc_id, round(priority::numeric, 4) FROM serm.mine('tap_mine', options => '{"explore": 0}')$$,
	$$SELECT query, doc_id, round(priority::numeric, 4) FROM fired$$, 'the priority adds up over the agents');
SELECT cmp_ok(count(*), '>', 0::bigint, 'some pairs have several agents') FROM fired WHERE cardinality(agents) > 1;
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', options => '{"explore": 0}') WHERE cardinality(agents) <> cardinality(string_to_array(reason, '; '))),
	0::bigint, 'each agent gives its reason');
SELECT set_eq($$SELECT query, doc_id FROM serm.mine('tap_mine', options => '{"explore": 0, "agents": "uncertainty , feedback"}')$$,
	$$SELECT query, doc_id FROM fired WHERE agents && '{uncertainty,feedback}'$$, 'agents can be chosen');
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE 'explore' = ANY (agents)), count(*) FILTER (WHERE agents = '{}') FROM serm.mine('tap_mine', budget => 30)$$,
	$$VALUES (30::bigint, 15::bigint, 0::bigint)$$, 'the budget is exact and half of it explores');
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE 'explore' = ANY (agents)) FROM serm.mine('tap_mine', budget => 20, options => '{"explore": 0.25}')$$,
	$$VALUES (20::bigint, 5::bigint)$$, 'the share that explores is an option');
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE 'explore' = ANY (agents)) FROM serm.mine('tap_mine', budget => 20, options => '{"explore": 1}')$$,
	$$VALUES (20::bigint, 20::bigint)$$, 'up to all');
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 40) AS m LEFT JOIN fired AS f USING (query, doc_id)
	WHERE ARRAY(SELECT a FROM unnest(m.agents) AS a WHERE a <> 'explore' ORDER BY a COLLATE "C") IS DISTINCT FROM coalesce(f.agents, '{}')), 0::bigint,
	'explored pairs carry the agents that fired as well');
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 40) WHERE ('explore' = ANY (agents)) <> (reason LIKE 'explore: drawn at random%')), 0::bigint,
	'and say that they were drawn');
SELECT cmp_ok(max(n), '<=', 2::bigint, 'a query gives two pairs at most while that meets the budget')
  FROM (SELECT count(*) AS n FROM serm.mine('tap_mine', budget => 40) GROUP BY query) AS c;
SELECT results_eq($$SELECT sum(n)::int, max(n) <= 5 AND max(n) > 2 FROM (SELECT count(*) AS n FROM serm.mine('tap_mine', budget => 100) GROUP BY query) AS c$$,
	$$VALUES (100, true)$$, 'and more where the budget needs them');
SELECT results_eq($$SELECT count(*)::int, max(n)::int FROM (SELECT count(*) AS n FROM serm.mine('tap_mine', options => '{"per_query": 1}') GROUP BY query) AS c$$,
	$$VALUES (25, 1)$$, 'per_query is an option');
SELECT results_eq($$SELECT DISTINCT signals->'thresholds'->>'per_query' FROM serm.mine('tap_mine', budget => 40)$$, $$VALUES ('2')$$, 'the cap used is told');
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 100000)), (SELECT count(*) FROM pair WHERE NOT judged), 'a large budget gives the whole stream');
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}')), (SELECT count(*) FROM pair), 'with the judged on demand');
SELECT ok(bool_and(before >= priority), 'rows come by priority')
  FROM (SELECT priority, lag(priority) OVER () AS before FROM serm.mine('tap_mine', budget => 60)) AS r;
SELECT results_eq($$SELECT * FROM serm.mine('tap_mine', budget => 40, options => '{"seed": 7, "temperature": 0.5}')$$,
	$$SELECT * FROM serm.mine('tap_mine', budget => 40, options => '{"seed": 7, "temperature": 0.5}')$$, 'a seed fixes the rows');
SELECT set_ne($$SELECT query, doc_id FROM serm.mine('tap_mine', budget => 40, options => '{"seed": 7}')$$,
	$$SELECT query, doc_id FROM serm.mine('tap_mine', budget => 40, options => '{"seed": 8}')$$, 'another seed draws other rows');
SELECT results_eq($$SELECT * FROM serm.mine(NULL, NULL, NULL, NULL, NULL)$$, $$SELECT * FROM serm.mine('tap_mine')$$, 'NULL means the default');

-- --- the window, and pairs that are known
SELECT set_eq($$SELECT query, doc_id FROM serm.mine('tap_mine', '2026-01-01 10:00+00', '2026-01-01 20:00+00', 100000, '{"include_judged": true}')$$,
	$$SELECT DISTINCT query, doc_id FROM impression WHERE shown_at >= '2026-01-01 10:00+00' AND shown_at < '2026-01-01 20:00+00'$$, 'the window is half open');
SELECT is_empty($$SELECT * FROM serm.mine('tap_mine', 'infinity')$$, 'an empty window gives nothing');
SELECT is_empty($$SELECT * FROM serm.mine('tap_mine', '2026-01-02', '2026-01-01')$$, 'so does one that ends before it starts');
BEGIN;
CREATE TEMP TABLE chosen AS SELECT * FROM serm.mine('tap_mine', budget => 5);
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_mine', query, doc_id, doc FROM chosen WHERE priority > 0 LIMIT 2;
INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'tap_mine', query, doc, 1 FROM chosen OFFSET 4;
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 100000)), (SELECT count(*) - 3 FROM pair WHERE NOT judged),
	'sampled pairs are left out, and those judged by their text');
INSERT INTO serm.judgment (model, query, doc_id, grade, source) SELECT 'tap_mine', query, doc_id, 1, 'clicks' FROM chosen;
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 100000)), (SELECT count(*) - 3 FROM pair WHERE NOT judged), 'judgments of clicks do not count');
ROLLBACK;

-- --- quotas, near copies, order by margin
ALTER TABLE impression ADD COLUMN segment text;
UPDATE impression SET segment = CASE WHEN query LIKE 'red %' THEN 'red' WHEN query LIKE 'blue %' THEN 'blue' ELSE 'rest' END;
SELECT results_eq($$SELECT DISTINCT signals->>'segment' FROM serm.mine('tap_mine', budget => 100000) ORDER BY 1$$, $$VALUES ('blue'), ('red'), ('rest')$$, 'pairs know their segment');
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 40, options => '{"per_query": 50, "explore": 0, "segment_quota": "red=0.5"}') WHERE query LIKE 'red %'), 20::bigint,
	'the quota of a segment is exact');
SELECT results_eq($$SELECT 'segment' = ANY (agents), reason LIKE 'segment: drawn at random for the quota of segment red%' FROM serm.mine('tap_mine', budget => 40,
	options => '{"per_query": 50, "explore": 0, "agents": "uncertainty", "uncertainty_quantile": 1, "segment_quota": "red=0.1, nowhere=1"}')$$,
	'SELECT true, true FROM generate_series(1, 4)', 'by chance where the agents picked none; a segment that is not there gets none');
SELECT cmp_ok((SELECT count(*) FROM serm.mine('tap_mine', budget => 20, options => '{"per_query": 50, "explore": 0.5, "agent_quota": "disagreement=0.3"}') WHERE 'disagreement' = ANY (agents)),
	'>=', 6::bigint, 'so is that of an agent, beside the random draw');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', options => '{"agent_quota": "oracle=0.3"}')$$, '22023', 'unknown mining agent "oracle"', 'of an agent that there is');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', options => '{"agent_quota": "feedback"}')$$, '22023', NULL, 'a quota is a share');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', options => '{"segment_quota": "red=1.5"}')$$, '22023', NULL, 'of at most all');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', options => '{"drift": true}')$$, '22023', NULL, 'drift needs a window that begins');
CREATE TABLE drifting AS
	SELECT query, doc_id, shown_at + week * interval '30 days' AS shown_at, position, clicked, dwell_ms, n::text AS session_id, segment FROM
		(SELECT *, row_number() OVER () AS n FROM impression WHERE query LIKE 'red %' OR query LIKE 'blue %') AS i, generate_series(0, 1) AS week;
UPDATE drifting SET query = 'red ' || md5(session_id) WHERE segment = 'red' AND shown_at >= '2026-01-31';
UPDATE serm.model SET log = 'drifting' WHERE name = 'tap_mine';
SELECT results_eq($$SELECT DISTINCT signals->'thresholds'->>'drifted' FROM serm.mine('tap_mine', '2026-01-31', '2026-03-02', 40, '{"drift": true, "drift_share": 0.75, "per_query": 50, "explore": 0}')$$,
	$$VALUES ('red')$$, 'a segment that drifted is found');
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', '2026-01-31', '2026-03-02', 40, '{"drift": true, "drift_share": 0.75, "per_query": 50, "explore": 0}') WHERE query LIKE 'red %'), 30::bigint,
	'and gets its share');
SELECT results_eq($$SELECT count(*) > 0, count(*) FILTER (WHERE signals->'thresholds' ? 'drifted') FROM serm.mine('tap_mine', '-infinity', '2026-03-02', 40, '{"drift": true}')$$,
	'VALUES (true, 0::bigint)', 'nothing drifted where time begins with the window');
SELECT results_eq($$SELECT query, doc_id, signals FROM serm.mine('tap_mine', '2026-01-31', 'infinity', 40, '{"drift": true}')$$,
	$$SELECT query, doc_id, signals FROM serm.mine('tap_mine', '2026-01-31', NULL, 40, '{"drift": true}')$$, 'a window without an end ends now');
SELECT results_eq($$SELECT count(*) > 0, count(*) FILTER (WHERE signals->'thresholds' ? 'drifted') FROM serm.mine('tap_mine', '4000-01-01 BC', '2026-03-02', 40, '{"drift": true}')$$,
	'VALUES (true, 0::bigint)', 'and one that is longer than the time before it is compared with all of that');
SELECT is_empty(format($$SELECT * FROM serm.mine('tap_mine', %L, %L, 40, '{"drift": true}')$$, since, until), format('an empty window, %s to %s, has not drifted', since, until))
  FROM (VALUES ('infinity', NULL), ('2026-03-02', '2026-01-31'), ('2026-03-02', '-infinity')) AS w (since, until);
UPDATE serm.model SET log = 'impression' WHERE name = 'tap_mine';
BEGIN;
INSERT INTO product SELECT doc_id || '-copy', upper(doc) || ' !' FROM product WHERE doc_id = 'green-lamp';
INSERT INTO impression SELECT query, doc_id || '-copy', shown_at, position, clicked, dwell_ms FROM impression WHERE doc_id = 'green-lamp';
SELECT cmp_ok(count(*), '>', 0::bigint, 'copies of a pair are mined') FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}') AS a
	JOIN serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}') AS b ON b.query = a.query AND b.doc_id = a.doc_id || '-copy';
SELECT is_empty($$SELECT a.query FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true, "distinct": true}') AS a
	JOIN serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true, "distinct": true}') AS b ON b.query = a.query AND b.doc_id = a.doc_id || '-copy'$$, 'unless near copies are left out');
SELECT cmp_ok((SELECT max((signals->'thresholds'->>'copies')::int) FROM serm.mine('tap_mine', budget => 100000, options => '{"distinct": true}')), '>', 0, 'which is told');
ROLLBACK;
BEGIN;
INSERT INTO serm.sample (model, round, query, doc_id, doc, agents, signals, state, grade) SELECT 'tap_mine', 7, query, 'other ' || doc_id, doc, agents, signals, 'agreed', 3
	FROM serm.mine('tap_mine', budget => 60);
INSERT INTO serm.vote (sample, agent, path, grade) SELECT s.id, 'judge', p, CASE WHEN (s.signals->>'score')::float < 1.5 AND p > 2 THEN 0 ELSE 3 END
	FROM serm.sample AS s, generate_series(1, 4) AS p WHERE round = 7;
SELECT ok(avg((signals->>'margin')::float) FILTER (WHERE (signals->>'score')::float < 1) + 0.1 < avg((signals->>'margin')::float) FILTER (WHERE (signals->>'score')::float > 2),
	'where annotators differed before, the margin is small') FROM serm.mine('tap_mine', budget => 100000);
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 20, options => '{"order": "margin", "explore": 0}')
	WHERE abs(priority - (signals->>'margin')::float * (signals->>'entropy')::float / ln(4)) > 1e-5), 0::bigint, 'the order by margin is margin times uncertainty');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', options => '{"order": "luck"}')$$, '22023', NULL, 'another order is refused');
-- What each agent adds.
SELECT results_eq($$SELECT agent, samples, alone, settled, wrong FROM serm.mining_overlap('tap_mine', 7) WHERE agent = other ORDER BY agent COLLATE "C"$$,
	$$SELECT a, count(*), count(*) FILTER (WHERE agents = ARRAY[a]), count(*), count(*) FILTER (WHERE abs(3 - (signals->>'score')::float) >= 1)
		FROM serm.sample, unnest(agents) AS a WHERE round = 7 GROUP BY a ORDER BY a COLLATE "C"$$, 'of each agent what it found, alone, and where the model was wrong');
SELECT results_eq($$SELECT samples, round(share::numeric, 6), round(jaccard::numeric, 6) FROM serm.mining_overlap('tap_mine') WHERE agent = 'disagreement' AND other = 'uncertainty'$$,
	$$SELECT count(*) FILTER (WHERE agents @> '{disagreement,uncertainty}'), round(count(*) FILTER (WHERE agents @> '{disagreement,uncertainty}')::numeric / count(*) FILTER (WHERE 'disagreement' = ANY (agents)), 6),
		round(count(*) FILTER (WHERE agents @> '{disagreement,uncertainty}')::numeric / count(*) FILTER (WHERE agents && '{disagreement,uncertainty}'), 6) FROM serm.sample WHERE round = 7$$,
	'and what two of them share');
SELECT is_empty($$SELECT * FROM serm.mining_overlap('tap_mine', 8)$$, 'of a round without samples nothing');
ROLLBACK;

-- --- rows that are not impressions, duplicates
BEGIN;
CREATE TEMP TABLE before AS SELECT * FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}');
INSERT INTO impression VALUES (NULL, 'red-shoe', now(), 1, true), ('red shoe', NULL, now(), 1, true), ('red shoe', 'blue-shoe', now(), NULL, true),
	('red shoe', 'blue-shoe', NULL, 1, true), ('red shoe', 'blue-shoe', now(), 0, true), ('red shoe', 'blue-shoe', now(), -3, true);
SELECT set_eq($$SELECT * FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}')$$, 'SELECT * FROM before',
	'rows without query, document, time or position are skipped');
INSERT INTO impression VALUES ('red shoe', 'no-such-product', now(), 1, true), ('red shoe', '', now(), 1, true);
INSERT INTO product VALUES ('no-text', NULL);
INSERT INTO impression VALUES ('red shoe', 'no-text', now(), 1, true);
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}')), (SELECT count(*) FROM before),
	'pairs without a document are skipped');
INSERT INTO impression SELECT 'a query', 'red-shoe', '2030-01-01', 2000000000, NULL, -5, 's' FROM generate_series(1, 3);
SELECT results_eq($$SELECT signals->>'impressions', signals->>'clicks', signals->>'dwell_ms' FROM serm.mine('tap_mine', '2029-01-01')$$,
	$$VALUES ('3', '0', '0')$$, 'a NULL click is none; strange positions, dwells and times are taken as they are');
INSERT INTO impression SELECT query, 'red-shoe', '2030-01-01', 1, true
	FROM unnest(ARRAY['', ' ', E' \t\r\n\f\x0b', 'v', repeat('word ', 30000)]) AS query;
SELECT is((SELECT count(*) FROM serm.mine('tap_mine', '2029-01-01')), 3::bigint, 'a huge query is one, so is one of a letter, a blank one is none');
SELECT lives_ok($$INSERT INTO serm.judgment (model, query, doc_id, doc, grade)
	SELECT 'tap_mine', query, doc_id, doc, 1 FROM serm.mine('tap_mine', budget => 100000)$$, 'every mined pair can be judged');
ROLLBACK;
BEGIN;
ALTER TABLE product DROP CONSTRAINT product_pkey;
INSERT INTO product SELECT doc_id, 'zzz ' || doc FROM product;
SELECT set_eq($$SELECT query, doc_id, doc FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}')$$,
	'SELECT query, doc_id, doc FROM pair', 'an id that occurs twice in the documents counts once, with the first text');
ROLLBACK;

-- --- other shapes of logs
CREATE VIEW view_log AS SELECT query::varchar(80), doc_id, shown_at, position::bigint, clicked, dwell_ms FROM impression;
CREATE TABLE parted (LIKE impression) PARTITION BY RANGE (shown_at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2026-01-02');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-01-02') TO (MAXVALUE);
INSERT INTO parted SELECT * FROM impression;
CREATE MATERIALIZED VIEW kept_log AS SELECT * FROM impression;
CREATE TABLE bare_log AS SELECT query, doc_id, shown_at, position, clicked FROM impression;
CREATE TABLE empty_log (LIKE impression);
CREATE FUNCTION pg_temp.mined(log regclass) RETURNS TABLE (query text, doc_id text, agents text[], priority real) LANGUAGE plpgsql AS $$
BEGIN
	UPDATE serm.model SET log = $1 WHERE name = 'tap_mine';
	RETURN QUERY SELECT m.query, m.doc_id, m.agents, m.priority FROM serm.mine('tap_mine', budget => 60) AS m;
END $$;
SELECT results_eq($$SELECT * FROM pg_temp.mined('view_log')$$, $$SELECT * FROM pg_temp.mined('impression')$$, 'a view with other types of the same kind');
SELECT results_eq($$SELECT * FROM pg_temp.mined('parted')$$, $$SELECT * FROM pg_temp.mined('impression')$$, 'a partitioned log');
SELECT results_eq($$SELECT * FROM pg_temp.mined('kept_log')$$, $$SELECT * FROM pg_temp.mined('impression')$$, 'a materialised view');
SELECT is((SELECT count(*) FROM pg_temp.mined('bare_log')), 60::bigint, 'a log without the optional columns');
SELECT is_empty($$SELECT * FROM serm.mine_feedback('tap_mine') WHERE signals ? 'dwell_ms'$$, 'which has no dwell');
SELECT is_empty($$SELECT * FROM pg_temp.mined('empty_log')$$, 'an empty log gives no rows');
CREATE SEQUENCE reads;
CREATE VIEW counted_log AS SELECT * FROM impression WHERE nextval('reads') > 0;
SELECT results_eq($$SELECT * FROM pg_temp.mined('counted_log')$$, $$SELECT * FROM pg_temp.mined('impression')$$, 'a view that counts what is read of it');
SELECT is(last_value, (SELECT count(*) FROM impression), 'each row of a log is read once') FROM reads;
SELECT pg_temp.mined('impression') \g /dev/null
SET max_parallel_workers_per_gather = 0;
CREATE TEMP TABLE serial AS SELECT * FROM serm.mine('tap_mine', budget => 60);
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT results_eq($$SELECT * FROM serm.mine('tap_mine', budget => 60)$$, 'SELECT * FROM serial', 'a parallel plan gives the same rows');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;

-- --- errors
CREATE TABLE log_without_position AS SELECT query, doc_id, shown_at, clicked FROM impression;
CREATE TABLE log_of_text_positions AS SELECT query, doc_id, shown_at, position::text, clicked FROM impression;
CREATE TABLE log_of_local_times AS SELECT query, doc_id, shown_at::timestamp, position, clicked FROM impression;
CREATE TABLE log_of_dropped AS SELECT * FROM impression;
ALTER TABLE log_of_dropped DROP COLUMN query;
CREATE TABLE log_of_fractions AS SELECT query, doc_id, shown_at, position, clicked, dwell_ms::float FROM impression;
CREATE FUNCTION pg_temp.mine_log(log regclass) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	UPDATE serm.model SET log = $1 WHERE name = 'tap_mine';
	RETURN (SELECT count(*) FROM serm.mine('tap_mine', 'infinity'));
END $$;
SELECT throws_ok($$SELECT pg_temp.mine_log('log_without_position')$$, '42703',
	'search log public.log_without_position of model "tap_mine" has no column "position"', 'a missing column is named');
SELECT throws_ok($$SELECT pg_temp.mine_log('log_of_text_positions')$$, '42804',
	'column "position" of search log public.log_of_text_positions of model "tap_mine" has type text, not integer', 'a mistyped column is named');
SELECT throws_ok($$SELECT pg_temp.mine_log('log_of_local_times')$$, '42804', NULL, 'a time without a zone is refused');
SELECT throws_ok($$SELECT pg_temp.mine_log('log_of_dropped')$$, '42703', NULL, 'a dropped column is missing');
SELECT throws_ok($$SELECT pg_temp.mine_log('log_of_fractions')$$, '42804', NULL, 'an optional column of the wrong type is refused');
SELECT throws_ok($$SELECT pg_temp.mine_log('pair_index')$$, '42P01', NULL, 'a log that is not there');
SELECT throws_ok($$SELECT pg_temp.mine_log('product_pkey')$$, '42809', NULL, 'an index is no log');
BEGIN;
UPDATE serm.model SET documents = 'shop' WHERE name = 'tap_mine';
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine')$$, '42703', NULL, 'documents without text are refused');
UPDATE serm.model SET documents = NULL WHERE name = 'tap_mine';
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine')$$, '55000', NULL, 'a model without documents mines nothing');
UPDATE serm.model SET log = NULL WHERE name = 'tap_mine';
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine')$$, '55000', NULL, 'nor does one without a log');
UPDATE serm.model SET log = 'empty_log' WHERE name = 'tap_mine';
DROP TABLE empty_log;
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine')$$, '42P01', NULL, 'a dropped log is said to be gone');
ROLLBACK;
SELECT throws_ok($$SELECT * FROM serm.mine('no_such_model')$$, '42704', NULL, 'an unknown model');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', budget => 0)$$, '22023', NULL, 'a budget of nothing');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', options => '{"tau_x": 1}')$$, '22023', 'option "tau_x" of serm.mine does not exist', 'an unknown option');
SELECT throws_ok($$SELECT * FROM serm.mine_feedback('tap_mine', options => '{"explore": 2}')$$, '22023', NULL, 'an option out of range');
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine', options => '{"agents": "feedback,oracle"}')$$, '22023', 'unknown mining agent "oracle"', 'an unknown agent');
SELECT throws_ok($$SELECT * FROM serm.mine_clicks('tap_mine', options => '{"agents": "feedback"}')$$, '22023', NULL, 'agents are an option of the union only');
SET serm.mine_pairs_max = 100;
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine')$$, '54000', NULL, 'too many pairs are refused');
RESET serm.mine_pairs_max;

-- --- options
SELECT results_eq($$SELECT o->>'tau_c', o->>'tau_cm', o->>'min_impressions', o->>'tau_u_ms', o->>'explore', o->'seed' = to_jsonb(m.active)
	FROM serm.mine_options('tap_mine') AS o, serm.model AS m WHERE name = 'tap_mine'$$,
	$$VALUES ('1.5', '0.5', '20', NULL, '0.5', true)$$, 'the defaults in numbers');
SELECT results_eq($$SELECT * FROM serm.mine('tap_mine', budget => 40, options => serm.mine_options('tap_mine', '{"explore": 0.2}'))$$,
	$$SELECT * FROM serm.mine('tap_mine', budget => 40, options => '{"explore": 0.2}')$$, 'which can be given back as options');

-- --- rights
CREATE ROLE tap_miner;
SELECT serm.grant_access('tap_miner', 'analyse') \g /dev/null
GRANT SELECT ON product TO tap_miner;
SET ROLE tap_miner;
SELECT throws_ok($$SELECT * FROM serm.mine('tap_mine')$$, '42501', 'permission denied for table impression', 'the log is read with the rights of the caller');
RESET ROLE;
GRANT SELECT ON impression TO tap_miner;
ALTER TABLE impression ENABLE ROW LEVEL SECURITY;
CREATE POLICY red_only ON impression TO tap_miner USING (query LIKE 'red %');
SET ROLE tap_miner;
SELECT set_eq($$SELECT DISTINCT query FROM serm.mine('tap_mine', budget => 100000, options => '{"include_judged": true}')$$,
	$$SELECT replace(doc_id, '-', ' ') FROM product WHERE doc_id LIKE 'red-%'$$, 'row security holds');
BEGIN READ ONLY;
SELECT cmp_ok((SELECT count(*) FROM serm.mine('tap_mine')), '>', 0::bigint, 'in a read-only transaction');
COMMIT;
RESET ROLE;
SELECT is((SELECT count(DISTINCT query) FROM serm.mine('tap_mine', budget => 100000)), 25::bigint, 'and does not stick to the session');
SELECT is((SELECT count(*) FROM pg_proc WHERE pronamespace = 'serm'::regnamespace AND proname LIKE 'mine%' AND provolatile = 's'), 6::bigint,
	'all of it is STABLE');

SELECT * FROM finish();
