-- What agents are asked: prompts with examples, questions that compare, and what they are estimated to take.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = error;
SET search_path = public;

SELECT plan(38);

CREATE SERVER tap_asked FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:1/v1', model 'm', paths '4', price_prompt '1');
CREATE FUNCTION tap_judge(query text, doc text) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 1';
SELECT serm.create_model('tap_form', options => '{"gold_rate": 0.1, "extra_paths": 2}');

-- --- options
SELECT throws_ok($$SELECT serm.add_agent('tap_form', 'tap_asked', '{"form": "essay"}')$$, '22023', NULL, 'an unknown form');
SELECT throws_ok($$SELECT serm.add_agent('tap_form', 'tap_asked', '{"form": "list", "documents": 11}')$$, '22023', NULL, 'eleven documents');
SELECT throws_ok($$SELECT serm.add_agent('tap_form', 'tap_asked', '{"form": "list", "documents": 1}')$$, '22023', NULL, 'a list of one');
SELECT throws_ok($$SELECT serm.add_agent('tap_form', 'tap_asked', '{"form": "pair", "documents": 3}')$$, '22023', NULL, 'a pair of three');
SELECT throws_ok($$SELECT serm.add_agent('tap_form', 'tap_asked', '{"examples": 21}')$$, '22023', NULL, 'too many examples');
SELECT throws_ok($$SELECT serm.add_agent('tap_form', 'tap_judge(text,text)'::regprocedure, '{"form": "pair"}')$$, '22023', NULL, 'a function that should compare');
SELECT throws_ok($$CREATE SERVER x FOREIGN DATA WRAPPER serm_agent OPTIONS (canary '1.5')$$, '22023', NULL, 'more canaries than requests');
SELECT lives_ok($$CREATE SERVER x FOREIGN DATA WRAPPER serm_agent OPTIONS (canary '0')$$, 'no canaries');

-- --- prompts
SELECT throws_ok($$SELECT serm.add_prompt('nowhere')$$, '42704', NULL, 'a prompt of an unknown model');
SELECT throws_ok($$SELECT serm.add_prompt('tap_form', '')$$, '22023', NULL, 'empty instructions');
SELECT throws_ok($$SELECT serm.add_prompt('tap_form', options => '{"shots": 3}')$$, '22023', NULL, 'an unknown option');
SELECT throws_ok($$SELECT serm.add_prompt('tap_form', options => '{"examples": 3, "form": "pair"}')$$, '22023', NULL, 'examples of comparisons');
SELECT is(serm.add_prompt('tap_form', 'Judge strictly.'), 1, 'instructions alone');
SELECT is(serm.add_prompt('tap_form', options => '{"examples": 3}'), 2, 'examples, though there is nothing to draw from');
SELECT results_eq($$SELECT version, instructions, form, examples FROM serm.prompt WHERE model = 'tap_form' ORDER BY 1$$,
	$$VALUES (1, 'Judge strictly.', 'absolute', '[]'::jsonb), (2, NULL, 'absolute', '[]')$$, 'are what they were said to be');
SELECT is(serm.add_prompt('tap_form', 'Compare strictly.', '{"form": "pair"}'), 3, 'a prompt for another form');
SELECT throws_ok($$INSERT INTO serm.prompt (model, version, form) VALUES ('tap_form', 9, 'essay')$$, '23514', NULL, 'the table knows the forms, too');

-- --- whom a sample is compared with
INSERT INTO serm.sample (id, model, query, doc_id, doc) OVERRIDING SYSTEM VALUE
	SELECT 9000 + i, 'tap_form', CASE WHEN i < 7 THEN 'blue pillow' ELSE 'alone' END, i::text, 'document ' || i FROM generate_series(1, 7) AS i;
SELECT is(serm._compared(9007, 1, 2), NULL, 'alone with its query it is compared with nothing');
SELECT is((SELECT array_agg(c ORDER BY c) FROM unnest(serm._compared(9001, 1, 2)) c), '{9001,9002}', 'a pair');
SELECT is(serm._compared(9001, 2, 2), ARRAY[(serm._compared(9001, 1, 2))[2], (serm._compared(9001, 1, 2))[1]], 'and the other way round');
SELECT is((SELECT array_agg(c ORDER BY c) FROM unnest(serm._compared(9001, 3, 2)) c), '{9001,9003}', 'then with the next');
SELECT is((SELECT array_agg(c ORDER BY c) FROM unnest(serm._compared(9006, 1, 2)) c), '{9001,9006}', 'after the last comes the first');
SELECT is((SELECT array_agg(c ORDER BY c) FROM unnest(serm._compared(9005, 1, 4)) c), '{9001,9002,9005,9006}', 'a list');
SELECT is((SELECT count(DISTINCT c) FROM unnest(serm._compared(9005, 1, 10)) c), 6::bigint, 'a list of fewer than it could have');
SELECT isnt(serm._compared(9005, 1, 6), serm._compared(9005, 2, 6), 'each path has an order of its own');
SELECT is(serm._compared(9005, 2, 6), serm._compared(9005, 2, 6), 'and keeps it');
INSERT INTO serm.judgment (id, model, query, doc_id, doc, grade, source) OVERRIDING SYSTEM VALUE VALUES
	(7001, 'tap_form', 'blue pillow', 'k1', 'known', 3, 'human'), (7002, 'tap_form', 'blue pillow', 'k2', 'clicked', 1, 'clicks'),
	(7003, 'tap_form', 'blue pillow', '3', 'a sample itself', 1, 'human');
