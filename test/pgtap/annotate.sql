-- Agents without a network: options, signatures, SQL judges end to end, disputes and how people settle them.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(149);

-- --- servers: every option is checked, and the hint names the valid ones
CREATE FUNCTION pg_temp.hint_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN hint;
END $$;
CREATE FUNCTION pg_temp.server(options text) RETURNS text LANGUAGE sql AS
	$$SELECT 'CREATE SERVER tap_bad FOREIGN DATA WRAPPER serm_agent OPTIONS (' || options || ')'$$;

SELECT throws_ok(pg_temp.server($$endpont 'https://example.com'$$), 'HV00D', NULL, 'an unknown option is refused');
SELECT is(pg_temp.hint_of(pg_temp.server($$endpont 'https://example.com'$$)),
	'Valid options in this context are: endpoint, model, paths, temperature, max_tokens, timeout_ms, connect_timeout_ms, min_share, max_attempts, json_mode, requests_per_minute, tokens_per_minute, outage_s, price_prompt, price_completion, cache, canary',
	'and the hint lists the valid ones');
SELECT throws_ok(pg_temp.server($$api_key 'sk-1'$$), 'HV00D', NULL, 'keys do not belong into servers');
SELECT throws_ok(pg_temp.server(option || ' ' || quote_literal(value)), '22023', NULL, option || ' ' || value || ' is refused')
  FROM (VALUES ('endpoint', 'ftp://example.com'), ('endpoint', 'file:///etc/passwd'), ('endpoint', 'example.com'),
	('endpoint', 'https://user:pw@example.com'), ('endpoint', 'https://example.com/?a=b'), ('endpoint', 'http://example.com/v1'),
	('endpoint', 'http://10.0.0.1/v1'), ('endpoint', 'http://2130706433/'), ('endpoint', 'http://0x7f.1/'),
	('endpoint', 'https://example.com:0/'), ('endpoint', ''), ('model', ''),
	('paths', '0'), ('paths', '26'), ('paths', '2.5'), ('paths', 'many'), ('paths', '0x5'), ('paths', ''),
	('temperature', '-0.1'), ('temperature', '2.1'), ('temperature', 'nan'), ('temperature', 'inf'), ('temperature', '1e999'),
	('max_tokens', '0'), ('timeout_ms', '99'), ('timeout_ms', '600001'), ('connect_timeout_ms', '-1'),
	('min_share', '0'), ('min_share', '1.01'), ('max_attempts', '0'), ('max_attempts', '21')) AS v (option, value);
SELECT throws_ok(pg_temp.server($$json_mode 'maybe'$$), '42601', NULL, 'json_mode maybe is refused');
SELECT matches(pg_temp.hint_of(pg_temp.server($$paths '0'$$)), 'whole number between 1 and 25', 'a range is told');
SELECT lives_ok($$CREATE SERVER tap_a FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'https://api.example.com/v1', model 'm',
	paths '25', temperature '0', max_tokens '1', timeout_ms '100', connect_timeout_ms '100', min_share '1', max_attempts '1', json_mode 'on')$$,
	'a full set of options is accepted');
SELECT lives_ok($$CREATE SERVER tap_local FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:1/v1', model 'm')$$,
	'plain http to this machine is accepted');
SET serm.allow_http = on;
SELECT lives_ok(pg_temp.server($$endpoint 'http://judge.example.com/v1'$$), 'plain http elsewhere, where a superuser allows it');
RESET serm.allow_http;
SELECT throws_ok($$ALTER SERVER tap_a OPTIONS (SET paths '99')$$, '22023', NULL, 'ALTER SERVER is checked, too');
SELECT throws_ok($$CREATE FOREIGN DATA WRAPPER tap_wrapper VALIDATOR serm._agent_validator OPTIONS (a '1')$$, 'HV00D', NULL,
	'a wrapper has no options');
SELECT throws_ok($$SET serm.allow_cidr = '10.0.0.0/8, nonsense'$$, '22023', NULL, 'ranges are checked');
SELECT lives_ok($$SET LOCAL serm.allow_cidr = '10.0.0.0/8, fd00::/8'$$, 'ranges are accepted');

-- --- user mappings
SELECT throws_ok($$CREATE USER MAPPING FOR PUBLIC SERVER tap_a OPTIONS (apikey 'x')$$, 'HV00D', NULL, 'an unknown mapping option');
SELECT throws_ok($$CREATE USER MAPPING FOR PUBLIC SERVER tap_a OPTIONS (api_key '')$$, '22023', NULL, 'an empty key');
SELECT throws_ok(E'CREATE USER MAPPING FOR PUBLIC SERVER tap_a OPTIONS (api_key E''a\\r\\nX: y'')', '22023', NULL,
	'a key that would end its header');
