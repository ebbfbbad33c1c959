-- Rounds: what is mined, learned and decided, and that every number in serm.round is the one that its definition gives.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(90);

CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home, made to last.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white,yellow,pink,grey}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS thing;
CREATE TABLE truth AS
	SELECT replace(q.doc_id, '-', ' ') AS query, d.doc_id, d.doc, ('x' || substr(md5(q.doc_id || d.doc_id), 1, 6))::bit(24)::int AS n,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END AS grade
	  FROM product q, product d;
CREATE INDEX ON truth (query, md5(doc));
CREATE TABLE impression AS
	SELECT query, doc_id, '2026-01-01'::timestamptz + i * interval '1 minute' AS shown_at, 1 + n % 8 AS position,
		(n + i) % 5 < grade AS clicked, CASE WHEN (n + i) % 5 < grade THEN 1000 * (n % 90) END AS dwell_ms
	  FROM truth, generate_series(1, 3) AS i WHERE grade = 3 OR n % 4 = 0;
-- One judge is kind, the other strict and sometimes silent.
CREATE FUNCTION kind_judge(query text, doc text) RETURNS integer LANGUAGE sql STABLE STRICT AS
	$$SELECT least(3, t.grade + (t.n % 5 = 0)::int) FROM public.truth t WHERE t.query = $1 AND md5(t.doc) = md5($2)$$;
CREATE FUNCTION strict_judge(query text, doc text) RETURNS integer LANGUAGE sql STABLE STRICT AS
	$$SELECT CASE WHEN t.n % 31 <> 0 THEN greatest(0, t.grade - (t.n % 7 = 0)::int) END FROM public.truth t WHERE t.query = $1 AND md5(t.doc) = md5($2)$$;
CREATE FUNCTION half_known() RETURNS SETOF truth LANGUAGE sql STABLE AS
	$$SELECT t.* FROM public.truth t WHERE (grade > 0 OR n % 6 = 0) AND (serm.split_of(query) = 'test' OR substr(md5(query), 1, 1) < '8')$$;

SELECT FROM serm.create_model('tap_evolve', log => 'impression', documents => 'product', options => '{"rule": "unanimous", "gold_rate": 0}');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_evolve', query, doc_id, grade FROM half_known();
CALL serm.train('tap_evolve', '{"epochs": 10, "pretrain_epochs": 2}');
SELECT FROM serm.add_agent('tap_evolve', 'kind_judge(text,text)'::regprocedure);
SELECT FROM serm.add_agent('tap_evolve', 'strict_judge(text,text)'::regprocedure);
SELECT throws_ok($$CALL serm.evolve('tap_evolve')$$, '2D000', NULL, 'not inside a transaction block');

-- --- a round whose candidate is worse: one epoch, one head
CALL serm.evolve('tap_evolve', '{"budget": 150, "explore": 0.4, "seed": 3, "mine": {"tau_c": 1.2}, "train": {"epochs": 1, "pretrain_epochs": 1, "heads": 1}}');
CREATE TEMP TABLE r AS SELECT * FROM serm.round;
SELECT results_eq($$SELECT round, phase, decision, parent, candidate FROM r$$, $$VALUES (1, 'rejected', 'rejected', 1, 2)$$, 'a worse candidate is rejected');
SELECT ok(metrics -> 'gate' ->> 'rule' IN ('ranking', 'likelihood'), 'by a rule that compares') FROM r;
SELECT ok(reason LIKE (metrics -> 'gate' ->> 'rule') || ': %', 'the reason names the rule') FROM r;
SELECT is(status, 'rejected', 'the version is marked') FROM serm.version WHERE version = 2;
SELECT throws_ok($$SELECT serm.promote('tap_evolve', 2)$$, '55000', NULL, 'and cannot be promoted by accident');
SELECT is(active, 1, 'the active version is what it was') FROM serm.model;
SELECT ok(started <= finished AND by = current_user, 'who and when') FROM r;
SELECT ok(options @> '{"budget": 150, "gold": 50, "since": null, "mine": {"tau_c": 1.2, "explore": 0.4, "seed": 3, "tau_cm": 0.5, "min_impressions": 20},
	"train": {"epochs": 1, "heads": 1, "seed": 3, "dropout": 0.1}, "gate": {"margin": 0.005, "confidence": 0.95, "min_queries": 10, "draws": 2000,
	"recent": "lenient", "recent_min_queries": 10, "recent_rounds": 3}}',
	'every option is stored as used, thresholds included') FROM r;
