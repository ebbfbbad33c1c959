-- Judges with levels, copies and errors of their own: how they are weighed, what becomes of gold, and who is suspended.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = error;
SET search_path = public;

SELECT plan(76);

-- --- what is planted: 600 pairs, six judges
CREATE TABLE pair AS
	SELECT 'query ' || i % 40 AS query, 'd' || i AS doc_id, 'document number ' || i AS doc, h % 1000 AS h,
		CASE WHEN h % 100 < 50 THEN 0 WHEN h % 100 < 75 THEN 1 WHEN h % 100 < 90 THEN 2 ELSE 3 END AS grade
	  FROM generate_series(1, 600) AS i, LATERAL (SELECT ('x' || substr(md5('truth' || i), 1, 7))::bit(28)::int AS h) x;
CREATE UNIQUE INDEX ON pair (doc);
-- A judge is right with a chance, else says anything; then it moves by its level half of the time.
CREATE FUNCTION planted(judge text, doc text, chance real, level integer) RETURNS integer LANGUAGE sql STABLE AS $$
	SELECT greatest(0, least(3, CASE WHEN a < chance THEN p.grade ELSE (b * 4)::int % 4 END + CASE WHEN c < 0.5 THEN level ELSE 0 END))
	  FROM public.pair p, LATERAL (SELECT ('x' || substr(md5(judge || doc), 1, 7))::bit(28)::int / 268435456.0 AS a,
		('x' || substr(md5(judge || doc), 8, 7))::bit(28)::int / 268435456.0 AS b,
		('x' || substr(md5(judge || doc), 15, 7))::bit(28)::int / 268435456.0 AS c) x WHERE p.doc = planted.doc $$;