SELECT throws_ok($$CREATE USER MAPPING FOR PUBLIC SERVER tap_a OPTIONS (api_key 'a', api_key_env 'B')$$, '22023', NULL, 'two keys');
CREATE ROLE tap_owner;
GRANT USAGE ON FOREIGN SERVER tap_a TO tap_owner;
SET ROLE tap_owner;
SELECT throws_ok($$CREATE USER MAPPING FOR CURRENT_USER SERVER tap_a OPTIONS (api_key_file '/etc/passwd')$$, '42501', NULL,
	'files are for superusers');
SELECT throws_ok($$CREATE USER MAPPING FOR CURRENT_USER SERVER tap_a OPTIONS (api_key_env 'HOME')$$, '42501', NULL,
	'variables are for superusers');
SELECT lives_ok($$CREATE USER MAPPING FOR CURRENT_USER SERVER tap_a OPTIONS (api_key 'sk-1')$$, 'a key of one''s own is not');
RESET ROLE;

-- --- agents
SELECT serm.create_model('tap', options => '{"rule": "unanimous", "gold_rate": 0}');
CREATE FUNCTION judge_int(query text, doc text) RETURNS integer LANGUAGE sql IMMUTABLE AS
	$$SELECT CASE WHEN doc LIKE '%' || query || '%' THEN 3 ELSE 0 END$$;
CREATE FUNCTION judge_row(query text, doc text, OUT rationale text, OUT grade bigint) LANGUAGE sql STABLE AS
	$$SELECT 'it says ' || doc, CASE WHEN doc LIKE '%' || query || '%' THEN 3 WHEN doc LIKE 'half%' THEN 1 ELSE 0 END$$;
CREATE FUNCTION judge_table(query text, doc text) RETURNS TABLE (grade smallint, rationale text) LANGUAGE sql AS
	$$SELECT 2::smallint, 'two'$$;
CREATE FUNCTION judge_record(query text, doc text) RETURNS record LANGUAGE sql AS $$SELECT 1, 'one'::text$$;
CREATE FUNCTION not_text(query text, doc integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION not_two(query text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION not_grade(query text, doc text) RETURNS text LANGUAGE sql AS $$SELECT 'good'$$;
CREATE FUNCTION not_named(query text, doc text, OUT label integer, OUT why text) LANGUAGE sql AS $$SELECT 1, 'x'$$;
CREATE FUNCTION not_reason(query text, doc text, OUT grade integer, OUT rationale integer) LANGUAGE sql AS 'SELECT 1, 1';
CREATE FUNCTION not_real(query text, doc text, OUT grade real, OUT rationale text) LANGUAGE sql AS $$SELECT 1::real, 'x'$$;
CREATE PROCEDURE not_function(query text, doc text) LANGUAGE sql AS 'SELECT 1';

SELECT throws_ok(format('SELECT serm.add_agent(''tap'', %L::regprocedure)', f), code, NULL, f || ' is no judge')
  FROM (VALUES ('not_text(text,integer)', '42883'), ('not_two(text)', '42883'), ('not_grade(text,text)', '42804'),
	('not_named(text,text)', '42804'), ('not_reason(text,text)', '42804'), ('not_real(text,text)', '42804'),
	('not_function(text,text)', '42809')) AS v (f, code);
SELECT matches(pg_temp.hint_of($$SELECT serm.add_agent('tap', 'not_grade(text,text)'::regprocedure)$$),
	'f\(query text, doc text\).*grade integer and rationale text', 'the hint says what a judge is');
SELECT throws_ok($$SELECT serm.add_agent('tap', 'nowhere')$$, '42704', NULL, 'an unknown server');
SELECT throws_ok($$SELECT serm.add_agent('nowhere', 'tap_a')$$, '42704', NULL, 'an unknown model');
CREATE FOREIGN DATA WRAPPER tap_other;
CREATE SERVER tap_foreign FOREIGN DATA WRAPPER tap_other;
SELECT throws_ok($$SELECT serm.add_agent('tap', 'tap_foreign')$$, '42809', NULL, 'a server of another wrapper');
SELECT throws_ok($$SELECT serm.add_agent('tap', 'tap_a', '{"path": 3}')$$, '22023', NULL, 'an unknown agent option');
SELECT throws_ok($$SELECT serm.add_agent('tap', 'tap_a', '{"weight": 0}')$$, '22023', NULL, 'a weight of nothing');
SELECT throws_ok($$SELECT serm.add_agent('tap', 'judge_int(text,text)'::regprocedure, '{"paths": 3}')$$, '22023', NULL,
	'several paths of a judge that always says the same');
SELECT lives_ok($$SELECT serm.add_agent('tap', 'judge_int(text,text)'::regprocedure)$$, 'a judge that returns an integer');
SELECT lives_ok($$SELECT serm.add_agent('tap', 'judge_row(text,text)'::regprocedure, '{"weight": 2}')$$, 'a judge that returns a row');
SELECT throws_ok($$SELECT serm.add_agent('tap', 'judge_int(text,text)'::regprocedure)$$, '42710', NULL, 'not twice');
SELECT lives_ok($$SELECT serm.add_agent('tap', 'tap_local')$$, 'a server');
SELECT results_eq($$SELECT name, server::text COLLATE "default", judge, weight FROM serm.agent WHERE model = 'tap' ORDER BY name$$,
	$$VALUES ('judge_int', NULL, 'public.judge_int(text,text)', 1::real), ('judge_row', NULL, 'public.judge_row(text,text)', 2),
		('tap_local', 'tap_local', NULL, 1)$$, 'the agents of the model');
SELECT lives_ok($$SELECT serm.remove_agent('tap', 'tap_local')$$, 'an agent is removed');
SELECT throws_ok($$SELECT serm.remove_agent('tap', 'tap_local')$$, '42704', NULL, 'once');
SELECT is(pg_temp.hint_of($$SELECT serm.remove_agent('tap', 'tap_local')$$), 'Its agents are: judge_int, judge_row.', 'the hint lists the others');

-- --- annotating with judges
SELECT throws_ok($$CALL serm.annotate('tap')$$, '2D000', NULL, 'not inside a function');
SELECT serm.create_model('tap_empty');
INSERT INTO serm.sample (model, query, doc_id, doc, priority, round) VALUES
	('tap', 'blue', '1', 'a blue chair', 1, 0), ('tap', 'red', '2', 'a blue chair', 2, 0), ('tap', 'red', '3', 'half red', 3, 0),
	('tap', 'green', '4', 'half and half', 4, 7);
INSERT INTO serm.round (model, round, phase) VALUES ('tap', 7, 'annotating');
\set VERBOSITY sqlstate
\set ON_ERROR_STOP 0
CALL serm.annotate('tap_empty');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'a model without agents');
CALL serm.annotate('nowhere');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'an unknown model');
CALL serm.annotate('tap', true, '{"limits": 3}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', 'an unknown option');
CALL serm.annotate('tap', options => '{"limit": 1}');
SELECT results_eq($$SELECT doc_id, state FROM serm.sample WHERE model = 'tap' ORDER BY doc_id$$,
	$$VALUES ('1', 'waiting'), ('2', 'waiting'), ('3', 'waiting'), ('4', 'disputed')$$, 'a limit takes the most important first');