SELECT cmp_ok((options ->> 'until')::timestamptz, '=', started, 'the window ends where the round began') FROM r;
SELECT set_eq($$SELECT jsonb_object_keys(timings) FROM r$$, ARRAY['mining', 'annotating', 'training', 'gating'], 'every phase has its time');

-- --- the counts
SELECT is((counts ->> 'mined')::bigint, (SELECT count(*) FROM serm.sample WHERE round = 1 AND agents <> '{gold}'), 'mined') FROM r;
SELECT is((counts ->> 'mined')::int, 150, 'that is the budget') FROM r;
SELECT is(counts -> 'mined_by', (SELECT jsonb_object_agg(a, n) FROM (SELECT a, count(*) AS n FROM serm.sample, unnest(agents) a WHERE a <> 'gold' GROUP BY a) c),
	'mined by each agent') FROM r;
SELECT is((counts ->> 'agreed')::bigint, (SELECT count(*) FROM serm.sample WHERE state = 'agreed'), 'agreed') FROM r;
SELECT is((counts ->> 'disputed')::bigint, (SELECT count(*) FROM serm.review_queue WHERE state = 'disputed'), 'disputed: all of them wait for review') FROM r;
SELECT cmp_ok((counts ->> 'disputed')::int, '>', 5, 'and there are some') FROM r;
SELECT is((counts ->> 'judgments')::int, 150, 'every pair with a vote became a judgment') FROM r;
SELECT is(count(*), 50::bigint, 'fifty pairs that people graded were graded by the agents too') FROM serm.sample WHERE agents = '{gold}';
SELECT ok(bool_and(state = 'settled'), 'nobody has to review them') FROM serm.sample WHERE agents = '{gold}';
SELECT ok(bool_and(serm.split_of(query) = 'train'), 'none is of a test query') FROM serm.sample WHERE agents = '{gold}';
SELECT cmp_ok(min(n), '>=', 9::bigint, 'all grades have their share') FROM (SELECT count(*) AS n FROM serm.sample s JOIN truth t USING (query, doc_id) WHERE agents = '{gold}' GROUP BY t.grade) g;
SELECT is((counts -> 'training')::jsonb, (SELECT v.counts FROM serm.version v WHERE version = 2), 'the counts of training are those of the version') FROM r;
SELECT is((counts -> 'training' ->> 'judgments')::bigint, (SELECT count(*) FROM serm.current_judgment WHERE serm.split_of(query) = 'train'), 'old and new judgments together') FROM r;

-- --- agreement
CREATE TEMP TABLE label AS SELECT s.id, s.round, s.query, s.doc_id, s.doc, s.state, s.agents, s.grade, a.grade AS a, b.grade AS b FROM serm.sample s
	JOIN serm.vote a ON a.sample = s.id AND a.agent = 'kind_judge' JOIN serm.vote b ON b.sample = s.id AND b.agent = 'strict_judge';
SELECT is(round((metrics -> 'agreement' ->> 'kappa')::numeric, 6), (SELECT round(serm.cohen_kappa(a::int, b::int, 'quadratic')::numeric, 6) FROM label WHERE b IS NOT NULL), 'kappa') FROM r;
SELECT is(round((metrics -> 'agreement' ->> 'alpha')::numeric, 6), (SELECT round(serm.krippendorff_alpha(sample::text, agent, grade::int, 'ordinal')::numeric, 6) FROM serm.vote), 'alpha') FROM r;
SELECT cmp_ok(count(*), '>', 0::bigint, 'one agent was silent now and then') FROM label WHERE b IS NULL;

