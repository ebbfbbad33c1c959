-- Bringing a log: what is wrong with it is told, each event is mined once, and a foreign log is as good as a local one.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(48);

-- --- a log without a flaw
CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product SELECT 'p' || n, 'product ' || n || E'\nof kind ' || n % 7 FROM generate_series(0, 39) AS n;
CREATE TABLE good_log AS
	SELECT 'kind ' || s % 7 AS query, 'p' || (s * 7 + k * 3) % 40 AS doc_id, '2026-05-01 00:00+00'::timestamptz + s * interval '10 minutes' AS shown_at,
		k AS position, (hashint4(s * 9 + k) & 7) = 0 AS clicked, CASE WHEN (hashint4(s * 9 + k) & 7) = 0 THEN 20000 + s END AS dwell_ms, s::text AS session_id
	  FROM generate_series(1, 600) AS s, generate_series(1, 4) AS k;
CREATE FUNCTION pg_temp.problems(log regclass, documents regclass DEFAULT NULL) RETURNS SETOF text LANGUAGE sql AS
	$$SELECT severity || ': ' || problem || coalesce(' [' || "column" || ']', '') || coalesce(' ' || rows, '') FROM serm.check_log(log, documents)$$;
SELECT is_empty($$SELECT * FROM serm.check_log('good_log', 'product')$$, 'a good log has no problem');
SELECT is_empty($$SELECT * FROM serm.check_log(NULL)$$, 'no log, no problem');