CREATE FUNCTION good(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS 'SELECT public.planted(''good'', doc, 0.7, 0)';
CREATE FUNCTION kind(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS 'SELECT public.planted(''kind'', doc, 0.6, 1)';
CREATE FUNCTION harsh(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS 'SELECT public.planted(''harsh'', doc, 0.6, -1)';
CREATE FUNCTION twin(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS 'SELECT public.planted(''kind'', doc, 0.6, 1)';
CREATE FUNCTION guess(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS 'SELECT public.planted(''guess'', doc, 0, 0)';
CREATE FUNCTION silent(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS 'SELECT NULL::integer';

SELECT FROM serm.create_model('tap_judges', options => '{"rule": "weighted", "gold_rate": 0.2, "min_reliability": -1, "test_share": 0.2}');
SELECT serm.add_agent('tap_judges', j::regprocedure) FROM unnest('{good,kind,harsh,twin,guess}'::text[]) AS n, LATERAL (SELECT n || '(text,text)') AS v (j);
-- People have graded a quarter of the pairs; the rest waits.
INSERT INTO serm.judgment (model, query, doc_id, doc, grade) SELECT 'tap_judges', query, doc_id, doc, grade FROM pair WHERE h % 4 = 0;
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_judges', query, doc_id, doc FROM pair WHERE h % 4 <> 0;
CREATE TEMP TABLE waiting AS SELECT count(*) AS n FROM serm.sample;
CALL serm.annotate('tap_judges');

-- --- gold is slipped in, and tells about the agents only
SELECT is(count(*), (SELECT least(ceil(0.2 * n), (SELECT count(*) FROM pair WHERE h % 4 = 0 AND serm.split_of(query) = 'train')) FROM waiting)::bigint,
	'gold is slipped in at its rate') FROM serm.sample WHERE agents = '{gold}';
SELECT is(count(*) FILTER (WHERE serm.split_of(query) = 'test'), 0::bigint, 'none of a test query') FROM serm.sample WHERE agents = '{gold}';
SELECT is(count(*), 5 * (SELECT count(*) FROM serm.sample), 'every agent was asked about every sample') FROM serm.vote;
SELECT ok(bool_and(s.state = 'settled' AND s.grade = p.grade), 'it has the grade that people gave') FROM serm.sample s JOIN pair p USING (doc_id) WHERE agents = '{gold}';
SELECT is(count(*), 0::bigint, 'and never becomes a judgment of agents') FROM serm.judgment j JOIN serm.sample s USING (model, query, doc_id)
 WHERE s.agents = '{gold}' AND j.source = 'agents';
SELECT is(count(*) FILTER (WHERE agents = '{gold}'), 0::bigint, 'nobody has to review it') FROM serm.review_queue q JOIN serm.sample s ON s.id = q.sample;
CREATE TEMP TABLE gold AS SELECT s.id, p.grade FROM serm.sample s JOIN pair p USING (doc_id) WHERE agents = '{gold}';

-- --- what is known about the agents
CREATE TEMP TABLE r AS SELECT * FROM serm.reliability;
SELECT is(count(*), 5::bigint, 'one row for each agent') FROM r;
SELECT ok(bool_and(gold = (SELECT count(*) FROM gold)), 'counted on all gold') FROM r;
SELECT ok(bool_and(abs(gold_kappa - k) < 0.02), 'kappa against gold is what it is, but for the weights of the grades') FROM r JOIN LATERAL
	(SELECT serm.cohen_kappa(v.grade::int, g.grade, 'quadratic') AS k FROM serm.vote v JOIN gold g ON g.id = v.sample WHERE v.agent = r.agent) x ON true;
SELECT is(array_agg(agent ORDER BY agent), '{kind,twin}', 'the twins are seen') FROM r WHERE copies = 2;
SELECT ok(bool_and(copies = 1), 'and nobody else') FROM r WHERE agent IN ('good', 'harsh', 'guess');
SELECT ok((SELECT weight FROM r WHERE agent = 'good') > (SELECT weight FROM r WHERE agent = 'kind') + (SELECT weight FROM r WHERE agent = 'twin'),
	'the good one has more say than the twins together');
SELECT ok(weight < 0.02, 'who guesses has next to none') FROM r WHERE agent = 'guess';
SELECT ok(abs(sum(weight) - 1) < 1e-5, 'the say is shared out') FROM r;
SELECT ok((SELECT level FROM r WHERE agent = 'kind') > 0.1 AND (SELECT level FROM r WHERE agent = 'harsh') < (SELECT level FROM r WHERE agent = 'good') - 0.1,
	'levels are seen');
SELECT ok(bool_and(cuts[1] <= cuts[2] AND cuts[2] <= cuts[3]), 'cut points are in order') FROM r;
SELECT ok((SELECT cuts[1] FROM r WHERE agent = 'kind') > (SELECT cuts[1] FROM r WHERE agent = 'harsh'), 'those of a kind judge are higher');
SELECT ok(bool_and(array_dims(confusion) = '[1:4][1:4]' AND abs(confusion[1][1] + confusion[1][2] + confusion[1][3] + confusion[1][4] - 1) < 1e-5),
	'confusions are rows that sum to one') FROM r;
SELECT ok(reliability BETWEEN least(agreement, gold_kappa) - 0.2 AND greatest(agreement, gold_kappa) + 0.2, 'reliability lies between agreement and gold') FROM r WHERE agent = 'good';

-- --- what becomes of the samples
SELECT is(count(*), (SELECT count(*) FROM serm.sample WHERE agents <> '{gold}'), 'every pair has one judgment') FROM serm.judgment WHERE source = 'agents';
SELECT ok(bool_and(abs((SELECT sum(x) FROM unnest(target) x) - 1) < 1e-5), 'with a target that sums to one') FROM serm.judgment WHERE source = 'agents';
CREATE TEMP TABLE j AS SELECT j.*, s.id AS sample, s.state, p.grade AS truth,
		(SELECT y - 1 FROM unnest(j.target) WITH ORDINALITY t(p, y) ORDER BY t.p DESC, y LIMIT 1) AS said
	  FROM serm.judgment j JOIN serm.sample s USING (model, query, doc_id) JOIN pair p USING (doc_id) WHERE j.source = 'agents' AND s.agents <> '{gold}';
SELECT ok(bool_and(grade = said AND target[said + 1] > 0.699), 'the grade of an agreed pair has seven tenths of it') FROM j WHERE state = 'agreed';
SELECT ok(bool_and(abs(grade - (target[2] + 2 * target[3] + 3 * target[4])) < 1e-4), 'that of a disputed one is its mean') FROM j WHERE state = 'disputed';
SELECT cmp_ok((SELECT serm.cohen_kappa(truth, said::int, 'quadratic') FROM j), '>',
	(SELECT max(k) + 0.05 FROM (SELECT serm.cohen_kappa(j.truth, v.grade::int, 'quadratic') AS k FROM j JOIN serm.vote v USING (sample) GROUP BY v.agent) x),
	'they are better than the best judge');
SELECT ok(bool_and(share BETWEEN 0.85 AND 0.97), 'nine tenths of each grade are kept') FROM (SELECT avg((state = 'agreed')::int) AS share FROM j GROUP BY said) x;
SELECT cmp_ok((SELECT avg((said = truth)::int) FROM j WHERE state = 'agreed'), '>', (SELECT avg((said = truth)::int) FROM j WHERE state = 'disputed'),
	'and right more often than those in dispute');
SELECT ok(bool_and(judge = 'good, guess, harsh, kind, twin'), 'the judges are named') FROM j;

-- --- again, and from the beginning: the same votes, the same judgments
CALL serm.annotate('tap_judges');
SELECT is((SELECT count(*) FROM serm.judgment WHERE source = 'agents'), (SELECT count(*) FROM j), 'annotating again changes nothing');
DELETE FROM serm.judgment WHERE source = 'agents';
UPDATE serm.sample SET state = 'annotating', grade = NULL WHERE id % 3 > 0 OR agents = '{gold}';
CALL serm.annotate('tap_judges');
SELECT results_eq($$SELECT query, doc_id, grade, target FROM serm.judgment WHERE source = 'agents' ORDER BY doc_id$$,
	$$SELECT query, doc_id, grade, target FROM j WHERE sample % 3 > 0 ORDER BY doc_id$$, 'settling a part anew gives what it gave');
UPDATE serm.sample SET state = 'annotating', grade = NULL WHERE id % 3 = 0 AND agents <> '{gold}';
CALL serm.annotate('tap_judges');
SELECT results_eq($$SELECT query, doc_id, grade, target FROM serm.judgment WHERE source = 'agents' ORDER BY doc_id$$,
	$$SELECT query, doc_id, grade, target FROM j ORDER BY doc_id$$, 'and so does the rest');

-- --- views
SELECT ok(bool_and(abs(s - 1) < 1e-9), 'shares of a confusion sum to one') FROM (SELECT sum(share) AS s FROM serm.agent_confusion GROUP BY agent, prompt, gold) x;
SELECT is(sum(pairs)::bigint, 5 * (SELECT count(*) FROM gold), 'over all gold') FROM serm.agent_confusion;
SELECT ok(kappa > 0.999 AND error_correlation > 0.999, 'twins err alike') FROM serm.agent_pairs WHERE agent = 'kind' AND other = 'twin';
SELECT ok(abs(error_correlation) < 0.5 AND gold = (SELECT count(*) FROM gold), 'others less') FROM serm.agent_pairs WHERE agent = 'good' AND other = 'harsh';
SELECT is(count(*), 10::bigint, 'every two agents') FROM serm.agent_pairs;
SELECT ok(abs(a.gold_kappa - r.gold_kappa) < 0.02 AND a.labels = r.labels, 'agreement over all') FROM serm.agent_agreement a JOIN r USING (agent)
 WHERE segment IS NULL AND week IS NULL AND agent = 'good';
SELECT is(gold, (SELECT count(*) FROM gold), 'per segment') FROM serm.agent_agreement WHERE segment = 'gold' AND agent = 'good';
SELECT is(sum(labels)::bigint, (SELECT labels FROM r WHERE agent = 'good'), 'and per week') FROM serm.agent_agreement WHERE week IS NOT NULL AND agent = 'good';
SELECT cmp_ok(settled_kappa, '>', 0.5::float8, 'and with what was settled') FROM serm.agent_agreement WHERE segment IS NULL AND week IS NULL AND agent = 'good';

-- --- the queue of people: what is worth most comes first
SELECT is(count(*), (SELECT count(*) FROM serm.sample WHERE state = 'disputed'), 'disputed pairs wait') FROM serm.review_queue;
SELECT ok(bool_and(value >= next), 'the answer that is worth most first') FROM (SELECT value, lead(value) OVER () AS next FROM serm.review_queue) x;
SELECT ok(bool_and(abs(q.value - (SELECT sum(p * (y - 1) ^ 2) - sum(p * (y - 1)) ^ 2 FROM unnest(j.target) WITH ORDINALITY t(p, y))) < 1e-4),
	'worth is the variance of the target') FROM serm.review_queue q JOIN j USING (sample);
UPDATE serm.sample SET priority = 100 WHERE id = (SELECT sample FROM serm.review_queue ORDER BY value LIMIT 1);
SELECT is((SELECT priority FROM serm.review_queue LIMIT 1), 100::real, 'times the priority of the pair');
SELECT lives_ok($$SELECT serm.settle(sample, 3) FROM serm.review_queue LIMIT 1$$, 'a person answers');
SELECT is(count(*), (SELECT count(*) - 1 FROM j WHERE state = 'disputed'), 'and one less waits') FROM serm.review_queue;
SELECT is((SELECT source FROM serm.current_judgment c JOIN serm.sample s USING (model, query, doc_id) WHERE s.priority = 100), 'human', 'people are believed');

-- --- a judge that is no good
SELECT FROM serm.create_model('tap_limit', options => '{"rule": "weighted", "gold_rate": 0.3, "test_share": 0}');
SELECT FROM serm.add_agent('tap_limit', 'good(text,text)'::regprocedure);
SELECT FROM serm.add_agent('tap_limit', 'harsh(text,text)'::regprocedure);
SELECT FROM serm.add_agent('tap_limit', 'guess(text,text)'::regprocedure);
INSERT INTO serm.judgment (model, query, doc_id, doc, grade) SELECT 'tap_limit', query, doc_id, doc, grade FROM pair WHERE h % 4 = 0;
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_limit', query, doc_id, doc FROM pair WHERE h % 4 = 1;
CALL serm.annotate('tap_limit');
SELECT results_eq($$SELECT name, active, suspended IS NULL FROM serm.agent WHERE model = 'tap_limit' ORDER BY name$$,
	$$VALUES ('good', true, true), ('guess', false, false), ('harsh', true, true)$$, 'it is suspended');
SELECT matches(reason, '^reliability -?0\.\d+ on \d+ pairs that people graded', 'with the reason') FROM serm.agent WHERE model = 'tap_limit' AND name = 'guess';
SELECT ok(bool_and(judge = 'good, harsh'), 'its votes do not count') FROM serm.judgment WHERE model = 'tap_limit' AND source = 'agents';
SELECT ok(count(*) > 0, 'but are kept') FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'tap_limit' AND v.agent = 'guess';
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_limit', query, doc_id, doc FROM pair WHERE h % 40 = 2;
CALL serm.annotate('tap_limit');
SELECT is(count(*), 0::bigint, 'nothing more is asked of it') FROM serm.vote v JOIN serm.sample s ON s.id = v.sample JOIN pair p USING (doc_id)
 WHERE s.model = 'tap_limit' AND v.agent = 'guess' AND p.h % 40 = 2;
SELECT throws_ok($$SELECT serm.resume_agent('tap_limit', 'nobody')$$, '42704', NULL, 'nobody to resume');
SELECT throws_ok($$SELECT serm.resume_agent('tap_limit', 'guess', 2)$$, '22023', NULL, 'a limit that is none');
SELECT lives_ok($$SELECT serm.resume_agent('tap_limit', 'guess')$$, 'it is taken back');
UPDATE serm.sample SET state = 'annotating' WHERE model = 'tap_limit' AND agents <> '{gold}';
CALL serm.annotate('tap_limit');
SELECT results_eq($$SELECT active, suspended IS NULL, reason, options FROM serm.agent WHERE model = 'tap_limit' AND name = 'guess'$$,
	$$VALUES (true, true, NULL::text, '{"min_reliability": -1}'::jsonb)$$, 'and not suspended again');
SELECT throws_ok($$SELECT serm.add_agent('tap_limit', 'kind(text,text)'::regprocedure, '{"min_reliability": 2}')$$, '22023', NULL, 'an agent''s own limit');

-- --- more paths where agents differ, once
CREATE SEQUENCE asked;
CREATE FUNCTION wavering(query text, doc text) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT CASE WHEN doc = ''clear'' THEN 2 ELSE (nextval(''public.asked'') % 3)::int END';
CREATE FUNCTION steady(query text, doc text) RETURNS integer LANGUAGE sql STABLE AS 'SELECT 2';
SELECT FROM serm.create_model('tap_extra', options => '{"rule": "unanimous", "extra_paths": 4, "gold_rate": 0}');
SELECT FROM serm.add_agent('tap_extra', 'wavering(text,text)'::regprocedure, '{"min_share": 0.4}');
SELECT FROM serm.add_agent('tap_extra', 'steady(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_extra', 'q', '1', 'clear'), ('tap_extra', 'q', '2', 'unclear');
CALL serm.annotate('tap_extra');
SELECT results_eq($$SELECT s.doc_id, v.agent, count(*), count(*) FILTER (WHERE v.extra) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample
	WHERE s.model = 'tap_extra' GROUP BY 1, 2 ORDER BY 1, 2$$,
	$$VALUES ('1', 'steady', 1::bigint, 0::bigint), ('1', 'wavering', 1, 0), ('2', 'steady', 1, 0), ('2', 'wavering', 5, 4)$$,
	'only where they differ, and only of who may change its mind');
SELECT is(count(*) FILTER (WHERE state IN ('agreed', 'disputed')), 2::bigint, 'then it is settled') FROM serm.sample WHERE model = 'tap_extra';
UPDATE serm.sample SET state = 'annotating' WHERE model = 'tap_extra' AND doc_id = '2';
CALL serm.annotate('tap_extra');
SELECT is(count(*), 8::bigint, 'and not asked a second time') FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'tap_extra';

-- --- the posterior, with and without a model
CREATE TABLE weighted AS SELECT doc_id, target FROM serm.judgment WHERE model = 'tap_judges' AND source = 'agents';
UPDATE serm.model SET options = options || '{"rule": "posterior"}' WHERE name = 'tap_judges';
DELETE FROM serm.judgment WHERE source = 'agents' AND model = 'tap_judges';
UPDATE serm.sample SET state = 'annotating', grade = NULL WHERE agents <> '{gold}' AND model = 'tap_judges';
CALL serm.annotate('tap_judges');
CREATE TABLE plain AS SELECT doc_id, grade, target FROM serm.judgment WHERE model = 'tap_judges' AND source = 'agents';
SELECT is(count(*), (SELECT count(*) FROM weighted), 'posterior: every pair has its target') FROM plain;
SELECT ok(bool_and(abs((SELECT sum(x) FROM unnest(target) x) - 1) < 1e-5), 'that sums to one') FROM plain;
SELECT cmp_ok((SELECT avg(-ln(greatest(target[p.grade + 1], 1e-9))) FROM plain JOIN pair p USING (doc_id)), '<', 1.1::float8, 'and knows the truth better than the shares of the grades do (1.21)');
CALL serm.train('tap_judges', '{"epochs": 2, "pretrain_epochs": 0, "heads": 1}');
DELETE FROM serm.judgment WHERE source = 'agents' AND model = 'tap_judges';
UPDATE serm.sample SET state = 'annotating', grade = NULL WHERE agents <> '{gold}' AND model = 'tap_judges';
CALL serm.annotate('tap_judges');
SELECT ok(count(*) FILTER (WHERE j.target <> p.target) > count(*) / 2, 'the model has its say in it') FROM serm.judgment j JOIN plain p USING (doc_id)
 WHERE j.model = 'tap_judges' AND j.source = 'agents';

-- --- no gold: agreement alone, and with a model its distribution of the grades
SELECT FROM serm.create_model('tap_nogold', options => '{"rule": "weighted", "gold_rate": 0}');
SELECT serm.add_agent('tap_nogold', j::regprocedure) FROM unnest('{good,kind,harsh}'::text[]) AS n, LATERAL (SELECT n || '(text,text)') AS v (j);
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_nogold', query, doc_id, doc FROM pair WHERE h % 4 = 1;
CALL serm.annotate('tap_nogold');
SELECT ok(bool_and(gold = 0 AND gold_kappa IS NULL AND abs(reliability - agreement) < 1e-6), 'without gold reliability is agreement') FROM serm.reliability WHERE model = 'tap_nogold';
SELECT is(count(*), (SELECT count(*) FROM pair WHERE h % 4 = 1), 'and everything is settled') FROM serm.judgment WHERE model = 'tap_nogold';

-- --- labels "agreed": no targets, nothing for what is in dispute
SELECT FROM serm.create_model('tap_agreed', options => '{"rule": "weighted", "gold_rate": 0, "labels": "agreed", "keep": 0.5}');
SELECT serm.add_agent('tap_agreed', j::regprocedure) FROM unnest('{good,kind,harsh}'::text[]) AS n, LATERAL (SELECT n || '(text,text)') AS v (j);
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_agreed', query, doc_id, doc FROM pair WHERE h % 4 = 1;
CALL serm.annotate('tap_agreed');
SELECT is(count(*), (SELECT count(*) FROM serm.sample WHERE model = 'tap_agreed' AND state = 'agreed'), 'agreed pairs only') FROM serm.judgment WHERE model = 'tap_agreed';
SELECT cmp_ok(count(*), '>', (SELECT count(*) / 5 FROM pair WHERE h % 4 = 1), 'and many are in dispute') FROM serm.sample WHERE model = 'tap_agreed' AND state = 'disputed';
SELECT is(count(target), 0::bigint, 'no target') FROM serm.judgment WHERE model = 'tap_agreed';

-- --- one judge; none that answers
SELECT FROM serm.create_model('tap_one', options => '{"rule": "weighted", "gold_rate": 0, "keep": 1}');
SELECT FROM serm.add_agent('tap_one', 'good(text,text)'::regprocedure);
SELECT FROM serm.add_agent('tap_one', 'silent(text,text)'::regprocedure);
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'tap_one', query, doc_id, doc FROM pair WHERE h % 20 = 1;
CALL serm.annotate('tap_one');
SELECT ok(bool_and(s.state = 'agreed' AND s.grade = v.grade), 'who alone answers is believed') FROM serm.sample s JOIN serm.vote v ON v.sample = s.id AND v.agent = 'good' WHERE s.model = 'tap_one';
SELECT is(count(*), 1::bigint, 'who never answers has no reliability') FROM serm.reliability WHERE model = 'tap_one';
SELECT FROM serm.remove_agent('tap_one', 'good');
SELECT is(count(*), 0::bigint, 'and what was known goes with an agent') FROM serm.reliability WHERE model = 'tap_one';
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('tap_one', 'q', 'x', 'x');
CALL serm.annotate('tap_one');
SELECT is(state, 'failed', 'nobody answered: failed') FROM serm.sample WHERE model = 'tap_one' AND doc_id = 'x';
SELECT cmp_ok(value, '=', 1.25::float8, 'worth what is not known at all') FROM serm.review_queue WHERE model = 'tap_one' AND doc_id = 'x';

-- --- another version of the prompt is another judge
UPDATE serm.vote SET prompt = 1 WHERE agent = 'good' AND sample IN (SELECT id FROM serm.sample WHERE model = 'tap_nogold' AND id % 2 = 0);
UPDATE serm.sample SET state = 'annotating' WHERE model = 'tap_nogold';
DELETE FROM serm.judgment WHERE model = 'tap_nogold';
CALL serm.annotate('tap_nogold');
SELECT results_eq($$SELECT prompt FROM serm.reliability WHERE model = 'tap_nogold' AND agent = 'good' ORDER BY 1$$, 'VALUES (0), (1)', 'each version of a prompt is rated by itself');

-- --- who may see it
CREATE ROLE tap_analyst;
SELECT FROM serm.grant_access('tap_analyst', 'analyse');
SET ROLE tap_analyst;
SELECT lives_ok('SELECT * FROM serm.reliability, serm.agent_pairs, serm.agent_confusion, serm.agent_agreement LIMIT 1', 'an analyst may look');
SELECT throws_ok($$SELECT serm.resume_agent('tap_limit', 'guess')$$, '42501', NULL, 'but not decide');
RESET ROLE;
DROP OWNED BY tap_analyst;
DROP ROLE tap_analyst;

SELECT * FROM finish();
