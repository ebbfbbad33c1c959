-- Training and evaluating: what is read, stored, promoted and refused, and that a version serves what was trained.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(69);

CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home, made to last.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white,yellow}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS thing;
CREATE VIEW pair AS
	SELECT replace(q.doc_id, '-', ' ') AS query, d.doc_id, d.doc,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END AS grade
	  FROM product q, product d;

-- --- what cannot be trained (the errors of a procedure that commits are tested in test/t/030_evolve.pl)
SELECT FROM serm.create_model('tap_train', documents => 'product');
SELECT throws_ok($$CALL serm.train('tap_train')$$, '2D000', NULL, 'not inside a transaction block');
SELECT isnt_empty($$SELECT FROM pg_proc WHERE oid = 'serm.train(text, jsonb)'::regprocedure AND prokind = 'p'$$, 'serm.train is a procedure');
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, doc_id, grade) VALUES ('tap_train', 'red shoe', 'red-shoe', 'NaN')$$,
	'22023', NULL, 'a grade that is not a number is refused');
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, doc_id, grade) VALUES ('tap_train', 'red shoe', 'red-shoe', 4)$$,
	'22023', NULL, 'and one that the model does not have');
SELECT is(count(*), 0::bigint, 'nothing was stored') FROM serm.version;
SELECT is(count(*), 0::bigint, 'and no progress is left') FROM serm._progress;

-- --- the first version
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_train', query, doc_id, grade FROM pair
	WHERE grade > 0 OR hashtext(query || doc_id) % 4 = 0;
CALL serm.train('tap_train', '{"epochs": 12}');
SELECT results_eq($$SELECT version, status FROM serm.version$$, $$VALUES (1, 'active')$$, 'the first version is active');
SELECT is(active, 1, 'the model says so too') FROM serm.model;
SELECT results_eq($$SELECT action, from_version, to_version, reason FROM serm.deployment$$,
	$$VALUES ('promote', NULL::int, 1, 'first version')$$, 'and the history');
SELECT ok(config @> '{"epochs": 12, "heads": 4, "seed": 1, "kind": "interaction", "labels": "posterior", "gemm": "built-in", "dropout": 0.1}',
	'its config has the options as used') FROM serm.version;
SELECT is(seed, 1::bigint, 'and its row the seed') FROM serm.version;
SELECT is(parent, NULL, 'it has no parent') FROM serm.version;
SELECT is(counts, jsonb_build_object('judgments', train, 'test_judgments', test, 'queries', queries, 'test_queries', test_queries, 'documents', 36),
		'its counts are those of the splits')
  FROM serm.version, (SELECT count(*) FILTER (WHERE split = 'train') AS train, count(*) FILTER (WHERE split = 'test') AS test,
		count(DISTINCT query) FILTER (WHERE split = 'train') AS queries, count(DISTINCT query) FILTER (WHERE split = 'test') AS test_queries
	FROM serm.judgment, serm.split_of(query) AS split) AS s;
SELECT cmp_ok((counts ->> 'test_queries')::int, '>=', 4, 'enough test queries for what follows') FROM serm.version;
SELECT ok(serm.check_version('tap_train', 1), 'it serves, bit for bit, what was trained');

-- --- metrics against the definitions, in SQL
CREATE VIEW tested AS
	SELECT j.query, j.doc_id, j.grade, p.score, p.probs, p.entropy, p.disagreement, (SELECT i - 1 FROM unnest(p.probs) WITH ORDINALITY AS u(x, i) ORDER BY x DESC, i LIMIT 1) AS argmax,
		array_position(ARRAY['bad', 'fair', 'good', 'excellent'], p.grade) - 1 AS cut
	  FROM serm.judgment j JOIN product d USING (doc_id), LATERAL serm.predict(j.query, d.doc, 'tap_train') AS p
	 WHERE j.model = 'tap_train' AND serm.split_of(j.query) = 'test';
CREATE TABLE result AS SELECT * FROM serm.evaluate('tap_train');
SELECT set_eq($$SELECT metric FROM result$$, ARRAY['ndcg@1', 'ndcg@4', 'ndcg@10', 'ndcg_exp@1', 'ndcg_exp@4', 'ndcg_exp@10', 'accuracy', 'kappa',
	'nll', 'ece', 'auroc_entropy', 'auroc_disagreement', 'pairs', 'queries'], 'the metrics of serm.evaluate');
SELECT is(round(r.value::numeric, 6), round((SELECT avg(v) FROM (SELECT serm.ndcg(grade::float8, score::float8, k, gain, doc_id) AS v FROM tested GROUP BY query) q)::numeric, 6),
		r.metric || ' is the mean over queries')
  FROM result r JOIN (VALUES ('ndcg@1', 1, 'linear'), ('ndcg@4', 4, 'linear'), ('ndcg@10', 10, 'linear'), ('ndcg_exp@1', 1, 'exponential'),
	('ndcg_exp@4', 4, 'exponential'), ('ndcg_exp@10', 10, 'exponential')) AS d(metric, k, gain) USING (metric) ORDER BY metric;
