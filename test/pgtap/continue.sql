-- Continued training and merging: what is new, what is replayed, what is kept, what is forgotten, what is refused.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(58);

CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home, made to last.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white,yellow}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS thing;
CREATE VIEW pair AS
	SELECT replace(q.doc_id, '-', ' ') AS query, d.doc_id, d.doc,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END AS grade
	  FROM product q, product d WHERE hashtext(q.doc_id || d.doc_id) % 3 <> 0;
CREATE FUNCTION same(a int, b int, tensors text[]) RETURNS boolean LANGUAGE sql AS $$
	SELECT count(*) = cardinality(tensors) FROM serm.tensor x JOIN serm.tensor y USING (model, name, part)
	 WHERE model = 'm' AND x.version = a AND y.version = b AND x.data = y.data AND name = ANY (tensors) $$;

-- --- options that cannot be read
CREATE FUNCTION refusal(options jsonb, OUT state text) LANGUAGE plpgsql AS $$
BEGIN
	CALL serm.train('m', options);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
END $$;
SELECT is(state, '2D000', 'options in order') FROM refusal('{"continue": "always", "continue_above": 10, "new_share": 2, "history_share": 0, "original_share": 0.5,
	"anchor": 0.3, "replay_max": 1000}');
SELECT is(state, '2D000', 'null is the default') FROM refusal('{"continue": null, "anchor": null}');
SELECT is(state, '22023', options::text) FROM unnest(ARRAY['{"continue": "perhaps"}', '{"continue_above": 0}', '{"new_share": -1}', '{"anchor": -0.1}', '{"replay_max": 0}',
	'{"parent": -1}', '{"parent": 1, "continue": "never"}']::jsonb[]) AS options, refusal(options);