CALL serm.annotate('tap');
SELECT results_eq($$SELECT doc_id, state, grade FROM serm.sample WHERE model = 'tap' ORDER BY doc_id$$,
	$$VALUES ('1', 'agreed', 3::real), ('2', 'agreed', 0), ('3', 'agreed', 3), ('4', 'disputed', NULL)$$, 'agreement and dispute');
SELECT results_eq($$SELECT query, doc_id, grade, source, judge, rationale, target IS NULL FROM serm.judgment WHERE model = 'tap' ORDER BY doc_id$$,
	$$VALUES ('blue', '1', 3::real, 'agents', 'judge_int, judge_row', 'judge_row: it says a blue chair', true),
		('red', '2', 0, 'agents', 'judge_int, judge_row', 'judge_row: it says a blue chair', true),
		('red', '3', 3, 'agents', 'judge_int, judge_row', 'judge_row: it says half red', true)$$,
	'agreed samples become judgments');
SELECT results_eq($$SELECT sample = (SELECT id FROM serm.sample WHERE doc_id = '4'), query, round, votes::text, rationales FROM serm.review_queue WHERE model = 'tap'$$,
	$$VALUES (true, 'green', 7, '{"judge_int": ["0"], "judge_row": ["1"]}', 'judge_row: it says half and half')$$,
	'a disputed sample waits with its votes');
CREATE TEMP TABLE before AS SELECT (SELECT count(*) FROM serm.vote) AS votes, (SELECT count(*) FROM serm.judgment) AS judgments;
CALL serm.annotate('tap');
SELECT results_eq($$SELECT (SELECT count(*) FROM serm.vote), (SELECT count(*) FROM serm.judgment)$$, 'SELECT votes, judgments FROM before',
	'annotating again changes nothing');
SELECT results_eq($$SELECT waiting, running, done, disputed, failed, tasks, votes, errors, tokens::bigint FROM serm.annotation_progress WHERE model = 'tap'$$,
	$$VALUES (0::bigint, 0::bigint, 3::bigint, 1::bigint, 0::bigint, 0::bigint, 8::bigint, 0::bigint, 0::bigint)$$, 'progress counts');