SELECT is(round(value::numeric, 6), (SELECT round(avg((argmax = grade)::int), 6) FROM tested), 'accuracy is the share of pairs whose likeliest grade is right')
  FROM result WHERE metric = 'accuracy';
SELECT is(round(value::numeric, 5), (SELECT round(avg(-ln(probs[grade::int + 1]))::numeric, 5) FROM tested), 'nll is the mean of -ln P(grade)')
  FROM result WHERE metric = 'nll';
SELECT is(round(value::numeric, 6), (SELECT round(serm.cohen_kappa(cut::int, grade::int, 'quadratic')::numeric, 6) FROM tested), 'kappa is quadratic and by the cut points')
  FROM result WHERE metric = 'kappa';
SELECT is(round(value::numeric, 5), (SELECT round(sum(abs(confidence - accuracy))::numeric / (SELECT count(*) FROM tested), 5) FROM
	(SELECT sum(p) AS confidence, sum((argmax = grade)::int) AS accuracy FROM tested, LATERAL (SELECT max(x) AS p FROM unnest(probs) x) m
	 GROUP BY least(ceil(p * 10), 10)) b), 'ece is the mean gap between confidence and accuracy in ten bins')
  FROM result WHERE metric = 'ece';
SELECT is(round(r.value::numeric, 6), (SELECT round(avg(CASE WHEN a.signal > b.signal THEN 1 WHEN a.signal = b.signal THEN .5 ELSE 0 END), 6)
	FROM (SELECT CASE r.metric WHEN 'auroc_entropy' THEN entropy ELSE disagreement END AS signal FROM tested WHERE abs(score - grade) >= 1) a,
		(SELECT CASE r.metric WHEN 'auroc_entropy' THEN entropy ELSE disagreement END AS signal FROM tested WHERE abs(score - grade) < 1) b),
		r.metric || ' is the share of pairs of a wrong and a right score that the signal tells apart')
  FROM result r WHERE metric LIKE 'auroc%' ORDER BY metric;
SELECT is(value::bigint, (SELECT count(*) FROM tested), 'pairs are counted') FROM result WHERE metric = 'pairs';
SELECT ok(bool_and(low <= value AND value <= high), 'every interval holds its value') FROM result WHERE low IS NOT NULL;
SELECT cmp_ok(count(*), '>=', 10::bigint, 'every metric has one') FROM result WHERE low IS NOT NULL;
SELECT is(round((metrics ->> metric)::numeric, 6), round(value::numeric, 6), 'the version stores the same ' || metric)
  FROM result, serm.version WHERE metric IN ('ndcg@4', 'kappa', 'nll', 'ece', 'accuracy', 'queries') OR metric LIKE 'auroc%' ORDER BY metric;
SELECT cmp_ok(value, '>', 0.8::float8, 'it has learned') FROM result WHERE metric = 'ndcg@4';
SELECT set_eq($$SELECT * FROM serm.evaluate('tap_train', 1, 'test')$$, $$SELECT * FROM result$$, 'the same numbers again, by the version''s number');
SELECT cmp_ok(value, '>', 400::float8, 'the train split can be looked at too') FROM serm.evaluate('tap_train', split => 'train') WHERE metric = 'pairs';
SELECT throws_ok($$SELECT * FROM serm.evaluate('tap_train', split => 'dev')$$, '22023', NULL, 'an unknown split');
SELECT throws_ok($$SELECT * FROM serm.evaluate('tap_train', 9)$$, '42704', NULL, 'an unknown version');
SELECT throws_ok($$SELECT * FROM serm.evaluate('nobody')$$, '42704', NULL, 'an unknown model');

-- --- later versions
CALL serm.train('tap_train', '{"epochs": 2, "heads": 2}');
CALL serm.train('tap_train', '{"epochs": 2, "heads": 2}');
CALL serm.train('tap_train', '{"epochs": 2, "heads": 2, "seed": 5, "promote": true}');
SELECT results_eq($$SELECT version, status, parent FROM serm.version ORDER BY version$$,
	$$VALUES (1, 'retired', NULL), (2, 'candidate', 1), (3, 'candidate', 1), (4, 'active', 1)$$, 'later ones are candidates, unless told otherwise');
SELECT is(count(DISTINCT checksum), 1::bigint, 'the same data and seed give the same bytes') FROM serm.version WHERE version IN (2, 3);
SELECT is(count(DISTINCT checksum), 2::bigint, 'another seed gives others') FROM serm.version WHERE version IN (3, 4);
SELECT ok(bool_and(serm.check_version('tap_train', version)), 'all serve what was trained') FROM serm.version;
INSERT INTO serm.judgment (model, query, doc_id, grade) VALUES ('tap_train', 'red shoe', 'white-lamp', 0);
SELECT ok(serm.check_version('tap_train', 4), 'a later judgment does not disturb the check');
ALTER TABLE serm.version DISABLE TRIGGER USER;
UPDATE serm.version SET config = jsonb_set(config, '{score_crc32c}', '1') WHERE version = 4;
SELECT ok(NOT serm.check_version('tap_train', 4), 'the check fails when a single bit differs');
UPDATE serm.version SET config = config - 'score_crc32c' WHERE version = 4;
SELECT is(serm.check_version('tap_train', 4), NULL, 'it is silent without a checksum');
ALTER TABLE serm.version ENABLE TRIGGER USER;
UPDATE product SET doc = doc || ' New.' WHERE doc_id = 'red-shoe';
SELECT is(serm.check_version('tap_train', 1), NULL, 'and when a text has changed');

