-- Generation 0: a model that scores before anybody has graded anything, and what becomes of it once somebody has.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(44);

CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home, made to last.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white,yellow}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS thing;

-- --- the procedure and its options
SELECT isnt_empty($$SELECT FROM pg_proc WHERE oid = 'serm.pretrain(text, jsonb)'::regprocedure AND prokind = 'p'$$, 'serm.pretrain is a procedure');
SELECT FROM serm.create_model('cold', documents => 'product');
SELECT throws_ok($$CALL serm.pretrain('cold')$$, '2D000', NULL, 'not inside a transaction block');
SELECT throws_ok($$CALL serm.pretrain('cold', '{"heads": 4}')$$, '22023', NULL, 'options of heads are unknown to it');
SELECT throws_ok($$CALL serm.pretrain('cold', '{"corpus": 0}')$$, '22023', NULL, 'an option out of range');
SELECT throws_ok($$CALL serm.pretrain('cold', '[]')$$, '22023', NULL, 'options that are no object');
SELECT throws_ok($$SELECT serm.score('red shoe', 'red shoe', 'cold')$$, '55000', 'model "cold" has no active version', 'nothing scores yet');
\set ON_ERROR_STOP 0
CALL serm.pretrain('cold', '{"heads": 4}') \g /dev/null
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', 'an unknown option is an error');
CALL serm.pretrain('nobody') \g /dev/null
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'an unknown model too');
SELECT FROM serm.create_model('bare');
CALL serm.pretrain('bare') \g /dev/null
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'without documents there is nothing to learn from');
CALL serm.train('bare') \g /dev/null
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'nor for serm.train');
\set ON_ERROR_STOP 1
SELECT is(count(*), 0::bigint, 'nothing was stored') FROM serm.version;

-- --- generation 0
CALL serm.pretrain('cold');
SELECT results_eq($$SELECT version, status, parent FROM serm.version$$, $$VALUES (1, 'active', NULL::int)$$, 'the first version is active');
SELECT is(reason, 'first version', 'and the history says why') FROM serm.deployment;
SELECT ok(config @> '{"generation": 0, "seed": 1, "pretrain_epochs": -1, "shown": 10000, "kind": "interaction"}', 'its config has the options') FROM serm.version;
SELECT is(counts, '{"judgments": 0, "queries": 0, "documents": 36, "test_judgments": 0, "test_queries": 0, "shown_pairs": 0}'::jsonb, 'its counts') FROM serm.version;
SELECT is(serm.check_version('cold', 1), NULL, 'nothing was judged that the weights could be checked on');
SELECT is((SELECT doc_id FROM product ORDER BY serm.score('blue chair', doc, 'cold') DESC LIMIT 1), 'blue-chair', 'the right product comes first');
SELECT results_eq($$SELECT split_part(doc_id, '-', 2) FROM product ORDER BY serm.score('pillows', doc, 'cold') DESC, doc_id LIMIT 6$$,
	$$SELECT 'pillow' FROM generate_series(1, 6)$$, 'also for a word that is written otherwise');
SELECT ok(bool_and(s BETWEEN 0 AND 3), 'scores lie within the grades') FROM product, serm.score('blue chair', doc, 'cold') AS s;
SELECT ok(bool_and(p.disagreement = 0 AND p.version = 1 AND abs(p.score - (p.probs[2] + 2 * p.probs[3] + 3 * p.probs[4])) < 1e-5), 'serm.predict agrees, one head disagrees with nobody')
  FROM product, serm.predict('blue chair', doc, 'cold') AS p;
SELECT is((SELECT ordinal FROM serm.rank('blue chair', ARRAY(SELECT doc FROM product ORDER BY doc_id), 'cold', 1)),
	(SELECT n::int FROM (SELECT doc_id, row_number() OVER (ORDER BY doc_id) AS n FROM product) o WHERE doc_id = 'blue-chair'), 'serm.rank works');
SELECT is((SELECT array_agg(serm.score('blue chair', serm.encode(doc), 'cold') ORDER BY doc_id) FROM product),
	(SELECT array_agg(serm.score('blue chair', doc, 'cold') ORDER BY doc_id) FROM product), 'encoded documents give the same bits');
SELECT is((SELECT array_agg(s ORDER BY doc_id) FROM (SELECT doc_id, serm.score_batch('blue chair', doc, 'cold') OVER () AS s FROM product) b),
	(SELECT array_agg(serm.score('blue chair', doc, 'cold') ORDER BY doc_id) FROM product), 'and so do batches');

-- --- again: deterministic, a candidate
CALL serm.pretrain('cold');
SELECT results_eq($$SELECT version, status, parent FROM serm.version ORDER BY 1$$, $$VALUES (1, 'active', NULL::int), (2, 'candidate', 1)$$, 'the next one waits');
SELECT is(count(DISTINCT checksum), 1::bigint, 'with the same bytes') FROM serm.version;
CALL serm.pretrain('cold', '{"seed": 2, "promote": true, "guard": 0.5}');
SELECT results_eq($$SELECT v.version, d.reason FROM serm.version v JOIN serm.deployment d ON d.to_version = v.version WHERE v.status = 'active'$$,
	$$VALUES (3, 'asked for by serm.pretrain')$$, 'unless it is asked for');