-- --- soft targets: the model times the agents' confusion, two of them worth 2 / (1 + correlation), checked against its definition with the rounded matrices
CREATE TEMP TABLE soft AS SELECT l.*, j.target, j.grade AS stored, p.probs FROM label l
	JOIN serm.judgment j ON j.judge = 'posterior' AND j.query = l.query AND j.doc_id = l.doc_id, LATERAL serm.predict(l.query, l.doc, 'tap_evolve') p;
SELECT is(count(*), 150::bigint, 'every mined pair has one') FROM soft;
SELECT ok(bool_and(abs((SELECT sum(x) FROM unnest(target) x) - 1) < 1e-5), 'targets sum to one') FROM soft;
SELECT ok(bool_and(stored = grade), 'an agreed pair keeps its grade') FROM soft WHERE state = 'agreed';
SELECT ok(bool_and(abs(stored - (target[2] + 2 * target[3] + 3 * target[4])) < 1e-4), 'a disputed one has the mean of its target') FROM soft WHERE state = 'disputed';
SELECT is(metrics -> 'labels' ->> 'method', 'gold', 'the confusion was counted on gold') FROM r;
SELECT is((metrics -> 'labels' ->> 'gold')::int, 50, 'on all of it') FROM r;
CREATE TEMP TABLE expected AS
	SELECT id, array_agg(q / total ORDER BY y) AS q, target FROM (SELECT *, sum(q) OVER (PARTITION BY id) AS total FROM
		(SELECT s.id, y, s.target, greatest(s.probs[y + 1], 1e-6) *
				CASE WHEN b IS NULL THEN (c -> 'kind_judge' -> y ->> a::int)::float8
				ELSE power((c -> 'kind_judge' -> y ->> a::int)::float8 * (c -> 'strict_judge' -> y ->> b::int)::float8, 1 / (1 + alike)) END AS q
		   FROM soft s, r, LATERAL (SELECT metrics -> 'labels' -> 'confusion' AS c, (metrics -> 'labels' ->> 'correlation')::float8 AS alike) m, generate_series(0, 3) AS y) x) z GROUP BY id, target;
SELECT ok(bool_and((SELECT max(abs(a - b)) FROM unnest(q, target) u(a, b)) < 0.03), 'the target is p(y) times the confusions') FROM expected;
SELECT cmp_ok((SELECT avg(-ln(target[t.grade + 1])) FROM soft JOIN truth t USING (query, doc_id)), '<',
	(SELECT avg(-ln(probs[t.grade + 1])) FROM soft JOIN truth t USING (query, doc_id)), 'it knows more than the model');
SELECT is(source || ' ' || judge, 'agents posterior', 'it is the judgment that counts') FROM serm.current_judgment JOIN soft USING (query, doc_id) LIMIT 1;

-- --- the gate's numbers
SELECT is(round((metrics -> 'gate' -> 'ndcg@4' ->> 'active')::numeric, 6), (SELECT round(value::numeric, 6) FROM serm.evaluate('tap_evolve', 1) WHERE metric = 'ndcg@4'), 'NDCG of the active version') FROM r;
SELECT is(round((metrics -> 'gate' -> 'ndcg@4' ->> 'candidate')::numeric, 6), (SELECT round(value::numeric, 6) FROM serm.evaluate('tap_evolve', 2) WHERE metric = 'ndcg@4'), 'and of the candidate') FROM r;
SELECT is(round((metrics -> 'gate' -> 'nll' ->> 'candidate')::numeric, 6), (SELECT round(value::numeric, 6) FROM serm.evaluate('tap_evolve', 2) WHERE metric = 'nll'), 'likewise the likelihood') FROM r;
SELECT ok((g ->> 'low')::float8 <= (g ->> 'difference')::float8 AND (g ->> 'difference')::float8 <= (g ->> 'high')::float8, 'an interval around the difference') FROM r, LATERAL (SELECT metrics -> 'gate' -> 'ndcg@4' AS g) x;
SELECT is((metrics -> 'gate' ->> 'against')::int, 1, 'and the version it was compared with') FROM r;

-- --- a person settles a dispute: it counts from the next round on
SELECT isnt(serm.settle((SELECT min(sample) FROM serm.review_queue), 1, 'seen by hand'), NULL, 'a dispute is settled');
SELECT is(source, 'human', 'people come before agents') FROM serm.current_judgment j JOIN serm.sample s USING (query, doc_id) WHERE s.state = 'settled' AND s.agents <> '{gold}';

