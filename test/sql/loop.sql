-- The whole loop once, on the bundled shop: create, train, score, mine, annotate, evolve, promote, roll back.
-- Numbers stand in bands: the last bits of a model depend on the processor.
\set ECHO none
\getenv source PG_ABS_SRCDIR
\set data :source '/data'
\setenv SERM_DEMO_DATA :data
SET client_min_messages = warning;
\set file :source '/demo/10-schema.sql'
\i :file
\set file :source '/demo/20-load-sample.sql'
\i :file
\set file :source '/demo/40-judges.sql'
\i :file
\set ECHO all
CREATE EXTENSION IF NOT EXISTS serm;
CREATE VIEW shop.document AS SELECT doc_id, doc FROM shop.product;

-- a model, what people have graded, a first version
SELECT FROM serm.create_model('loop', log => 'shop.search_log', documents => 'shop.document');
INSERT INTO serm.judgment (model, query, doc_id, grade, judge)
	SELECT 'loop', query, doc_id, grade, 'shop' FROM shop.labelled JOIN shop.query USING (query_id);
CALL serm.train('loop');
SELECT version, status, parent, (counts ->> 'judgments')::bigint = (SELECT count(*) FROM serm.judgment WHERE serm.split_of(query) = 'train') AS all_used
  FROM serm.version WHERE model = 'loop';
SELECT metric, value BETWEEN low AND high AS in_interval,
	CASE metric WHEN 'ndcg@10' THEN value > 0.75 WHEN 'accuracy' THEN value > 0.65 WHEN 'nll' THEN value < 0.9 WHEN 'ece' THEN value < 0.1 END AS good
  FROM serm.evaluate('loop') WHERE metric IN ('ndcg@10', 'accuracy', 'nll', 'ece') ORDER BY metric;
SELECT serm.check_version('loop', 1);

-- what it is for
SELECT d.doc_id, t.grade
  FROM (SELECT doc_id FROM shop.document ORDER BY serm.score('double mattress', doc, 'loop') DESC LIMIT 1) d
  LEFT JOIN (SELECT doc_id, grade FROM shop.truth JOIN shop.query USING (query_id) WHERE query = 'double mattress') t USING (doc_id);

-- what the log has to say
SELECT bool_or('clicks' = ANY (agents)) AS clicks, bool_or('feedback' = ANY (agents)) AS feedback, bool_or('uncertainty' = ANY (agents)) AS uncertainty,
	bool_or('disagreement' = ANY (agents)) AS disagreement, count(*)
  FROM serm.mine('loop', budget => 100);

-- two judges, a round
SELECT FROM serm.add_agent('loop', 'shop.lenient_judge(text,text)'::regprocedure);
SELECT FROM serm.add_agent('loop', 'shop.strict_judge(text,text)'::regprocedure);
CALL serm.evolve('loop', '{"budget": 200, "gate": {"margin": 0.2, "min_queries": 5}}');
SELECT round, phase, decision, parent, candidate, counts ->> 'mined' AS mined, counts ->> 'gold' AS gold, counts ->> 'judgments' AS judgments,
	(counts ->> 'agreed')::int + (counts ->> 'disputed')::int AS decided, counts ->> 'failed' AS failed
  FROM serm.round WHERE model = 'loop';
SELECT (metrics -> 'agreement' ->> 'kappa')::float8 BETWEEN 0.3 AND 0.9 AS kappa, (metrics -> 'agreement' ->> 'alpha')::float8 BETWEEN 0.2 AND 0.9 AS alpha,
	metrics -> 'labels' ->> 'method' AS labels, metrics -> 'gate' ->> 'rule' AS rule
  FROM serm.round WHERE model = 'loop';
SELECT avg(abs(j.grade - t.grade)) < 0.35 AS labels_are_good
  FROM serm.judgment j JOIN shop.query q USING (query) JOIN shop.truth t USING (query_id, doc_id) WHERE j.model = 'loop' AND j.source = 'agents';
SELECT version, status, parent FROM serm.version WHERE model = 'loop' ORDER BY version;

-- and back
SELECT serm.rollback('loop');
SELECT active FROM serm.model WHERE name = 'loop';
SELECT action, from_version, to_version, split_part(reason, ':', 1) AS reason FROM serm.deployment WHERE model = 'loop' ORDER BY id;
SELECT model, version, versions, rounds, promotions, last_phase FROM serm.stat_model WHERE model = 'loop';
SELECT FROM serm.drop_model('loop');
SELECT (SELECT count(*) FROM serm.judgment WHERE model = 'loop') + (SELECT count(*) FROM serm.sample WHERE model = 'loop') + (SELECT count(*) FROM serm.tensor WHERE model = 'loop') AS left_behind;
DROP SCHEMA shop CASCADE;