-- --- promote: false; no documents; soft labels
SELECT FROM serm.create_model('tap_soft', grades => '{no,perhaps,yes}');
INSERT INTO serm.judgment (model, query, doc, grade, target)
	SELECT 'tap_soft', query, doc, CASE WHEN grade = 3 THEN 1.5 WHEN grade = 2 THEN 1 ELSE 0 END,
		CASE WHEN grade = 2 THEN ARRAY[.7, 0, .3]::real[] END FROM pair WHERE grade > 0 OR hashtext(query || doc_id) % 4 = 0;
CALL serm.train('tap_soft', '{"epochs": 30, "promote": false, "pairwise": 1}');
SELECT is(active, NULL, 'a first version can be kept back') FROM serm.model WHERE name = 'tap_soft';
SELECT throws_ok($$SELECT * FROM serm.evaluate('tap_soft')$$, '55000', NULL, 'then there is nothing active to evaluate');
SELECT is(serm.promote('tap_soft', 1), 1, 'and promoted later');
SELECT ok(probs[1] < .15 AND probs[2] BETWEEN .3 AND .7 AND probs[3] BETWEEN .3 AND .7, 'a grade of 1.5 is half 1, half 2')
  FROM serm.predict('red lamp', E'red lamp\nA red lamp for your home, made to last.', 'tap_soft');
SELECT ok(probs[1] > .3 AND probs[2] < .1 AND probs[3] > .2, 'a target of two peaks is not taken for its mean')
  FROM serm.predict('red lamp', E'blue lamp\nA blue lamp for your home, made to last.', 'tap_soft');
SELECT is((counts ->> 'documents')::int, 36, 'without a table of documents the judged ones are the corpus') FROM serm.version WHERE model = 'tap_soft';

-- --- what agents said: soft or plain
SELECT FROM serm.create_model('tap_agreed', documents => 'product', options => '{"labels": "agreed"}');
INSERT INTO serm.judgment (model, query, doc_id, grade, source) SELECT 'tap_agreed', query, doc_id, CASE WHEN grade = 1 THEN .6 ELSE grade END, 'agents' FROM pair
	WHERE grade > 0;
CALL serm.train('tap_agreed', '{"epochs": 1}');
SELECT is((counts ->> 'judgments')::bigint + (counts ->> 'test_judgments')::bigint, (SELECT count(*) FROM pair WHERE grade > 1),
	'with labels "agreed" the pairs that agents disagreed on are left out') FROM serm.version WHERE model = 'tap_agreed';
SELECT is(metrics ->> 'gold', 'false', 'and the metrics say that nobody but agents graded the test split') FROM serm.version WHERE model = 'tap_agreed';

-- --- an id with two texts has the first of them, wherever they lie in the table
CREATE TABLE twice AS SELECT doc_id, text || doc AS doc FROM product, unnest(ARRAY['', 'Z ']) AS text;
SELECT FROM serm.create_model('tap_twice', documents => 'twice');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'tap_twice', query, doc_id, grade FROM pair;
CALL serm.train('tap_twice', '{"epochs": 1, "pretrain_epochs": 0}');
SELECT ok(serm.check_version('tap_twice', 1), 'a version is checked on the first text of each document');
UPDATE twice SET doc = doc WHERE doc NOT LIKE 'Z %';
SELECT ok(serm.check_version('tap_twice', 1), 'also when the table was rewritten');
SELECT FROM serm.drop_model('tap_twice');

-- --- schedules
SELECT throws_ok($$SELECT serm.schedule('tap_train', '0 3 * * 0')$$, '55000', NULL, 'without pg_cron there is no schedule');
SELECT throws_ok($$SELECT serm.unschedule('tap_train')$$, '55000', NULL, 'and none to remove');
SELECT throws_ok($$SELECT serm.schedule('tap_train', NULL)$$, '22004', NULL, 'a schedule needs a time');
SELECT is(count(*), 0::bigint, 'no progress is left') FROM serm.progress;
SELECT is((SELECT count(*) FROM serm._progress), 0::bigint, 'not even behind the view');
SELECT results_eq($$SELECT model, version, versions, rounds FROM serm.stat_model ORDER BY model$$,
	$$VALUES ('tap_agreed', 1, 1::bigint, 0::bigint), ('tap_soft', 1, 1, 0), ('tap_train', 4, 4, 0)$$, 'serm.stat_model has a row per model');

SELECT * FROM finish();