-- --- a round that passes: a wide margin, since a dozen test queries prove little
CALL serm.evolve('tap_evolve', '{"budget": 60, "train": {"epochs": 14, "pretrain_epochs": 2}, "gate": {"margin": 0.2, "min_queries": 5}}');
SELECT results_eq($$SELECT phase, decision, parent, candidate FROM serm.round WHERE round = 2$$, $$VALUES ('promoted', 'promoted', 1, 3)$$, 'a good candidate is promoted');
SELECT is(active, 3, 'it is active') FROM serm.model;
SELECT results_eq($$SELECT action, from_version, to_version, left(reason, 9) FROM serm.deployment ORDER BY id DESC LIMIT 1$$, $$VALUES ('promote', 1, 3, 'round 2: ')$$, 'and the history says why');
SELECT is(count(*), 50::bigint, 'the gold of the first round serves') FROM serm.sample WHERE agents = '{gold}';
SELECT is(count(*), 0::bigint, 'no pair was mined twice') FROM (SELECT FROM serm.sample GROUP BY query, doc_id HAVING count(*) > 1) d;
SELECT ok(serm.check_version('tap_evolve', 3), 'it serves what was trained');

-- --- too few test queries; a gate that nothing passes
CALL serm.evolve('tap_evolve', '{"budget": 20, "train": {"epochs": 1, "pretrain_epochs": 1}, "gate": {"min_queries": 1000}}');
SELECT is(metrics -> 'gate' ->> 'rule', 'queries', 'too few test queries prove nothing') FROM serm.round WHERE round = 3;
SELECT is(phase, 'rejected', 'and promote nothing') FROM serm.round WHERE round = 3;

-- --- the paper's rule: agreed grades only
SELECT FROM serm.create_model('tap_plain', log => 'impression', documents => 'product', options => '{"labels": "agreed", "rule": "unanimous", "gold_rate": 0}');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_plain', query, doc_id, grade FROM half_known();
CALL serm.train('tap_plain', '{"epochs": 1, "pretrain_epochs": 1}');
SELECT FROM serm.add_agent('tap_plain', 'kind_judge(text,text)'::regprocedure);
SELECT FROM serm.add_agent('tap_plain', 'strict_judge(text,text)'::regprocedure);
CALL serm.evolve('tap_plain', '{"budget": 100, "train": {"epochs": 2, "pretrain_epochs": 1}}');
SELECT is((counts ->> 'judgments')::int, (counts ->> 'agreed')::int, 'labels "agreed": only agreed pairs become judgments') FROM serm.round WHERE model = 'tap_plain';
SELECT is((counts ->> 'gold')::int, 0, 'no gold is needed') FROM serm.round WHERE model = 'tap_plain';
SELECT is(count(*), 0::bigint, 'no soft target is stored') FROM serm.judgment WHERE model = 'tap_plain' AND target IS NOT NULL;

-- --- agents that cannot answer: nothing to learn, nothing trained
CREATE FUNCTION broken_judge(query text, doc text) RETURNS integer LANGUAGE sql STABLE STRICT RETURN 1 / (length(query) - length(query));
SELECT FROM serm.remove_agent('tap_plain', 'kind_judge');
SELECT FROM serm.remove_agent('tap_plain', 'strict_judge');
SELECT FROM serm.add_agent('tap_plain', 'broken_judge(text,text)'::regprocedure);
CALL serm.evolve('tap_plain', '{"budget": 10}');
SELECT is(phase, 'rejected', 'a round without judgments is rejected') FROM serm.round WHERE model = 'tap_plain' AND round = 2;
SELECT is(reason, 'no new judgment: of 10 pairs 0 are disputed and 10 could not be graded', 'and says so') FROM serm.round WHERE model = 'tap_plain' AND round = 2;
SELECT is(candidate, NULL, 'nothing was trained') FROM serm.round WHERE model = 'tap_plain' AND round = 2;