-- --- nothing to continue
SELECT FROM serm.create_model('m', documents => 'product');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'm', query, doc_id, grade FROM pair WHERE query !~ 'white|yellow|black';
\set VERBOSITY sqlstate
\set ON_ERROR_STOP 0
CALL serm.train('m', '{"continue": "always"}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'no version to continue');
CALL serm.train('m', '{"parent": 3}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'an unknown one');
\set ON_ERROR_STOP 1
CALL serm.train('m', '{"epochs": 10, "heads": 2, "pretrain_epochs": 2, "continue_above": 1000000}');
SELECT ok(config ->> 'continued_from' IS NULL AND config ->> 'continue' = 'auto' AND NOT metrics ? 'forgetting' AND NOT counts ? 'new',
	'the first version is trained from scratch') FROM serm.version;
SELECT ok((config ->> 'read_at')::timestamptz BETWEEN created - interval '1 minute' AND created, 'and says when it read') FROM serm.version;

-- --- continue: history of a round, what is new, and what was there
INSERT INTO serm.judgment (model, query, doc_id, grade, source, round, at)
	SELECT 'm', query, doc_id, grade, 'agents', 1, (SELECT created - interval '1 hour' FROM serm.version) FROM pair WHERE query ~ 'black';
INSERT INTO serm.judgment (model, query, doc_id, grade, source, round) SELECT 'm', query, doc_id, grade, 'agents', 2 FROM pair WHERE query ~ 'white';
CALL serm.train('m', '{"continue": "always", "heads": 4, "guard": 3}');
SELECT is(config ->> 'continued_from', '1', 'the active version was continued') FROM serm.version WHERE version = 2;
SELECT is(parent, 1, 'it is the parent') FROM serm.version WHERE version = 2;
SELECT is(config ->> 'epochs', '8', 'eight epochs') FROM serm.version WHERE version = 2;
SELECT is((counts ->> kind)::bigint, (SELECT count(*) FROM serm.judgment WHERE serm.split_of(query) = 'train' AND coalesce(round, 0) = r), kind || ' judgments are told apart')
  FROM serm.version, (VALUES ('original', 0), ('history', 1), ('new', 2)) AS k(kind, r) WHERE version = 2;
SELECT ok(same(1, 2, '{embedding.rows,embedding.scale,vocabulary.id,vocabulary.df,statistics,scale.mean,scale.inverse,guard}'), 'the inputs of the heads stay');
SELECT ok(NOT same(1, 2, '{heads.w1}'), 'the heads do not');
SELECT is((SELECT shape[1] FROM serm.tensor WHERE version = 2 AND name = 'heads.w3' AND part = 0), 2::bigint, 'there are as many as before');
SELECT ok(serm.check_version('m', 2), 'it serves what was trained');

-- --- forgetting: against the definitions, on the old judgments of the test split that people made
CREATE VIEW old AS
	SELECT v.version, j.query, j.doc_id, j.grade, p.score, p.probs[1 + j.grade::int] AS p
	  FROM serm.judgment j JOIN product d USING (doc_id), (VALUES (1), (2)) AS v(version),
		LATERAL (SELECT score, probs FROM serm.predict(j.query, d.doc, 'm') WHERE v.version = (SELECT active FROM serm.model WHERE name = 'm')) AS p
	 WHERE serm.split_of(j.query) = 'test' AND j.source = 'human';
CREATE TABLE forgetting AS SELECT metrics -> 'forgetting' AS f FROM serm.version WHERE version = 2;
SELECT is(f ->> 'against', '1', 'compared with the parent') FROM forgetting;
SELECT is((f ->> 'pairs')::bigint, (SELECT count(*) FROM old), 'on the old judgments') FROM forgetting;
SELECT is(round((f #>> '{nll,before}')::numeric, 5), (SELECT round(avg(-ln(p))::numeric, 5) FROM old), 'NLL before') FROM forgetting;
SELECT is(round((f #>> '{ece,before}')::numeric, 6), round(e.value::numeric, 6), 'ECE before') FROM forgetting, serm.evaluate('m', 1) e WHERE e.metric = 'ece';
SELECT FROM serm.promote('m', 2);
SELECT is(round((f #>> '{nll,after}')::numeric, 5), (SELECT round(avg(-ln(p))::numeric, 5) FROM old), 'NLL after') FROM forgetting;
SELECT is(round((f #>> '{ndcg@4,after}')::numeric, 6), round(e.value::numeric, 6), 'NDCG after') FROM forgetting, serm.evaluate('m', 2) e WHERE e.metric = 'ndcg@4';
SELECT ok((f #>> '{nll,low}')::float8 <= (f #>> '{nll,difference}')::float8 AND (f #>> '{nll,difference}')::float8 <= (f #>> '{nll,high}')::float8
	AND abs((f #>> '{nll,after}')::float8 - (f #>> '{nll,before}')::float8 - (f #>> '{nll,difference}')::float8) < 1e-9, 'the difference has an interval') FROM forgetting;

-- --- when: by the number of judgments, by a parent that is named
CALL serm.train('m', '{"continue_above": 100, "epochs": 1}');
SELECT is(config ->> 'continued_from', '2', 'more judgments than the bound: the active version is continued') FROM serm.version WHERE version = 3;
SELECT is((counts ->> 'new')::int, 0, 'there is nothing new to it') FROM serm.version WHERE version = 3;
CALL serm.train('m', '{"continue_above": 100, "epochs": 1, "continue": "never", "pretrain_epochs": 1}');
SELECT is(config ->> 'continued_from', NULL, 'never') FROM serm.version WHERE version = 4;
SELECT is(parent, 2, 'the parent of a version from scratch is the active one') FROM serm.version WHERE version = 4;
CALL serm.train('m', '{"parent": 1, "epochs": 3}');
SELECT is(config ->> 'continued_from', '1', 'a parent that is named') FROM serm.version WHERE version = 5;
CALL serm.train('m', '{"parent": 1, "epochs": 3}');
CALL serm.train('m', '{"parent": 1, "epochs": 3, "anchor": 0}');
CALL serm.train('m', '{"parent": 1, "epochs": 3, "original_share": 0}');
SELECT is(string_agg(CASE WHEN a.checksum = b.checksum THEN 'same' ELSE 'other' END, ',' ORDER BY b.version), 'same,other,other', 'the same bytes again; anchor and shares count')
  FROM serm.version a, serm.version b WHERE a.version = 5 AND b.version IN (6, 7, 8);
CALL serm.train('m', '{"parent": 1, "epochs": 1, "replay_max": 100}');
SELECT ok((counts ->> 'history')::int < 150 AND (counts ->> 'original')::int BETWEEN 20 AND 200 AND counts -> 'new' = (SELECT counts -> 'new' FROM serm.version WHERE version = 5)
	AND counts -> 'test_judgments' = (SELECT counts -> 'test_judgments' FROM serm.version WHERE version = 5), 'no more than a share is replayed; what is new and the test split stay')
  FROM serm.version WHERE version = 9;

-- --- merging
CALL serm.train('m', '{"parent": 1, "epochs": 6, "seed": 9, "original_share": 0, "history_share": 0, "anchor": 0}');
CALL serm.merge_versions('m', '{5,10}');
SELECT is(config -> 'merged', '{"5": 0.5, "10": 0.5}', 'two versions are merged') FROM serm.version WHERE version = 11;
SELECT results_eq($$SELECT parent, status, config ->> 'continued_from' FROM serm.version WHERE version = 11$$, $$VALUES (1, 'candidate', '1')$$, 'into a candidate, whose parent is the ancestor');
SELECT ok(serm.check_version('m', 11) AND metrics ->> 'nll' IS NOT NULL AND metrics #>> '{forgetting,against}' = '1', 'it is measured like any other') FROM serm.version WHERE version = 11;
CALL serm.merge_versions('m', '{5,10}', '{1,0}');
SELECT ok(same(5, 12, '{embedding.rows,heads.b1}') AND NOT same(10, 12, '{heads.b1}'), 'with all the weight on one it is that one');
CALL serm.merge_versions('m', '{1,5}', '{0,0.5}');
SELECT is(config ->> 'continued_from', '1', 'a version may be merged with its ancestor') FROM serm.version WHERE version = 13;
CALL serm.train('m', '{"parent": 11, "epochs": 1}');
CALL serm.merge_versions('m', '{14,5}');
SELECT is(config ->> 'continued_from', '1', 'merged versions can be continued, and merged again') FROM serm.version WHERE version = 15;
\set ON_ERROR_STOP 0
CALL serm.merge_versions('m', '{4,5}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'versions without a common ancestor');
SELECT matches(:'LAST_ERROR_MESSAGE'::text, 'do not continue a common version', 'and the message says so');
CALL serm.merge_versions('m', '{5,99}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'an unknown version');
CALL serm.merge_versions('nobody', '{5,6}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'an unknown model');
CALL serm.merge_versions('m', '{5,10}', '{1e9,0}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', 'a weight out of range');
ALTER TABLE serm.version DISABLE TRIGGER USER;
UPDATE serm.version SET config = jsonb_set(config, '{continued_from}', '1') WHERE version = 4;
ALTER TABLE serm.version ENABLE TRIGGER USER;
CALL serm.merge_versions('m', '{4,5}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'a false ancestor is found out');
SELECT matches(:'LAST_ERROR_MESSAGE'::text, 'version 4 differs from version 1 in its (embeddings|number of heads)', 'by what differs');
\set ON_ERROR_STOP 1
SELECT throws_ok($$CALL serm.merge_versions('m', '{5,10}')$$, '2D000', NULL, 'not inside a transaction block');
SELECT throws_ok(format('CALL serm.merge_versions(''m'', %s)', a), '22023', NULL, 'arguments ' || a)
  FROM unnest(ARRAY['NULL', '''{5}''', '''{5,NULL}''', '''{5,5}''', '''{5,10}'', ''{1}''', '''{5,10}'', ''{1,NULL}''']) AS a;
SELECT is(count(*), 15::bigint, 'nothing else was stored') FROM serm.version;

SELECT * FROM finish();