SELECT is((SELECT array_agg(c ORDER BY c) FROM unnest(serm._compared(9001, 1, 2)) c),
	CASE serm.split_of('blue pillow', 0.2::real) WHEN 'train' THEN '{-7001,9001}' ELSE '{9001,9002}' END::bigint[], 'what people have graded comes first, but for the test split');
SELECT is((SELECT count(*) FROM unnest(serm._compared(9001, 1, 10)) c WHERE c IN (-7002, -7003)), 0::bigint, 'not what clicks say, nor a sample twice');
SELECT is(serm._compared(1, 1, 2), NULL, 'a sample that is not there');

-- --- what it takes
SELECT serm.add_agent('tap_form', 'tap_asked', '{"name": "absolute"}');
SELECT serm.add_agent('tap_form', 'tap_asked', '{"name": "pair", "form": "pair"}');
SELECT serm.add_agent('tap_form', 'tap_asked', '{"name": "list", "form": "list"}');
SELECT serm.add_agent('tap_form', 'tap_judge(text,text)'::regprocedure);
-- Seven samples, and the one pair by people that is no sample, if it is of the train split; on a quarter of the seven two more paths.
SELECT results_eq($$SELECT agent, samples, requests FROM serm.estimate_annotation('tap_form')$$,
	$$SELECT a, 7 + t, (7 + t) * p + 4 FROM (VALUES ('absolute', 4), ('list', 4), ('pair', 4), ('tap_judge', 1)) AS v(a, p),
		(SELECT (serm.split_of('blue pillow', 0.2::real) = 'train')::int::bigint) AS s(t)$$, 'gold and extra paths are counted');
SELECT ok((SELECT cost FROM serm.estimate_annotation('tap_form') WHERE agent = 'pair') > (SELECT cost FROM serm.estimate_annotation('tap_form') WHERE agent = 'absolute'),
	'two documents are more than one');
SELECT ok((SELECT cost FROM serm.estimate_annotation('tap_form') WHERE agent = 'list') > (SELECT cost FROM serm.estimate_annotation('tap_form') WHERE agent = 'pair'),
	'five are more than two');
SELECT ok((SELECT bool_and(cost_most > cost) FROM serm.estimate_annotation('tap_form') WHERE agent <> 'tap_judge'), 'the most is more');
CREATE TEMP TABLE before AS SELECT * FROM serm.estimate_annotation('tap_form');
INSERT INTO serm.judgment (model, query, doc_id, doc, grade, source) SELECT 'tap_form', 'lamp ' || i, 'l', repeat('lamp ', 100), i % 4, 'import' FROM generate_series(1, 40) i;
SELECT is(serm.add_prompt('tap_form', options => '{"examples": 8}'), 4, 'eight examples');
SELECT ok(e.tokens > b.tokens + 7 * 8 * 4 * 100, 'are counted with each question') FROM before b JOIN serm.estimate_annotation('tap_form') e USING (agent) WHERE agent = 'absolute';
SELECT is(e.tokens, b.tokens, 'but not of those who compare') FROM before b JOIN serm.estimate_annotation('tap_form') e USING (agent) WHERE agent = 'pair' AND e.samples = b.samples
UNION ALL SELECT pass('gold has come to them') FROM before b JOIN serm.estimate_annotation('tap_form') e USING (agent) WHERE agent = 'pair' AND e.samples <> b.samples;
CREATE ROLE tap_asking_operator;
SELECT serm.grant_access('tap_asking_operator', 'operate');
GRANT USAGE ON FOREIGN SERVER tap_asked TO tap_asking_operator;
SET ROLE tap_asking_operator;
SELECT is((SELECT count(*) FROM serm.estimate_annotation('tap_form')), 4::bigint, 'an operator may estimate');
SELECT is(serm.add_prompt('tap_form'), 5, 'and write prompts');
RESET ROLE;

SELECT * FROM finish();