-- --- without gold; by a role with the rights to operate; over a window of the log
CREATE ROLE tap_evolver;
SELECT FROM serm.grant_access('tap_evolver', 'operate');
GRANT SELECT ON product, impression, truth TO tap_evolver;
SET ROLE tap_evolver;
SELECT FROM serm.create_model('tap_em', log => 'impression', documents => 'product', options => '{"rule": "unanimous", "gold_rate": 0}');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_em', query, doc_id, grade FROM half_known();
CALL serm.train('tap_em', '{"epochs": 1, "pretrain_epochs": 1}');
SELECT FROM serm.add_agent('tap_em', 'kind_judge(text,text)'::regprocedure);
SELECT FROM serm.add_agent('tap_em', 'strict_judge(text,text)'::regprocedure);
CALL serm.evolve('tap_em', '{"budget": 40, "gold": 0, "since": "2025-12-31 23:00+00", "until": "2026-01-01 00:02:30+00", "train": {"epochs": 2, "pretrain_epochs": 1}}');
RESET ROLE;
SELECT ok(phase IN ('promoted', 'rejected') AND by = 'tap_evolver', 'a role with the level operate runs a round') FROM serm.round WHERE model = 'tap_em';
SELECT ok(metrics -> 'labels' ->> 'method' = 'em' AND metrics -> 'labels' ->> 'gold' = '0' AND round((metrics -> 'labels' ->> 'correlation')::numeric, 6) = 0.65, 'without gold the confusion is estimated') FROM serm.round WHERE model = 'tap_em';
SELECT is(count(*), 40::bigint, 'and every pair has its soft target') FROM serm.judgment WHERE model = 'tap_em' AND target IS NOT NULL;
SELECT ok((options ->> 'since')::timestamptz = '2025-12-31 23:00+00' AND (options ->> 'until')::timestamptz = '2026-01-01 00:02:30+00', 'the window is stored') FROM serm.round WHERE model = 'tap_em';
SELECT is(round((metrics -> 'gate' -> 'ndcg@4' ->> 'n')::numeric), (SELECT n::numeric FROM serm.evaluate('tap_em') WHERE metric = 'ndcg@4'), 'the gate counts queries as serm.evaluate does') FROM serm.round WHERE model = 'tap_em';
-- An agent that voted once and has gone: two that answer still count as two.
INSERT INTO serm.vote (sample, agent, path, grade) SELECT min(id), 'gone_judge', 1, 1 FROM serm.sample WHERE model = 'tap_em';
CALL serm.evolve('tap_em', '{"budget": 40, "train": {"epochs": 1, "pretrain_epochs": 0}, "gate": {"min_queries": 1000000}}');
WITH soft AS (SELECT j.id, j.target, p.probs, a.grade AS a, b.grade AS b
		FROM serm.sample s JOIN serm.judgment j ON j.judge = 'posterior' AND j.model = 'tap_em' AND j.query = s.query AND j.doc_id = s.doc_id AND j.round = 2
		JOIN serm.vote a ON a.sample = s.id AND a.agent = 'kind_judge' JOIN serm.vote b ON b.sample = s.id AND b.agent = 'strict_judge',
		LATERAL serm.predict(s.query, s.doc, 'tap_em') p
		WHERE s.model = 'tap_em' AND s.round = 2 AND b.grade IS NOT NULL),
	product AS (SELECT s.id, y, s.target[y + 1] AS target, greatest(s.probs[y + 1], 1e-6) * power((c -> 'kind_judge' -> y ->> a::int)::float8
			* (c -> 'strict_judge' -> y ->> b::int)::float8, 1 / (1 + alike)) AS q
		FROM soft s, LATERAL (SELECT metrics -> 'labels' -> 'confusion' AS c, (metrics -> 'labels' ->> 'correlation')::float8 AS alike FROM serm.round WHERE model = 'tap_em' AND round = 2) m, generate_series(0, 3) AS y),
	expected AS (SELECT target, q / sum(q) OVER (PARTITION BY id) AS q FROM product)
SELECT ok(count(*) >= 100 AND max(abs(target - q)) < 0.03, 'an agent of another round does not weaken those that answered') FROM expected;
SELECT FROM serm.drop_model('tap_em');
DROP OWNED BY tap_evolver;
DROP ROLE tap_evolver;