-- --- one flaw at a time, and all of them at once
CREATE FUNCTION pg_temp.flaw(change text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	CREATE TABLE flawed AS TABLE good_log;
	EXECUTE change;
	RETURN QUERY SELECT p FROM pg_temp.problems('flawed') AS p WHERE p !~ 'session_id|nearly every pair';
	DROP TABLE flawed;
END $$;
SELECT results_eq(format('SELECT pg_temp.flaw(%L)', change), ARRAY[problem], problem) FROM (VALUES
	('UPDATE flawed SET query = NULL WHERE position = 1', 'warning: rows without a query are skipped [query] 600'),
	($$UPDATE flawed SET query = ' ' WHERE position = 1$$, 'warning: rows without a query are skipped [query] 600'),
	('UPDATE flawed SET doc_id = NULL WHERE position = 1', 'warning: rows without a document are skipped [doc_id] 600'),
	('UPDATE flawed SET shown_at = NULL WHERE position = 1', 'warning: rows without a time are skipped [shown_at] 600'),
	($$UPDATE flawed SET shown_at = now() + interval '1 year' + position * interval '1 day' WHERE session_id = '9'$$, 'warning: impressions of the future [shown_at] 4'),
	('UPDATE flawed SET position = NULL WHERE position = 1', 'warning: rows without a position are skipped [position] 600'),
	('UPDATE flawed SET position = position - 1', 'error: positions count from 0: the first results are skipped [position] 600'),
	('UPDATE flawed SET position = position + 100', 'warning: positions past the first hundred: rows that nobody saw look like rows that everybody skipped [position] 2400'),
	($$UPDATE flawed SET clicked = NULL WHERE session_id = '10' AND NOT clicked$$, 'notice: clicked is NULL and counts as not clicked [clicked] 4'),
	('UPDATE flawed SET clicked = false, dwell_ms = NULL', 'error: there is not one click [clicked] 2400'),
	('DELETE FROM flawed WHERE NOT clicked', 'error: nearly every row is clicked: this is a log of clicks, not of impressions [clicked] ' || (SELECT count(*) FROM good_log WHERE clicked)),
	('UPDATE flawed SET dwell_ms = -dwell_ms WHERE clicked', 'warning: negative dwell [dwell_ms] ' || (SELECT count(*) FROM good_log WHERE clicked)),
	('UPDATE flawed SET dwell_ms = dwell_ms / 1000', 'warning: dwell looks like seconds: half of it is under 600 [dwell_ms] ' || (SELECT count(*) FROM good_log WHERE clicked)),
	('UPDATE flawed SET clicked = false WHERE clicked AND position > 3', 'notice: dwell without a click [dwell_ms] ' || (SELECT count(*) FROM good_log WHERE clicked AND position > 3)),
	('INSERT INTO flawed SELECT * FROM flawed WHERE position = 1', 'warning: impressions that are logged twice 600'),
	($$UPDATE flawed SET position = 1 + right(doc_id, 1)::int % 4$$, 'warning: documents never change their position: examination and attraction cannot be told apart [position] 280'),
	($$UPDATE flawed SET query = 'Kind 1' WHERE query = 'kind 1' AND position = 2$$, 'notice: queries that differ in case or spaces only [query] 1')
) AS v (change, problem);
SELECT is_empty($$SELECT pg_temp.flaw('UPDATE flawed SET query = ''v'' WHERE query = ''kind 1'' ')$$, 'a query of a letter is one');
SELECT is(pg_temp.flaw('UPDATE flawed SET position = 0, clicked = false, query = NULL WHERE position < 5 AND dwell_ms IS NULL') IS NOT NULL, true, 'many flaws are told at once') LIMIT 1;
CREATE TABLE empty_log (LIKE good_log);
SELECT results_eq($$SELECT * FROM pg_temp.problems('empty_log')$$, ARRAY['error: the log is empty 0'], 'an empty log');
CREATE TABLE wrong (query text, doc_id bigint, shown_at timestamp, clicked text, segment int);
SELECT set_eq($$SELECT "column", severity FROM serm.check_log('wrong')$$,
	$$VALUES ('doc_id', 'error'), ('shown_at', 'error'), ('clicked', 'error'), ('segment', 'error'), ('position', 'error'), ('dwell_ms', 'notice'), ('session_id', 'notice')$$,
	'a wrong shape: every column at once');
SELECT results_eq($$SELECT * FROM pg_temp.problems('product_pkey') LIMIT 1$$, ARRAY['error: the rows of the log are not a table or view'], 'an index is no log');
SELECT results_eq($$SELECT * FROM pg_temp.problems('good_log', 'wrong') AS p WHERE p ~ '"doc"'$$, ARRAY['error: column "doc" is missing [doc]'], 'documents without text');
DELETE FROM product WHERE doc_id = 'p7';
SELECT results_eq($$SELECT * FROM pg_temp.problems('good_log', 'product')$$, ARRAY['warning: documents of the log have no text [doc_id] 1'], 'a document that is missing');
INSERT INTO product VALUES ('p7', 'product 7');
CREATE ROLE tap_log;
SELECT serm.grant_access('tap_log', 'analyse') \g /dev/null
SET ROLE tap_log;
SELECT ok(bool_or(problem = 'you may not read the rows of the log' AND remedy = 'GRANT SELECT ON good_log TO tap_log;'), 'a missing privilege, with what grants it') FROM serm.check_log('good_log');
RESET ROLE;

-- --- the view over User Behavior Insights of doc/search-log.md
CREATE TABLE ubi_queries ("timestamp" timestamptz, query_id text, client_id text, user_query text, query_response_object_ids text[]);
CREATE TABLE ubi_events ("timestamp" timestamptz, query_id text, action_name text, event_attributes jsonb);
INSERT INTO ubi_queries VALUES ('2026-05-01 00:00+00', 'a', 'one', 'kind 1', '{p1,p2,p3}'), ('2026-05-01 00:01+00', 'b', 'two', 'kind 1', '{p2,p1}');
INSERT INTO ubi_events VALUES ('2026-05-01 00:00:05+00', 'a', 'item_click', '{"object": {"object_id": "p2"}, "dwell_ms": 4000}'),
	('2026-05-01 00:00:06+00', 'a', 'impression', '{"object": {"object_id": "p3"}}');
CREATE VIEW ubi_log AS
	SELECT q.user_query AS query, r.doc_id, q."timestamp" AS shown_at, r.position::integer,
		coalesce(e.clicked, false) AS clicked, e.dwell_ms, q.client_id AS session_id
	  FROM ubi_queries AS q
	 CROSS JOIN LATERAL unnest(q.query_response_object_ids) WITH ORDINALITY AS r (doc_id, position)
	  LEFT JOIN (
		SELECT query_id, event_attributes #>> '{object,object_id}' AS doc_id,
			bool_or(action_name IN ('click', 'item_click', 'add_to_cart')) AS clicked,
			max((event_attributes ->> 'dwell_ms')::integer) AS dwell_ms
		  FROM ubi_events GROUP BY 1, 2
	  ) AS e ON e.query_id = q.query_id AND e.doc_id = r.doc_id;
SELECT results_eq('SELECT query, doc_id, position, clicked, dwell_ms, session_id FROM ubi_log ORDER BY session_id, position',
	$$VALUES ('kind 1', 'p1', 1, false, NULL, 'one'), ('kind 1', 'p2', 2, true, 4000, 'one'), ('kind 1', 'p3', 3, false, NULL, 'one'),
		('kind 1', 'p2', 1, false, NULL, 'two'), ('kind 1', 'p1', 2, false, NULL, 'two')$$, 'queries and events of UBI make a log');
SELECT is_empty($$SELECT * FROM serm.check_log('ubi_log', 'product') WHERE severity = 'error'$$, 'of the right shape');
CREATE VIEW ubi_dwell AS
	SELECT query_id, doc_id, action_name,
		CASE WHEN next IS NOT NULL THEN least(extract(epoch FROM next - "timestamp") * 1000, 600000)::integer END AS dwell_ms
	  FROM (
		SELECT query_id, event_attributes #>> '{object,object_id}' AS doc_id, action_name, "timestamp",
			lead("timestamp") OVER (PARTITION BY query_id ORDER BY "timestamp") AS next
		  FROM ubi_events
	  ) AS e;
SELECT results_eq('SELECT doc_id, action_name, dwell_ms FROM ubi_dwell ORDER BY 1', $$VALUES ('p2', 'item_click', 1000), ('p3', 'impression', NULL)$$, 'and the next event ends a dwell');

-- --- the watermark
CREATE TABLE stream AS SELECT * FROM good_log WHERE shown_at < '2026-05-03';
SELECT serm.create_model('tap_log', log => 'stream', documents => 'product') \g /dev/null
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_log', 'kind ' || q, 'p' || n, CASE WHEN n % 7 = q THEN 3 ELSE 0 END FROM generate_series(0, 1) AS q, generate_series(0, 39) AS n;
CALL serm.train('tap_log');
DELETE FROM serm.judgment WHERE model = 'tap_log';
CREATE TEMP TABLE call AS SELECT * FROM serm.mine_next('tap_log', 30, '2 hours', '{"drift": true}');
SELECT results_eq($$SELECT since, until, events, late, samples FROM call$$,
	$$SELECT '-infinity'::timestamptz, max(shown_at) - interval '2 hours' + interval '1 microsecond', (SELECT count(*) FROM stream WHERE shown_at <= (SELECT max(shown_at) - interval '2 hours' FROM stream)),
		0::bigint, 30::bigint FROM stream$$, 'the first call mines from the beginning to the newest less the lateness');
SELECT is_empty($$SELECT * FROM serm.mine_next('tap_log', 30, '2 hours')$$, 'the second finds nothing new');
INSERT INTO stream SELECT * FROM good_log WHERE shown_at >= '2026-05-03' AND shown_at < '2026-05-04';
INSERT INTO stream SELECT 'kind 1', 'p1', now() + interval '10 years', 1, false, NULL, 'of a wrong clock';
SELECT results_eq($$SELECT n.since = c.until, n.events FROM serm.mine_next('tap_log', 30, '2 hours') AS n, call AS c$$,
	$$SELECT true, (SELECT count(*) FROM stream, call WHERE shown_at >= until AND shown_at <= (SELECT max(shown_at) - interval '2 hours' FROM stream WHERE shown_at < now()))$$, 'the next goes on where the last one ended, and a wrong clock does not lead it astray');
SELECT is((SELECT sum(events)::bigint FROM serm.mined), (SELECT count(*) FROM stream WHERE shown_at < (SELECT max(until) FROM serm.mined)), 'each event is in one window');
SELECT results_eq('SELECT count(*), count(DISTINCT (query, doc_id)) FROM serm.sample', 'VALUES (60::bigint, 60::bigint)', 'and no pair is sampled twice');
INSERT INTO stream SELECT 'kind late', 'p' || n, '2026-05-02 12:00+00', n, false, NULL, 'late' FROM generate_series(1, 3) AS n;
SELECT results_eq($$SELECT since, late FROM serm.mine_next('tap_log', 100000, '2 hours')$$, $$VALUES ('-infinity'::timestamptz, 3::bigint)$$, 'late impressions have their window mined again');
SELECT is((SELECT count(*) FROM serm.sample WHERE query = 'kind late'), 3::bigint, 'and are sampled');
SELECT results_eq('SELECT count(*) > 60, count(*) = count(DISTINCT (query, doc_id)) FROM serm.sample', 'VALUES (true, true)', 'again no pair twice');
SELECT is_empty($$SELECT * FROM serm.mine_next('tap_log', 30, '2 hours')$$, 'once');
CREATE TEMP TABLE away AS TABLE stream;
TRUNCATE stream;
SELECT is_empty($$SELECT * FROM serm.mine_next('tap_log', 30, '2 hours')$$, 'an emptied log has nothing to mine');
INSERT INTO stream SELECT * FROM away WHERE position <= 2;
SELECT is_empty($$SELECT * FROM serm.mine_next('tap_log', 30, '2 hours')$$, 'half of it is back, and was mined before');
INSERT INTO stream SELECT * FROM away WHERE position > 2;
SELECT is_empty($$SELECT * FROM serm.mine_next('tap_log', 30, '2 hours')$$, 'and so was the rest');
INSERT INTO stream SELECT 'kind later', 'p' || n, '2026-05-02 12:00+00', n, false, NULL, 'later' FROM generate_series(1, 2) AS n;
SELECT results_eq($$SELECT since, late FROM serm.mine_next('tap_log', 30, '2 hours')$$, $$VALUES ('-infinity'::timestamptz, 2::bigint)$$, 'what is late after that is told from it');
BEGIN;
INSERT INTO stream SELECT * FROM good_log WHERE shown_at >= '2026-05-04';
SELECT count(*) FROM serm.mine_next('tap_log', 30) \g /dev/null
ROLLBACK;
SELECT is_empty($$SELECT * FROM serm.mine_next('tap_log', 30, '2 hours')$$, 'a call that is undone leaves neither samples nor watermark');
SELECT throws_ok($$SELECT * FROM serm.mine_next('nobody')$$, '42704', NULL, 'an unknown model');

-- --- a foreign log: the same rows as the local one
CREATE EXTENSION postgres_fdw;
DO $$BEGIN
	EXECUTE format('CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L)',
		split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database());
	EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user %L)', current_user);