SELECT results_eq($$SELECT agent, active, votes, errors, abstentions, agreement FROM serm.stat_agent WHERE model = 'tap' ORDER BY agent$$,
	$$VALUES ('judge_int', true, 4::bigint, 0::bigint, 0::bigint, 1::double precision), ('judge_row', true, 4, 0, 0, 1)$$, 'statistics of agents');

-- --- settling
SELECT throws_ok($$SELECT serm.settle(0, 1)$$, '42704', NULL, 'an unknown sample');
SELECT throws_ok(format('SELECT serm.settle(%s, %L)', id, grade), '22023', NULL, 'grade ' || grade || ' is refused')
  FROM serm.review_queue v, (SELECT sample AS id FROM serm.review_queue WHERE model = 'tap') s, (VALUES ('4'), ('-0.5'), ('NaN'), ('Infinity')) g (grade);
SELECT throws_ok($$SELECT serm.settle(NULL, 1)$$, '22004', NULL, 'no sample');
SELECT throws_ok($$SELECT serm.settle(1, NULL)$$, '22004', NULL, 'no grade');
SELECT lives_ok($$SELECT serm.settle(sample, 1.5, 'between the two') FROM serm.review_queue WHERE model = 'tap'$$, 'a person settles');
SELECT is_empty($$SELECT 1 FROM serm.review_queue WHERE model = 'tap'$$, 'and the queue is empty');
SELECT results_eq($$SELECT grade, source, judge, rationale, round FROM serm.judgment WHERE model = 'tap' AND doc_id = '4'$$,
	$$VALUES (1.5::real, 'human', current_user::text COLLATE "default", 'between the two', 7)$$, 'a judgment of that person');
SELECT results_eq($$SELECT state, grade FROM serm.sample WHERE doc_id = '4'$$, $$VALUES ('settled', 1.5::real)$$, 'the sample is closed');
SELECT lives_ok($$SELECT serm.settle(id, 2) FROM serm.sample WHERE doc_id = '1' AND model = 'tap'$$, 'a person overrules the agents');
SELECT is((SELECT grade FROM serm.current_judgment WHERE model = 'tap' AND doc_id = '1'), 2::real, 'and is believed');