-- --- the default rule: agents are weighed, one that guesses is suspended, and the round says so
CREATE FUNCTION guessing_judge(query text, doc text) RETURNS integer LANGUAGE sql STABLE STRICT AS
	$$SELECT ('x' || substr(md5(query || doc || 'guess'), 1, 6))::bit(24)::int % 4$$;
SELECT FROM serm.create_model('tap_weighed', log => 'impression', documents => 'product');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_weighed', query, doc_id, grade FROM half_known();
CALL serm.train('tap_weighed', '{"epochs": 4, "pretrain_epochs": 1}');
SELECT serm.add_agent('tap_weighed', j::regprocedure) FROM unnest('{kind_judge,strict_judge,guessing_judge}'::text[]) AS n, LATERAL (SELECT n || '(text,text)') AS v (j);
CALL serm.evolve('tap_weighed', '{"budget": 100, "gold": 40, "train": {"epochs": 2, "pretrain_epochs": 1}}');
CREATE TEMP TABLE w AS SELECT * FROM serm.round WHERE model = 'tap_weighed';
SELECT is(metrics -> 'labels' ->> 'method', 'posterior', 'posterior is the default') FROM w;
SELECT is((counts ->> 'suspended')::int, 1, 'the round counts who was suspended') FROM w;
SELECT matches(metrics -> 'labels' -> 'suspended' ->> 'guessing_judge', '^reliability', 'and says why') FROM w;
SELECT is(count(*), 40::bigint, 'the gold of the round was asked for, and no more') FROM serm.sample WHERE model = 'tap_weighed' AND agents = '{gold}';
SELECT ok(bool_and(state = 'settled'), 'nobody reviews it') FROM serm.sample WHERE model = 'tap_weighed' AND agents = '{gold}';
SELECT is((counts ->> 'judgments')::int, 100, 'every mined pair has a judgment') FROM w;
SELECT is(count(*), 100::bigint, 'one, with a target') FROM serm.judgment WHERE model = 'tap_weighed' AND source = 'agents' AND target IS NOT NULL;
SELECT is((counts ->> 'agreed')::int + (counts ->> 'disputed')::int, 100, 'agreed or in dispute') FROM w;
SELECT ok((metrics -> 'labels' -> 'agents' -> 'kind_judge' ->> 'reliability')::float8 > 0.5 AND metrics -> 'labels' -> 'agents' -> 'kind_judge' ? 'confusion',
	'what was known of the agents stands in the round') FROM w;
SELECT cmp_ok((SELECT avg((round(j.grade) = t.grade)::int) FROM serm.judgment j JOIN truth t USING (query, doc_id) WHERE j.model = 'tap_weighed' AND j.source = 'agents'),
	'>', 0.8, 'labels are right');
SELECT FROM serm.drop_model('tap_weighed');

-- --- the segment of recent queries: what it holds, the veto of judges who turn test queries round, and how it is switched off
SELECT FROM serm.create_model('tap_recent', log => 'impression', documents => 'product', options => '{"rule": "unanimous", "gold_rate": 0}');
-- The active version learned the wrong way round; then people graded what it had learned, and few of the test queries.
INSERT INTO serm.judgment (model, query, doc_id, grade, source) SELECT 'tap_recent', query, doc_id, 3 - grade, 'import' FROM half_known() WHERE serm.split_of(query) = 'train';
CALL serm.train('tap_recent', '{"epochs": 6, "pretrain_epochs": 1, "heads": 1}');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_recent', query, doc_id, grade FROM half_known() WHERE serm.split_of(query) = 'train' OR md5(query) < '2';
INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge, round) SELECT 'tap_recent', query, doc_id, 3 - grade, 'agents', 'turned', 1 FROM truth WHERE serm.split_of(query) = 'test';
SELECT FROM serm.add_agent('tap_recent', 'kind_judge(text,text)'::regprocedure);
CREATE VIEW recent_pair AS SELECT j.query, j.doc_id, p.doc, j.grade, j.source FROM serm.current_judgment j JOIN product p USING (doc_id)
	WHERE j.model = 'tap_recent' AND serm.split_of(j.query) = 'test' AND j.query IN (SELECT r.query FROM serm.judgment r WHERE r.model = 'tap_recent' AND r.round >= 1);