SELECT isnt((SELECT checksum FROM serm.version WHERE version = 3), (SELECT checksum FROM serm.version WHERE version = 1), 'another seed gives other bytes');

-- --- serm.train without judgments does the same
SELECT FROM serm.create_model('train', documents => 'product');
CALL serm.train('train');
SELECT is((SELECT checksum FROM serm.version WHERE model = 'train' AND version = 1), (SELECT checksum FROM serm.version WHERE model = 'cold' AND version = 1),
	'serm.train without judgments makes generation 0');
SELECT is(status, 'active', 'and makes it active') FROM serm.version WHERE model = 'train';

-- --- the first judgments
INSERT INTO serm.judgment (model, query, doc_id, grade)
	SELECT m, replace(q.doc_id, '-', ' '), d.doc_id, CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2 ELSE 0 END
	  FROM product q, product d, unnest('{train,only}'::text[]) AS m WHERE m = 'train' AND hashtext(q.doc_id || d.doc_id) % 2 = 0;
SELECT FROM serm.create_model('only', documents => 'product');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'only', query, doc_id, grade FROM serm.judgment WHERE model = 'train' ORDER BY id;
\set VERBOSITY sqlstate
\set ON_ERROR_STOP 0
CALL serm.train('train', '{"epochs": 3, "continue": "always"}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'generation 0 has nothing to continue');
CALL serm.train('train', '{"epochs": 3, "parent": 1}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'also when it is named');
\set ON_ERROR_STOP 1
CALL serm.train('train', '{"epochs": 3, "continue_above": 1}');
SELECT is(config ->> 'continued_from', NULL, 'many judgments start from scratch on it') FROM serm.version WHERE model = 'train' AND version = 2;
SELECT results_eq($$SELECT version, status, parent FROM serm.version WHERE model = 'train' ORDER BY 1$$, $$VALUES (1, 'retired', NULL::int), (2, 'active', 1)$$,
	'the first version with judgments takes the place of generation 0');
SELECT is(reason, 'first version with judgments', 'and the history says so') FROM serm.deployment WHERE model = 'train' AND to_version = 2;
CALL serm.train('only', '{"epochs": 3}');
SELECT is((SELECT checksum FROM serm.version WHERE model = 'only'), (SELECT checksum FROM serm.version WHERE model = 'train' AND version = 2),
	'it has the bytes that it would have without a generation 0');
CALL serm.train('train', '{"epochs": 3, "seed": 2}');
SELECT is(status, 'candidate', 'the next one waits again') FROM serm.version WHERE model = 'train' AND version = 3;
CALL serm.pretrain('train');
SELECT ok(status = 'candidate' AND metrics ->> 'ndcg@4' IS NOT NULL, 'generation 0 beside judgments is a candidate, and measured on them') FROM serm.version WHERE model = 'train' AND version = 4;
SELECT ok(serm.check_version('train', 4), 'and checked on them');

-- --- a log gives the constants
CREATE TABLE log (query text, doc_id text, shown_at timestamptz, position int, clicked bool);
INSERT INTO log SELECT split_part(q.doc_id, '-', 2), d.doc_id, '2024-01-01', 1, false FROM product q, product d;
INSERT INTO log VALUES (NULL, 'red-shoe', '2024-01-01', 1, false), ('lamp', 'gone', '2024-01-01', 1, false);
SELECT FROM serm.create_model('logged', documents => 'product', log => 'log');
CALL serm.pretrain('logged');
SELECT is(counts ->> 'shown_pairs', '216', 'the pairs of the log that have a document, each once') FROM serm.version WHERE model = 'logged';
SELECT isnt((SELECT checksum FROM serm.version WHERE model = 'logged'), (SELECT checksum FROM serm.version WHERE model = 'cold' AND version = 1), 'they change the constants');
CALL serm.pretrain('logged', '{"shown": 0}');
SELECT is((SELECT checksum FROM serm.version WHERE model = 'logged' AND version = 2), (SELECT checksum FROM serm.version WHERE model = 'cold' AND version = 1), 'and only if they are read');
SELECT isnt_empty($$SELECT FROM serm.mine('logged', budget => 10)$$, 'there is something to mine');

-- --- rights are those of serm.train
SELECT is(has_function_privilege('public', 'serm.pretrain(text, jsonb)', 'EXECUTE'), false, 'not for everybody');
CREATE ROLE tap_cold_operator;
SELECT FROM serm.grant_access('tap_cold_operator', 'operate');
SELECT ok(has_function_privilege('tap_cold_operator', 'serm.pretrain(text, jsonb)', 'EXECUTE'), 'but for those who operate');
DROP OWNED BY tap_cold_operator;
DROP ROLE tap_cold_operator;
SELECT * FROM finish();