-- --- transaction ids: one for each batch of votes, none for each vote
SELECT serm.create_model('tap_many', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_many', 'judge_int(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_many', 'q', i, 'q ' || i FROM generate_series(1, 300) AS i;
CREATE TEMP TABLE xid AS SELECT pg_current_xact_id()::text::bigint AS first;
CALL serm.annotate('tap_many');
SELECT cmp_ok(pg_current_xact_id()::text::bigint - first, '<', 100::bigint, 'far fewer than votes') FROM xid;
SELECT is(count(*), 300::bigint, 'of which there are so many') FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'tap_many' AND v.grade = 3;
SELECT serm.drop_model('tap_many');

-- --- a judge whose function is gone
SELECT serm.create_model('tap_gone', options => '{"rule": "unanimous", "gold_rate": 0}');
CREATE FUNCTION judge_gone(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
SELECT serm.add_agent('tap_gone', 'judge_gone(text,text)'::regprocedure, '{"name": "goner"}');
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_gone', 'q', '1', 'd');
ALTER FUNCTION judge_gone(text, text) RENAME TO judge_away;
CALL serm.annotate('tap_gone');
SELECT is(:'LAST_ERROR_SQLSTATE' || ' ' || :'LAST_ERROR_MESSAGE', '42883 function public.judge_gone(text,text) of agent "goner" of model "tap_gone" does not exist any more',
	'the agent is named');
ALTER FUNCTION judge_away(text, text) RENAME TO judge_gone;
CALL serm.annotate('tap_gone');
SELECT results_eq($$SELECT state, grade FROM serm.sample WHERE model = 'tap_gone'$$, $$VALUES ('agreed', 1::real)$$, 'and nothing is lost when it is back');
SELECT serm.drop_model('tap_gone');

-- --- judges that fail
CREATE TABLE judged (doc text);
CREATE FUNCTION judge_error(query text, doc text) RETURNS integer LANGUAGE plpgsql AS
	$$BEGIN INSERT INTO judged VALUES (doc); RAISE EXCEPTION 'no idea about %', doc; END$$;
CREATE FUNCTION judge_high(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT 4';
CREATE FUNCTION judge_null(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT NULL::integer';
CREATE FUNCTION judge_none(query text, doc text) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1 WHERE false';
CREATE FUNCTION judge_many(query text, doc text) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1 UNION ALL SELECT 2';
SELECT serm.create_model('tap_failing', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_failing', p::regprocedure)
  FROM unnest('{judge_high,judge_null,judge_none,judge_many,judge_record,judge_table}'::text[]) AS n, LATERAL (SELECT n || '(text,text)') AS v (p);
SELECT serm.add_agent('tap_failing', 'judge_error(text,text)'::regprocedure, '{"paths": 2, "name": "broken"}');
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_failing', 'q', '1', 'document one');
CALL serm.annotate('tap_failing');
SELECT results_eq($$SELECT v.agent, v.path, v.grade, v.error FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'tap_failing' ORDER BY 1, 2$$,
	$$VALUES ('broken', 1, NULL::smallint, 'P0001: no idea about document one'), ('broken', 2, NULL, 'P0001: no idea about document one'),
		('judge_high', 1, NULL, 'grade 4 is outside 0 to 3'), ('judge_many', 1, NULL, '21000: the function returned more than one row'),
		('judge_none', 1, NULL, '21000: the function returned no row'), ('judge_null', 1, NULL, 'the judge returned no grade'),
		('judge_record', 1, 1::smallint, NULL), ('judge_table', 1, 2::smallint, NULL)$$, 'a failure is a vote without a grade');
SELECT is_empty('SELECT * FROM judged', 'what a failed judge wrote is undone');
SELECT is((SELECT state FROM serm.sample WHERE model = 'tap_failing'), 'disputed', 'who fails does not agree');
SELECT results_eq($$SELECT errors, abstentions, agreement FROM serm.stat_agent WHERE agent = 'broken'$$,
	$$VALUES (2::bigint, 1::bigint, NULL::double precision)$$, 'failures are counted');

SELECT serm.create_model('tap_all_fail', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_all_fail', 'judge_error(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_all_fail', 'q', '1', 'document one');
CALL serm.annotate('tap_all_fail');
SELECT is((SELECT state FROM serm.sample WHERE model = 'tap_all_fail'), 'failed', 'nobody answered: failed');
CREATE OR REPLACE FUNCTION judge_error(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT 2';
CALL serm.annotate('tap_all_fail');
SELECT is((SELECT state FROM serm.sample WHERE model = 'tap_all_fail'), 'failed', 'and stays so');
CALL serm.annotate('tap_all_fail', options => '{"retry_failed": true}');
SELECT results_eq($$SELECT state, grade FROM serm.sample WHERE model = 'tap_all_fail'$$, $$VALUES ('agreed', 2::real)$$, 'until it is tried again');

-- --- quorum: a rule of the model
SELECT serm.create_model('tap_quorum', options => '{"rule": "quorum", "quorum": 0.6, "gold_rate": 0}');
SELECT serm.add_agent('tap_quorum', 'judge_int(text,text)'::regprocedure), serm.add_agent('tap_quorum', 'judge_row(text,text)'::regprocedure),
	serm.add_agent('tap_quorum', 'judge_table(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_quorum', 'blue', '1', 'blue'), ('tap_quorum', 'red', '2', 'half');
CALL serm.annotate('tap_quorum');
SELECT results_eq($$SELECT doc_id, state, grade FROM serm.sample WHERE model = 'tap_quorum' ORDER BY 1$$,
	$$VALUES ('1', 'agreed', 3::real), ('2', 'disputed', NULL)$$, 'two of three are enough');
SELECT is((SELECT rationale FROM serm.judgment WHERE model = 'tap_quorum'), 'judge_row: it says blue', 'who disagrees has no say in the rationale');

-- --- rights: a judge runs as its owner, or not at all
CREATE ROLE tap_operator;
CREATE ROLE tap_stranger;
GRANT CREATE ON SCHEMA public TO tap_owner, tap_stranger;
SELECT serm.grant_access('tap_operator', 'operate');
SELECT serm.grant_access('tap_owner', 'operate');
SET ROLE tap_owner;
CREATE FUNCTION judge_owner(query text, doc text, OUT grade integer, OUT rationale text) LANGUAGE sql AS $$SELECT 1, current_user::text$$;
RESET ROLE;
SET ROLE tap_stranger;
CREATE FUNCTION judge_trap(query text, doc text) RETURNS integer LANGUAGE plpgsql AS
	$$BEGIN EXECUTE 'ALTER ROLE tap_stranger SUPERUSER'; RETURN 3; END$$;
RESET ROLE;
SELECT serm.create_model('tap_rights', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_rights', 'judge_owner(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_rights', 'q', '1', 'd');
SET ROLE tap_operator;
CALL serm.annotate('tap_rights');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42501', 'a judge of somebody else does not run with one''s own rights');
RESET ROLE;
SELECT is((SELECT state FROM serm.sample WHERE model = 'tap_rights'), 'waiting', 'and nothing was promised to it');
GRANT tap_owner TO tap_operator;
SET ROLE tap_operator;
CALL serm.annotate('tap_rights');
RESET ROLE;
SELECT is((SELECT rationale FROM serm.vote WHERE agent = 'judge_owner'), 'tap_owner', 'but with those of its owner');
SELECT serm.create_model('tap_trap', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_trap', 'judge_trap(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_trap', 'q', '1', 'd');
CALL serm.annotate('tap_trap');
SELECT is((SELECT rolsuper FROM pg_roles WHERE rolname = 'tap_stranger'), false, 'a superuser lends a judge no rights');
SELECT matches((SELECT error FROM serm.vote WHERE agent = 'judge_trap'), '^42501', 'the trap is an error');

-- --- a worker asks as the role in requested_by: nobody may write down another's name there
SET ROLE tap_operator;
SELECT throws_ok($$INSERT INTO serm.task (model, sample, agent, path, requested_by)
	SELECT 'tap', min(id), 'judge_int', 9, o.oid FROM serm.sample, pg_roles o WHERE model = 'tap' AND o.rolsuper GROUP BY o.oid LIMIT 1$$,
	'23514', NULL, 'nobody asks in the name of a superuser');
SELECT lives_ok($$INSERT INTO serm.task (model, sample, agent, path, requested_by)
	SELECT 'tap', min(id), 'judge_int', 9, 'tap_operator'::regrole FROM serm.sample WHERE model = 'tap'$$, 'but in one''s own');
SELECT throws_ok($$UPDATE serm.task SET requested_by = 10 WHERE model = 'tap'$$, '23514', NULL, 'nor by an update');
RESET ROLE;
DELETE FROM serm.task WHERE model = 'tap';

-- --- what an extension offers its callers is no judge and no evidence: who names it may have less rights than who calls
CREATE SCHEMA tap_ext;
CREATE EXTENSION dblink SCHEMA tap_ext;
SELECT throws_ok(format('SELECT serm.add_agent(''tap'', %L::regprocedure)', f), '42809', NULL, f || ' is not a judge')
  FROM unnest('{"tap_ext.dblink_exec(text,text)","pg_catalog.strpos(text,text)"}'::text[]) AS f;

-- --- an agent that changes its nature under a lease, or goes
SELECT serm.create_model('tap_change', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_change', 'tap_local', '{"name": "changing", "paths": 1}'), serm.add_agent('tap_change', 'judge_int(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc, state) VALUES ('tap_change', 'q', '1', 'q', 'annotating');
BEGIN;
INSERT INTO serm.task (model, sample, agent, path, requested_by)
	SELECT 'tap_change', id, 'changing', 1, current_user::regrole FROM serm.sample WHERE model = 'tap_change';
SELECT is((SELECT count(*) FROM serm._claim()), 1::bigint, 'a task is leased');
UPDATE serm.agent SET server = NULL, judge = 'public.judge_table(text,text)' WHERE model = 'tap_change' AND name = 'changing';
COMMIT;
SET statement_timeout = '20s';
CALL serm.annotate('tap_change');
RESET statement_timeout;
SELECT is((SELECT grade FROM serm.vote WHERE agent = 'changing'), 2::smallint, 'and answered by the judge that its agent has become');
INSERT INTO serm.sample (model, query, doc_id, doc, state) VALUES ('tap_change', 'q', '2', 'q', 'annotating');
INSERT INTO serm.task (model, sample, agent, path, requested_by)
	SELECT 'tap_change', id, 'changing', 1, current_user::regrole FROM serm.sample WHERE model = 'tap_change' AND doc_id = '2';
DELETE FROM serm.agent WHERE model = 'tap_change' AND name = 'changing';
SELECT is_empty($$SELECT 1 FROM serm.task WHERE model = 'tap_change'$$, 'an agent takes its tasks along');
SELECT throws_ok($$INSERT INTO serm.task (model, sample, agent, path, requested_by)
	SELECT 'tap_change', id, 'changing', 1, current_user::regrole FROM serm.sample WHERE model = 'tap_change' AND doc_id = '2'$$,
	'23503', NULL, 'and nobody can owe an answer without being an agent');

-- --- judges see the caller's search_path, serm does not
CREATE SCHEMA tap_words;
CREATE FUNCTION tap_words.grade_for(text) RETURNS integer LANGUAGE sql AS 'SELECT 2';
SET search_path = tap_words, public;
CREATE FUNCTION public.judge_path(query text, doc text) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN grade_for(doc); END';
CREATE FUNCTION tap_words.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'captured'; END$$;
SET search_path = tap_words, pg_catalog, public;
SELECT serm.create_model('tap_path', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_path', 'judge_path(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_path', 'q', '1', 'd');
CALL serm.annotate('tap_path');
SET search_path = public;
SELECT is((SELECT grade FROM serm.sample WHERE model = 'tap_path'), 2::real, 'a judge finds what its author meant');
SELECT is(serm._finish(1, 1, 1), false, 'finishing a task that is not there stores nothing');

-- --- a vote that is there already stays, and its task goes
BEGIN;
SELECT serm.add_agent('tap_change', 'tap_local', '{"name": "twice", "paths": 2}');
INSERT INTO serm.sample (model, query, doc_id, doc, state) VALUES ('tap_change', 'q', '3', 'q', 'annotating');
INSERT INTO serm.task (model, sample, agent, path, requested_by)
	SELECT 'tap_change', id, 'twice', path, current_user::regrole FROM serm.sample, generate_series(1, 2) AS path WHERE model = 'tap_change' AND doc_id = '3';
INSERT INTO serm.vote (sample, agent, path, grade) SELECT sample, agent, path, 3 FROM serm.task WHERE agent = 'twice' AND path = 1;
CREATE TEMP TABLE tap_leases AS SELECT * FROM serm._claim(100);
SELECT is((SELECT count(*) FROM tap_leases WHERE agent = 'twice'), 2::bigint, 'two tasks are leased');
SELECT is((SELECT array_agg(serm._finish(task, token, 1)) FROM tap_leases WHERE agent = 'twice'), '{t,t}', 'and finished');
SELECT is((SELECT array_agg(grade ORDER BY path) FROM serm.vote WHERE agent = 'twice'), '{3,1}', 'what was said first stays said');
SELECT is_empty($$SELECT 1 FROM serm.task WHERE agent = 'twice'$$, 'and nothing is owed any more');
ROLLBACK;

-- --- encodings of the queue: hostile text goes through as data
SELECT serm.create_model('tap_text', options => '{"rule": "unanimous", "gold_rate": 0}');
SELECT serm.add_agent('tap_text', 'judge_row(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES
	('tap_text', E'\'; DROP TABLE serm.vote; --', '%n%s', E'%n%s ' || repeat('ä', 5000)), ('tap_text', '', '', '');
CALL serm.annotate('tap_text');
SELECT results_eq($$SELECT v.grade, char_length(v.rationale) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'tap_text' ORDER BY 1$$,
	$$VALUES (0::smallint, 2000), (3::smallint, 8)$$, 'rationales are clipped');
SELECT results_eq($$SELECT query = '', state FROM serm.sample WHERE model = 'tap_text' ORDER BY 1$$,
	$$VALUES (false, 'agreed'), (true, 'failed')$$, 'a sample that cannot become a judgment holds up no other');

-- --- limits and prices of servers, and what annotating would take
SELECT throws_ok(format('CREATE SERVER tap_worse FOREIGN DATA WRAPPER serm_agent OPTIONS (%s %L)', o.option, o.value), '22023', NULL, o.option || ' ' || o.value || ' is refused')
  FROM (VALUES ('requests_per_minute', '0'), ('tokens_per_minute', '0.5'), ('outage_s', '0'), ('price_prompt', '-1'), ('price_completion', 'free'),
	('requests_per_minute', 'many')) AS o(option, value);
SELECT serm.create_model('estimated');
CREATE SERVER tap_priced FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:9/v1', model 'x', paths '4',
	requests_per_minute '100', tokens_per_minute '6000', price_prompt '2.5', price_completion '10', max_tokens '200');
CREATE FUNCTION public.tap_free(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
SELECT serm.add_agent('estimated', 'tap_priced');
SELECT serm.add_agent('estimated', 'tap_free(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'estimated', repeat('q', 40), i::text, repeat('d', 360) FROM generate_series(1, 50) AS i;
SELECT results_eq($$SELECT agent, samples, requests, tokens, cost, seconds FROM serm.estimate_annotation('estimated')$$,
	$$VALUES ('tap_free', 50::bigint, 50::bigint, 0::bigint, 0::numeric, NULL::float8),
	('tap_priced', 50, 200, (200 * 510)::bigint, round(200 * (450 * 2.5 + 60 * 10) / 1000000, 6), 1020)$$,
	'requests, tokens, cost and time, of judges and of servers');
SELECT ok(cost_most > cost, 'what it may cost at most is more') FROM serm.estimate_annotation('estimated') WHERE agent = 'tap_priced';
INSERT INTO serm.sample (model, query, doc_id, doc, state) SELECT 'estimated', 'past', 'p' || i, 'd', 'agreed' FROM generate_series(1, 20) AS i;
INSERT INTO serm.vote (sample, agent, path, grade, tokens, cost, latency_ms) SELECT id, 'tap_priced', 1, 1, 1000, 0.01, 600 FROM serm.sample WHERE query = 'past';
SELECT is((SELECT (tokens, cost) FROM serm.estimate_annotation('estimated') WHERE agent = 'tap_priced'), (200000::bigint, 2.000000),
	'once there are twenty votes they tell');
SELECT throws_ok($$SELECT * FROM serm.estimate_annotation('nowhere')$$, '42704', NULL, 'an unknown model is an error');
SELECT ok(serm._monotonic_ms() <= serm._monotonic_ms(), 'the clock of servers runs forward');
SELECT is_empty('SELECT * FROM serm.stat_server', 'no server is limited that nobody asked');
SELECT throws_ok($$INSERT INTO serm.spending VALUES ('estimated', 0, '2026-01-01', -1, 1)$$, '23514', NULL, 'nobody earns money by asking');
SELECT is(serm.drop_model('estimated')::text, '', 'models with spending can be dropped');

-- --- what was reserved for a request on its way counts as spent, however its task ends
SELECT serm.create_model('tap_money', options => '{"rule": "unanimous", "gold_rate": 0}');
CREATE SERVER tap_keyless FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:1/v1', model 'm', paths '1', price_prompt '2');
CREATE USER MAPPING FOR PUBLIC SERVER tap_keyless OPTIONS (api_key_env 'SERM_TAP_NO_SUCH_VARIABLE');
SELECT serm.add_agent('tap_money', 'tap_keyless', jsonb_build_object('name', a)) FROM unnest('{removed,fool,keyless}'::text[]) AS a;
INSERT INTO serm.sample (model, query, doc_id, doc, state) SELECT 'tap_money', 'q', 'd' || i, 'd', 'annotating' FROM generate_series(1, 4) AS i;
INSERT INTO serm.vote (sample, agent, path, error, canary) SELECT id, 'fool', 1, 'obeyed', true FROM serm.sample WHERE model = 'tap_money' AND doc_id <> 'd4';
CREATE ROLE tap_asker LOGIN;
INSERT INTO serm.task (model, sample, agent, path, attempt, token, lease_until, requested_by, reserved)
	SELECT model, id, a.name, 1, 1, 1, now() + interval '10 minutes', CASE a.name WHEN 'fool' THEN 'tap_asker' ELSE current_user END::regrole, a.most
	  FROM serm.sample, (VALUES ('removed', 1), ('fool', 4)) AS a (name, most) WHERE model = 'tap_money' AND doc_id = 'd4';
SELECT serm.remove_agent('tap_money', 'removed');
SELECT is((SELECT sum(spent) FROM serm.spending WHERE model = 'tap_money'), 1::numeric, 'of an agent that is removed');
CALL serm.annotate('tap_money', false);
SELECT is((SELECT (a.active, (SELECT sum(spent) FROM serm.spending WHERE model = 'tap_money')) FROM serm.agent a
	WHERE a.model = 'tap_money' AND a.name = 'fool'), (false, 5::numeric), 'of one that is suspended');
UPDATE serm.sample SET state = 'annotating' WHERE model = 'tap_money' AND doc_id = 'd4';
INSERT INTO serm.task (model, sample, agent, path, attempt, requested_by, reserved)
	SELECT model, id, 'keyless', 1, 1, current_user::regrole, 16 FROM serm.sample WHERE model = 'tap_money' AND doc_id = 'd4';
CALL serm.annotate('tap_money');
SELECT is((SELECT (v.error LIKE '%api_key_env%', (SELECT sum(spent) FROM serm.spending WHERE model = 'tap_money')) FROM serm.vote v
	WHERE v.agent = 'keyless'), (true, 21::numeric), 'of a dead worker''s task that nobody can ask for again');
CREATE ROLE tap_gone;
UPDATE serm.sample SET state = 'annotating' WHERE model = 'tap_money' AND doc_id = 'd4';
INSERT INTO serm.task (model, sample, agent, path, attempt, token, lease_until, requested_by, reserved)
	SELECT model, id, 'keyless', 2, 1, 1, now() + interval '10 minutes', 'tap_gone'::regrole, 32 FROM serm.sample
	 WHERE model = 'tap_money' AND doc_id = 'd4';
SET statement_timeout = '20s';
CALL serm.annotate('tap_money');
RESET statement_timeout;
SELECT is((SELECT (count(v), (SELECT sum(spent) FROM serm.spending WHERE model = 'tap_money')) FROM serm.vote v
	WHERE v.agent = 'keyless' AND v.path = 2), (1::bigint, 53::numeric), 'of one whose role is gone, too: its lease holds up nobody');
SELECT serm.drop_model('tap_money');

SELECT * FROM finish();