CREATE VIEW recent_ndcg AS SELECT v.version, avg(q.ndcg) AS ndcg, count(q.ndcg) AS n FROM generate_series(1, 2) AS v (version), LATERAL
	(SELECT serm.ndcg(grade, serm.score_version(query, doc, 'tap_recent', v.version), 4, 'linear', doc_id) AS ndcg FROM recent_pair GROUP BY query HAVING min(grade) < max(grade)) q GROUP BY v.version;

CALL serm.evolve('tap_recent', '{"budget": 30, "train": {"epochs": 6, "pretrain_epochs": 1}, "gate": {"margin": 1, "min_queries": 1, "recent_min_queries": 3}}');
CREATE TEMP TABLE v AS SELECT *, metrics -> 'gate' -> 'recent' AS g FROM serm.round WHERE model = 'tap_recent';
SELECT results_eq($$SELECT phase, metrics -> 'gate' ->> 'rule', g ->> 'rule', g ->> 'verdict' FROM v$$, $$VALUES ('rejected', 'recent', 'lenient', 'fails')$$, 'what is worse on recent queries is refused');
SELECT matches(reason, '^recent: NDCG@4 .* over \d+ recent queries, upper bound below 0 \(with "recent": "off" in the options of the gate', 'the reason says so, and the way out') FROM v;
SELECT results_eq($$SELECT (g ->> 'queries')::bigint, (g ->> 'pairs')::bigint, (g ->> 'by_agents')::bigint, (g ->> 'since_round')::int FROM v$$,
	$$SELECT count(DISTINCT query), count(*), count(*) FILTER (WHERE source = 'agents'), 1 FROM recent_pair$$, 'the segment is the test queries that the round had graded');
SELECT ok(by_people > 0 AND by_agents > by_people, 'graded by people where they did') FROM (SELECT count(*) FILTER (WHERE source = 'human') AS by_people, count(*) FILTER (WHERE source = 'agents') AS by_agents FROM recent_pair) c;
SELECT results_eq($$SELECT round((g -> 'ndcg@4' ->> 'active')::numeric, 5), round((g -> 'ndcg@4' ->> 'candidate')::numeric, 5), (g -> 'ndcg@4' ->> 'n')::bigint FROM v$$,
	$$SELECT round(a.ndcg::numeric, 5), round(c.ndcg::numeric, 5), a.n FROM recent_ndcg a JOIN recent_ndcg c ON a.version = 1 AND c.version = 2$$, 'NDCG is over queries whose documents differ in grade');
SELECT is((metrics -> 'candidate' ->> 'pairs')::bigint, (SELECT count(*) FROM serm.current_judgment WHERE model = 'tap_recent' AND serm.split_of(query) = 'test' AND source = 'human'),
	'no grade of a judge is in the base set') FROM v;
SELECT is((counts -> 'training' ->> 'judgments')::bigint, (SELECT count(*) FROM serm.current_judgment WHERE model = 'tap_recent' AND serm.split_of(query) = 'train'),
	'no recent query that is tested was trained on') FROM v;

-- What judges say of test queries does not change a bit of what is trained.
CALL serm.train('tap_recent', '{"epochs": 2, "pretrain_epochs": 1}');
DELETE FROM serm.judgment WHERE model = 'tap_recent' AND source = 'agents' AND serm.split_of(query) = 'test' AND md5(query || doc_id) < '1';
CALL serm.train('tap_recent', '{"epochs": 2, "pretrain_epochs": 1}');
SELECT is(max(checksum), min(checksum), 'the same weights with and without them') FROM serm.version WHERE model = 'tap_recent' AND version IN (3, 4);