END$$;
CREATE FOREIGN TABLE far_log (query text, doc_id text, shown_at timestamptz, position int, clicked bool, dwell_ms int, session_id text)
	SERVER here OPTIONS (table_name 'good_log', schema_name 'public');
SELECT is_empty($$SELECT * FROM serm.check_log('far_log', 'product')$$, 'a foreign log is checked like a local one');
UPDATE serm.model SET log = 'good_log' WHERE name = 'tap_log';
CREATE TEMP TABLE near AS SELECT * FROM serm.mine('tap_log', budget => 40);
CALL serm.fit_click_model('tap_log', 'dbn');
CREATE TEMP TABLE near_dbn AS SELECT query, doc_id, round(attractiveness::numeric, 6) AS a FROM serm.click_relevance('tap_log', 'dbn');
UPDATE serm.model SET log = 'far_log' WHERE name = 'tap_log';
CALL serm.fit_click_model('tap_log', 'dbn');
SELECT results_eq($$SELECT * FROM serm.mine('tap_log', budget => 40)$$, 'TABLE near', 'mined like one');
SELECT set_eq($$SELECT query, doc_id, round(attractiveness::numeric, 6) AS a FROM serm.click_relevance('tap_log', 'dbn')$$, 'TABLE near_dbn', 'and fitted like one');

SELECT * FROM finish();
