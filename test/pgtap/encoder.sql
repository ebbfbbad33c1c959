-- Training a cross-encoder: what it reads, begins with, stores, keeps and refuses, and that it learns.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(70);

-- --- a BERT of one layer with small random weights, four labels, and the words of the products as its vocabulary

CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for home', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white,yellow}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS thing;
CREATE VIEW pair AS
	SELECT replace(q.doc_id, '-', ' ') AS query, d.doc_id, d.doc,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END AS grade
	  FROM product q, product d;

CREATE TABLE part (position int GENERATED ALWAYS AS IDENTITY, name text, shape int[], data bytea);
CREATE FUNCTION little_endian(x real) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT substr(float4send(x), 4, 1) || substr(float4send(x), 3, 1) || substr(float4send(x), 2, 1) || substr(float4send(x), 1, 1)
$$;
CREATE FUNCTION add(name text, middle real, spread real, VARIADIC shape int[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO part (name, shape, data) SELECT name, shape, string_agg(little_endian((middle + spread * sin(i * i + hashtext(name) % 1000))::real), '' ORDER BY i)
	  FROM generate_series(1, (SELECT round(exp(sum(ln(x))))::int FROM unnest(shape) AS x)) AS i
$$;
CREATE FUNCTION norm(name text) RETURNS void LANGUAGE sql AS $$
	SELECT add(name || '.weight', 1, 0, 16), add(name || '.bias', 0, 0, 16)
$$;
CREATE FUNCTION linear(name text, outputs int, inputs int) RETURNS void LANGUAGE sql AS $$
	SELECT add(name || '.weight', 0, .2, outputs, inputs), add(name || '.bias', 0, 0, outputs)
$$;
SELECT count(*) FROM (SELECT
	add('bert.embeddings.word_embeddings.weight', 0, .3, 21, 16),
	add('bert.embeddings.position_embeddings.weight', 0, .1, 32, 16),
	add('bert.embeddings.token_type_embeddings.weight', 0, .3, 2, 16),
	norm('bert.embeddings.LayerNorm'),
	linear('bert.encoder.layer.0.attention.self.query', 16, 16),
	linear('bert.encoder.layer.0.attention.self.key', 16, 16),
	linear('bert.encoder.layer.0.attention.self.value', 16, 16),
	linear('bert.encoder.layer.0.attention.output.dense', 16, 16),
	norm('bert.encoder.layer.0.attention.output.LayerNorm'),
	linear('bert.encoder.layer.0.intermediate.dense', 32, 16),
	linear('bert.encoder.layer.0.output.dense', 16, 32),
	norm('bert.encoder.layer.0.output.LayerNorm'),
	linear('bert.pooler.dense', 16, 16),
	linear('classifier', 4, 16)) AS made \g /dev/null

CREATE FUNCTION weights() RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	header text;
	body bytea;
	prefix bytea := '\x0000000000000000';
BEGIN
	SELECT json_object_agg(name, json_build_object('dtype', 'F32', 'shape', shape, 'data_offsets', ARRAY[start, start + length(data)])
			ORDER BY position)::text, string_agg(data, '' ORDER BY position) INTO header, body
	  FROM (SELECT *, coalesce(sum(length(data)) OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS start
	          FROM part) AS placed;
	FOR i IN 0..3 LOOP
		prefix := set_byte(prefix, i, (length(header) >> 8 * i) & 255);
	END LOOP;
	RETURN prefix || convert_to(header, 'UTF8') || body;
END $$;
CREATE FUNCTION load(name text) RETURNS int LANGUAGE sql AS $$
	SELECT serm.import_model(name, ARRAY['config.json', 'vocab.txt', 'model.safetensors'], contents => ARRAY[convert_to(jsonb_build_object('model_type', 'bert',
			'architectures', ARRAY['BertForSequenceClassification'], 'num_hidden_layers', 1, 'hidden_size', 16, 'num_attention_heads', 2,
			'intermediate_size', 32, 'vocab_size', 21, 'max_position_embeddings', 32, 'num_labels', 4)::text, 'UTF8'),
		convert_to(E'[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nblue\ngreen\nblack\nwhite\nyellow\nshoe\nlamp\nchair\ntable\npillow\ncarpet\na\nfor\nhome\n##s\n', 'UTF8'),
		weights()], documents => 'product')
$$;

SELECT is(load('small'), 1, 'a model is imported');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'small', query, doc_id, grade FROM pair
	WHERE grade > 0 OR hashtext(query || doc_id) % 4 = 0;

-- --- it learns, beside the version it begins with

CALL serm.train('small', '{"epochs": 3, "learning_rate": 0.003}');
SELECT results_eq($$SELECT version, status, parent, seed FROM serm.version ORDER BY 1$$, $$VALUES (1, 'active', NULL::int, 0::bigint), (2, 'candidate', 1, 1)$$,
	'the new version waits beside the one it began with');
SELECT ok(config @> '{"kind": "cross_encoder", "epochs": 3, "learning_rate": 0.003, "batch": 32, "warmup": 0.1, "loss": "ce:1, ranknet:0.3", "begun_with": 1,
	"architecture": "bert", "layers": 1, "hidden": 16, "heads": 2, "tokenizer": "WordPiece", "vocab": 21, "tokens_max": 32}',
	'its config has the options as used, and what it is') FROM serm.version WHERE version = 2;
SELECT is(counts, jsonb_build_object('judgments', train, 'test_judgments', test, 'queries', queries, 'test_queries', test_queries, 'documents', 0),
		'its counts are those of the splits')
  FROM serm.version, (SELECT count(*) FILTER (WHERE split = 'train') AS train, count(*) FILTER (WHERE split = 'test') AS test,
		count(DISTINCT query) FILTER (WHERE split = 'train') AS queries, count(DISTINCT query) FILTER (WHERE split = 'test') AS test_queries
	FROM serm.judgment, serm.split_of(query) AS split) AS s WHERE version = 2;
SELECT results_eq($$SELECT name, dtype, shape FROM serm.tensor WHERE version = 2 ORDER BY name$$,
	$$SELECT name, dtype, shape FROM serm.tensor WHERE version = 1 ORDER BY name$$, 'it has the tensors of its parent');
SELECT ok(serm.check_version('small', 2), 'it serves, bit for bit, what was trained');
SELECT lives_ok($$SELECT serm.alter_model('small', '{"precision": "bf16", "long_documents": "chunk_max"}')$$, 'however it is scored');
SELECT ok(serm.check_version('small', 2), 'its weights are those that were trained');
SELECT lives_ok($$SELECT serm.alter_model('small', '{"precision": "f32", "long_documents": "truncate"}')$$, 'and back');
CREATE TABLE loss AS SELECT v AS version, e.split, m.value FROM generate_series(1, 2) AS v, unnest('{train,test}'::text[]) AS e(split),
	LATERAL serm.evaluate('small', v, e.split) AS m WHERE m.metric = 'nll';
SELECT cmp_ok((SELECT value FROM loss WHERE version = 2 AND split = 'train'), '<', (SELECT value - .1 FROM loss WHERE version = 1 AND split = 'train'),
	'the loss on what it learned from falls');
SELECT cmp_ok((SELECT value FROM loss WHERE version = 2 AND split = 'test'), '<', (SELECT value - .1 FROM loss WHERE version = 1 AND split = 'test'),
	'and on queries that it has not seen');
SELECT is(round((metrics ->> 'nll')::numeric, 6), (SELECT round(value::numeric, 6) FROM loss WHERE version = 2 AND split = 'test'), 'its metrics say so')
  FROM serm.version WHERE version = 2;
SELECT is(count(*), 0::bigint, 'no checkpoint is left') FROM serm._checkpoint;
SELECT is(count(*), 0::bigint, 'and no progress') FROM serm._progress;

-- --- the same gives the same; what differs differs

CALL serm.train('small', '{"epochs": 3, "learning_rate": 0.003, "checkpoint": 0}');
SELECT is((SELECT checksum FROM serm.version WHERE version = 3), (SELECT checksum FROM serm.version WHERE version = 2),
	'the same judgments and options give the same bytes, with and without checkpoints');
SELECT is(count(*), 0::bigint, 'which are removed at the end') FROM serm._checkpoint;
CALL serm.train('small', '{"epochs": 3, "learning_rate": 0.003, "seed": 2, "checkpoint": -1}');
SELECT isnt((SELECT checksum FROM serm.version WHERE version = 4), (SELECT checksum FROM serm.version WHERE version = 2), 'another seed gives others');
CALL serm.train('small', '{"epochs": 1, "layers_frozen": 1}');
SELECT is(count(*), 23::bigint, 'embeddings and a frozen layer stay as they were')
  FROM serm.tensor a JOIN serm.tensor b USING (name, part) WHERE a.version = 1 AND b.version = 5 AND a.data = b.data AND a.name ~ '^(embeddings|encoder|config|tokenizer)';
SELECT isnt(a.data, b.data, 'what is above learns') FROM serm.tensor a, serm.tensor b
 WHERE a.name = 'classifier.weight' AND b.name = a.name AND a.version = 1 AND b.version = 5;
CALL serm.train('small', '{"epochs": 2, "learning_rate": 0.003, "loss": "ranknet", "source_weights": "human:0.5", "class_weights": true, "max_length": 16}');
SELECT ok((config ->> 'temperature')::float8 > 0 AND config @> '{"class_weights": true, "max_length": 16}', 'losses, weights and lengths can be chosen')
  FROM serm.version WHERE version = 6;

-- --- promote, continue, roll back, remove

SELECT is(serm.promote('small', 2), 2, 'it is promoted');
SELECT isnt(serm.score('red shoe', E'red shoe\nA red shoe for home', 'small'), serm.score_version('red shoe', E'red shoe\nA red shoe for home', 'small', 1), 'and scores');
CALL serm.train('small', '{"epochs": 1, "continue": "always", "learning_rate": 0.001}');
SELECT results_eq($$SELECT parent, config ->> 'continued_from', config ->> 'begun_with', metrics ? 'forgetting' FROM serm.version WHERE version = 7$$,
	$$VALUES (2, '2', '2', true)$$, 'the active version can be continued, and what it forgets is measured');
CALL serm.train('small', '{"epochs": 1, "parent": 4}');
SELECT is(parent, 4, 'or one that is named') FROM serm.version WHERE version = 8;
CALL serm.train('small', '{"epochs": 1}');
SELECT is(parent, 1, 'without being asked training begins with the imported version again') FROM serm.version WHERE version = 9;
CALL serm.train('small', '{"epochs": 1, "promote": true, "reference": 2, "loss": "ce:1, kl:0.5"}');
SELECT is(active, 10, 'promotion can be asked for, and a version be the teacher') FROM serm.model WHERE name = 'small';
SELECT is(serm.rollback('small'), 2, 'and taken back');

-- --- distillation: as a student, and as a teacher

CREATE TABLE shown AS SELECT query, doc_id, now() AS shown_at, 1 AS position, false AS clicked FROM pair;
SELECT FROM serm.create_model('mentor', documents => 'product');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'mentor', query, doc_id, grade FROM pair;
CALL serm.train('mentor', '{"epochs": 10, "heads": 2, "pretrain_epochs": 1}');
SELECT FROM load('pupil');
SELECT FROM serm.alter_model('pupil', log => 'shown');
CALL serm.distill('pupil', 'mentor', '{"epochs": 20, "learning_rate": 0.005, "batch": 16, "unlabelled": 900, "temperature": 2}');
SELECT ok(status = 'candidate' AND parent = 1 AND config @> '{"kind": "cross_encoder", "teacher": "mentor", "teacher_version": 1, "begun_with": 1, "alpha": 0.9, "unlabelled": 900,
	"loss": "ce:1, ranknet:0.3, kl(temperature=2):1, margin_mse:1"}' AND counts @> '{"judgments": 0, "taught": 900, "unlabelled": 900}',
	'a cross-encoder is a student: ' || config::text) FROM serm.version WHERE model = 'pupil' AND version = 2;
SELECT ok(serm.check_version('pupil', 2) IS NOT FALSE, 'it serves what was trained');
SELECT cmp_ok(corr(serm.score_version(query, doc, 'pupil', 2), serm.score(query, doc, 'mentor')), '>',
	corr(serm.score_version(query, doc, 'pupil', 1), serm.score(query, doc, 'mentor')) + .1, 'and follows its teacher') FROM pair;
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'pupil', query, doc_id, 3 - grade FROM pair WHERE hashtext(query) % 3 = 0;
CALL serm.distill('pupil', 'mentor', '{"epochs": 1, "unlabelled": 60, "alpha": 0.2, "checkpoint": 0, "loss": "ce, ranknet_teacher"}');
CALL serm.distill('pupil', 'mentor', '{"epochs": 1, "unlabelled": 60, "alpha": 0.2, "checkpoint": -1, "loss": "ce, ranknet_teacher"}');
CALL serm.distill('pupil', 'mentor', '{"epochs": 1, "unlabelled": 60, "alpha": 0.9, "checkpoint": -1, "loss": "ce, ranknet_teacher"}');
SELECT ok(count(DISTINCT checksum) = 2 AND min(checksum) FILTER (WHERE version < 5) = max(checksum) FILTER (WHERE version < 5),
	'alpha decides, the same call gives the same bytes') FROM serm.version WHERE model = 'pupil' AND version > 2;
SELECT FROM serm.create_model('quick', documents => 'product', log => 'shown');
CALL serm.distill('quick', 'pupil', '{"teacher_version": 2, "heads": 2, "pretrain_epochs": 1}');
SELECT ok(config @> '{"teacher": "pupil", "teacher_version": 2, "teacher_kind": "cross_encoder"}', 'and a teacher') FROM serm.version WHERE model = 'quick';
SELECT cmp_ok(corr(serm.score(query, doc, 'quick'), serm.score_version(query, doc, 'pupil', 2)), '>', .3::float8, 'that is followed') FROM pair;
SELECT throws_ok($$CALL serm.distill('pupil', 'mentor', '{"heads": 2}')$$, '22023', NULL, 'options are those of its kind');
SELECT FROM serm.drop_model('mentor');
SELECT FROM serm.drop_model('pupil');
SELECT FROM serm.drop_model('quick');

-- --- what is refused

SELECT throws_ok($$CALL serm.train('small', '{"heads": 4}')$$, '22023', NULL, 'an option of the other kind');
SELECT throws_ok($$CALL serm.train('small', '{"layers_frozen": -1}')$$, '22023', NULL, 'a number out of range');
SELECT throws_ok($$CALL serm.train('small', '{"warmup": 2}')$$, '22023', NULL, 'a share above 1');
SELECT throws_ok($$CALL serm.train('small', '{"loss": "nonsense"}')$$, '22023', NULL, 'an unknown loss');
SELECT throws_ok($$CALL serm.train('small', '{"continue": "never", "parent": 2}')$$, '22023', NULL, 'options that contradict each other');
SELECT throws_ok($$CALL serm.train('small')$$, '2D000', NULL, 'a call in a transaction block');
SELECT throws_ok($$CALL serm.pretrain('small', '{"heads": 1}')$$, '22023', NULL, 'an option that pretraining lacks');
SELECT lives_ok($$INSERT INTO serm.agent (model, name, judge) VALUES ('small', 'x', 'f(text,text)')$$, 'a round has options of its own');
SELECT is(has_table_privilege('public', 'serm._checkpoint', 'SELECT'), false, 'checkpoints are nobody else''s affair');
\set VERBOSITY sqlstate
\set ON_ERROR_STOP 0
CALL serm.pretrain('small');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '0A000', 'an imported model is pre-trained already');
CALL serm.merge_versions('small', '{2,4}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '0A000', 'versions of encoders are not merged');
CALL serm.train('small', '{"parent": 99}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'an unknown version to begin with');
\set ON_ERROR_STOP 1
SELECT lives_ok($$SELECT serm.drop_model('small')$$, 'the model can be dropped');
SELECT is(count(*), 0::bigint, 'with all its weights') FROM serm.tensor;

-- --- an encoder from nothing

SELECT lives_ok($$SELECT serm.create_model('own', 'cross_encoder', documents => 'product',
	options => '{"layers": 1, "hidden": 32, "heads": 2, "vocab": 200, "max_length": 32}')$$, 'a cross-encoder is created');
SELECT ok(options @> '{"layers": 1, "hidden": 32, "heads": 2, "intermediate": 128, "vocab": 200, "max_length": 32, "test_share": 0.2}', 'its shape is kept')
  FROM serm.model WHERE name = 'own';
CALL serm.pretrain('own', '{"epochs": 30, "batch": 12, "learning_rate": 0.004}');
SELECT results_eq($$SELECT version, status, parent, config ->> 'generation', (config ->> 'heads')::int FROM serm.version$$, $$VALUES (1, 'active', NULL::int, '0', 2)$$,
	'generation 0 is active');
SELECT ok(config @> '{"epochs": 30, "mask": 0.15, "architecture": "bert", "layers": 1, "hidden": 32, "tokenizer": "WordPiece", "tokens_max": 32}', 'and says what it is')
  FROM serm.version;
SELECT is(counts ->> 'documents', '36', 'it was learned from the documents') FROM serm.version;
SELECT matches(convert_from(data, 'UTF8'), '"vocab_size": ?[0-9]+', 'its config is that of a BERT') FROM serm.tensor WHERE name = 'config';
SELECT ok(bool_and(s BETWEEN 0 AND 3), 'it scores between the lowest and the highest grade') FROM product, serm.score('red shoe', doc, 'own') AS s;
CALL serm.pretrain('own', '{"epochs": 30, "batch": 12, "learning_rate": 0.004}');
SELECT is(count(DISTINCT checksum), 1::bigint, 'the same documents give the same bytes') FROM serm.version;
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'own', query, doc_id, grade FROM pair WHERE grade > 0 OR hashtext(query || doc_id) % 4 = 0;
CALL serm.train('own', '{"epochs": 3}');
SELECT results_eq($$SELECT version, status, parent FROM serm.version ORDER BY 1$$, $$VALUES (1, 'retired', NULL::int), (2, 'candidate', 1), (3, 'active', 2)$$,
	'the first version with judgments takes its place');
SELECT cmp_ok((SELECT value FROM serm.evaluate('own', 3, 'train') WHERE metric = 'nll'), '<',
	(SELECT value - .1 FROM serm.evaluate('own', 2, 'train') WHERE metric = 'nll'), 'and knows the grades better');
SELECT ok(serm.check_version('own', 3), 'it serves what was trained');

SELECT FROM serm.create_model('direct', 'cross_encoder', documents => 'product', options => '{"layers": 1, "hidden": 16, "heads": 1, "vocab": 100, "max_length": 24}');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'direct', query, doc_id, grade FROM pair WHERE grade > 1;
CALL serm.train('direct', '{"epochs": 1, "checkpoint": -1}');
SELECT results_eq($$SELECT version, status, parent FROM serm.version WHERE model = 'direct' ORDER BY 1$$, $$VALUES (1, 'retired', NULL::int), (2, 'active', 1)$$,
	'training makes what is not there yet');

SELECT throws_ok($$SELECT serm.create_model('bad', options => '{"layers": 2}')$$, '22023', NULL, 'a default model has no layers');
SELECT throws_ok($$SELECT serm.create_model('bad', 'cross_encoder', options => '{"hidden": 100, "heads": 3}')$$, '22023', NULL, 'sizes that do not fit together');
SELECT throws_ok($$SELECT serm.create_model('bad', 'cross_encoder', options => '{"vocab": 10}')$$, '22023', NULL, 'a vocabulary that is too small');
SELECT throws_ok($$SELECT serm.create_model('bad', 'transformer')$$, '22023', NULL, 'an unknown kind');
SELECT throws_ok($$SELECT serm.alter_model('own', '{"layers": 2}')$$, '22023', NULL, 'the shape is settled');
SELECT is(serm.alter_model('own', '{"rule": "quorum"}') ->> 'layers', '1', 'other options are not');
SELECT throws_ok($$CALL serm.pretrain('own', '{"guard": 1}')$$, '22023', NULL, 'an option of the other kind');
SELECT FROM serm.create_model('empty', 'cross_encoder');
\set ON_ERROR_STOP 0
CALL serm.pretrain('empty');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'there is nothing to learn from');
SET serm.train_memory = '64MB';
SELECT FROM serm.create_model('large', 'cross_encoder', documents => 'product', options => '{"layers": 12, "hidden": 768, "heads": 12}');
CALL serm.pretrain('large');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '53200', 'too little memory is told before the start');
SELECT is(count(*), 0::bigint, 'nothing is left of it') FROM serm.progress;
SELECT * FROM finish();