CALL serm.evolve('tap_recent', '{"budget": 30, "train": {"epochs": 6, "pretrain_epochs": 1}, "gate": {"margin": 1, "min_queries": 1, "recent_min_queries": 1000}}');
SELECT results_eq($$SELECT phase, metrics -> 'gate' -> 'recent' ->> 'verdict' FROM serm.round WHERE model = 'tap_recent' AND round = 2$$, $$VALUES ('promoted', 'few')$$, 'too few recent queries do not refuse');
SELECT matches(reason, '^passed: .*; recent: too few queries, \d+ of 1000, so the test set alone decides$', 'and the reason says who decides') FROM serm.round WHERE model = 'tap_recent' AND round = 2;
SELECT FROM serm.rollback('tap_recent', 1);
CALL serm.evolve('tap_recent', '{"budget": 30, "train": {"epochs": 6, "pretrain_epochs": 1}, "gate": {"margin": 1, "min_queries": 1, "recent_min_queries": 3, "recent": "off"}}');
SELECT results_eq($$SELECT phase, g ->> 'rule', g ->> 'verdict', (g -> 'ndcg@4' ->> 'high')::float8 < 0 FROM serm.round, LATERAL (SELECT metrics -> 'gate' -> 'recent') x (g) WHERE model = 'tap_recent' AND round = 3$$,
	$$VALUES ('promoted', 'off', 'unused', true)$$, 'switched off they are measured and have no say');
SELECT matches(reason, 'over \d+ queries, which have no say$', 'which the reason says') FROM serm.round WHERE model = 'tap_recent' AND round = 3;
SELECT FROM serm.rollback('tap_recent', 1);
-- Grades of agents outside of rounds, as of what serm.mine_next sampled, count by their time; those of people make no query recent.
CREATE TEMP TABLE outside AS SELECT query, (ARRAY['agents', 'agents', 'human'])[number] AS source, CASE number WHEN 2 THEN '2026-01-01' ELSE now() END AS at FROM (SELECT query, row_number() OVER (ORDER BY query) AS number
	FROM (SELECT DISTINCT query FROM truth WHERE serm.split_of(query) = 'test' EXCEPT SELECT query FROM serm.judgment WHERE model = 'tap_recent' AND round >= 3) q) n WHERE number <= 3;
SELECT is(count(*), 3::bigint, 'three test queries that the last round did not grade') FROM outside;
INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge, at) SELECT 'tap_recent', query, doc_id, 3 - grade, source, 'turned', at FROM truth JOIN outside USING (query);
INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge, round) SELECT 'tap_recent', query, doc_id, 3 - grade, 'agents', 'turned', 4 FROM truth WHERE serm.split_of(query) = 'test' AND query NOT IN (SELECT query FROM outside);
CALL serm.evolve('tap_recent', '{"budget": 30, "train": {"epochs": 6, "pretrain_epochs": 1}, "gate": {"margin": 1, "min_queries": 1, "recent_min_queries": 3, "recent": "strict", "recent_rounds": 2}}');
SELECT results_eq($$SELECT phase, (g ->> 'since_round')::int, reason LIKE 'recent: % recent queries, below 0 (%' FROM serm.round, LATERAL (SELECT metrics -> 'gate' -> 'recent') x (g) WHERE model = 'tap_recent' AND round = 4$$,
	$$VALUES ('rejected', 3, true)$$, 'strict: a difference below 0 is refused');
SELECT is((metrics #>> '{gate,recent,queries}')::bigint, (SELECT count(DISTINCT query) - 2 FROM truth WHERE serm.split_of(query) = 'test'), 'what agents graded since round 3 is recent, in a round or not')
	FROM serm.round WHERE model = 'tap_recent' AND round = 4;
SELECT FROM serm.drop_model('tap_recent');

SELECT is(count(*), 0::bigint, 'no progress is left') FROM serm._progress;
SELECT results_eq($$SELECT model, rounds, promotions, last_round, last_phase FROM serm.stat_model ORDER BY model$$,
	$$VALUES ('tap_evolve', 3::bigint, 1::bigint, 3, 'rejected'), ('tap_plain', 2, (SELECT count(*) FROM serm.round WHERE model = 'tap_plain' AND phase = 'promoted'), 2, 'rejected')$$, 'serm.stat_model sums up');

SELECT * FROM finish();
