-- serm.import_model from files made here: a BERT of one layer, whose numbers are kept bit for bit.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

SELECT plan(69);

-- --- the files of a small model

CREATE TEMP TABLE part (position int GENERATED ALWAYS AS IDENTITY, name text, dtype text, shape int[], data bytea);

-- Numbers that differ from tensor to tensor and are finite in every type.
CREATE FUNCTION pg_temp.numbers(seed text, count int, width int) RETURNS bytea LANGUAGE sql AS $$
	SELECT decode(string_agg(left(md5(seed || i), 2 * width - 2) || '3c', '' ORDER BY i), 'hex') FROM generate_series(1, count) AS i
$$;
CREATE FUNCTION pg_temp.add(name text, dtype text, VARIADIC shape int[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO part (name, dtype, shape, data)
	SELECT name, dtype, shape, pg_temp.numbers(name, (SELECT round(exp(sum(ln(x))))::int FROM unnest(shape) AS x),
		CASE dtype WHEN 'F32' THEN 4 WHEN 'I64' THEN 8 ELSE 2 END)
$$;
CREATE FUNCTION pg_temp.norm(name text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_temp.add(name || '.weight', 'F32', 4), pg_temp.add(name || '.bias', 'F32', 4)
$$;
CREATE FUNCTION pg_temp.linear(name text, outputs int, inputs int, dtype text DEFAULT 'F32') RETURNS void LANGUAGE sql AS $$
	SELECT pg_temp.add(name || '.weight', dtype, outputs, inputs), pg_temp.add(name || '.bias', dtype, outputs)
$$;

-- A safetensors file of the parts that `condition` names.
CREATE FUNCTION pg_temp.file(condition text DEFAULT 'true') RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	header text;
	body bytea;
	prefix bytea := '\x0000000000000000';
BEGIN
	EXECUTE format($q$
		SELECT json_object_agg(name, json_build_object('dtype', dtype, 'shape', shape, 'data_offsets', ARRAY[start, start + length(data)])
			ORDER BY position)::text, string_agg(data, '' ORDER BY position)
		  FROM (SELECT *, coalesce(sum(length(data)) OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS start
		          FROM part WHERE %s) AS placed $q$, condition) INTO header, body;
	FOR i IN 0..3 LOOP
		prefix := set_byte(prefix, i, (length(header) >> 8 * i) & 255);
	END LOOP;
	RETURN prefix || convert_to(header, 'UTF8') || body;
END $$;

CREATE FUNCTION pg_temp.config(labels int, more jsonb DEFAULT '{}') RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to((jsonb_build_object('model_type', 'bert', 'architectures', ARRAY['BertForSequenceClassification'],
		'num_hidden_layers', 1, 'hidden_size', 4, 'num_attention_heads', 2, 'intermediate_size', 8, 'vocab_size', 9,
		'max_position_embeddings', 16, 'num_labels', labels) || more)::text, 'UTF8')
$$;
CREATE FUNCTION pg_temp.vocab() RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(E'[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nblue\npill\n##ow\n##s\n', 'UTF8')
$$;

SELECT count(*) FROM (SELECT
	pg_temp.add('bert.embeddings.position_ids', 'I64', 1, 16),
	pg_temp.add('bert.embeddings.word_embeddings.weight', 'BF16', 9, 4),
	pg_temp.add('bert.embeddings.position_embeddings.weight', 'F16', 16, 4),
	pg_temp.add('bert.embeddings.token_type_embeddings.weight', 'F32', 2, 4),
	pg_temp.norm('bert.embeddings.LayerNorm'),
	pg_temp.linear('bert.encoder.layer.0.attention.self.query', 4, 4),
	pg_temp.linear('bert.encoder.layer.0.attention.self.key', 4, 4, 'F16'),
	pg_temp.linear('bert.encoder.layer.0.attention.self.value', 4, 4),
	pg_temp.linear('bert.encoder.layer.0.attention.output.dense', 4, 4),
	pg_temp.norm('bert.encoder.layer.0.attention.output.LayerNorm'),
	pg_temp.linear('bert.encoder.layer.0.intermediate.dense', 8, 4),
	pg_temp.linear('bert.encoder.layer.0.output.dense', 4, 8),
	pg_temp.norm('bert.encoder.layer.0.output.LayerNorm'),
	pg_temp.linear('bert.pooler.dense', 4, 4),
	pg_temp.linear('classifier', 1, 4)) AS made \g /dev/null

CREATE FUNCTION pg_temp.load(name text, weights bytea, config bytea DEFAULT pg_temp.config(1), vocab bytea DEFAULT pg_temp.vocab(),
	options jsonb DEFAULT '{}', grades text[] DEFAULT NULL) RETURNS int LANGUAGE sql AS $$
	SELECT serm.import_model(name, ARRAY['config.json', 'vocab.txt', 'model.safetensors'], options, grades, contents => ARRAY[config, vocab, weights])
$$;

-- --- the contract

SELECT is(provolatile::text || proparallel::text || proisstrict::text || prosecdef::text, 'vufalsefalse', oid::regprocedure || ' writes, runs alone and handles NULL')
  FROM pg_proc WHERE proname = 'import_model' AND pronamespace = 'serm'::regnamespace ORDER BY pronargs;

-- --- a whole import

SELECT is(pg_temp.load('small', pg_temp.file()), 1, 'an import returns the version');
SELECT is(kind || ' ' || array_to_string(grades, ',') || ' ' || active, 'cross_encoder irrelevant,relevant 1', 'one label is two grades; the version is active')
  FROM serm.model WHERE name = 'small';
SELECT is(status, 'active', 'as its row says') FROM serm.version WHERE model = 'small' AND version = 1;
SELECT results_eq($$SELECT replace(name, 'bert.', ''), lower(dtype), shape::bigint[], data FROM part WHERE dtype <> 'I64' ORDER BY 1$$,
	$$SELECT name, dtype, shape, data FROM serm.tensor WHERE model = 'small' AND name NOT IN ('config', 'tokenizer') ORDER BY name$$,
	'every tensor is stored bit for bit in its own type, without the prefix; positions are not needed');
SELECT is(count(*), 2::bigint, 'config and tokenizer are tensors of bytes') FROM serm.tensor
 WHERE model = 'small' AND name IN ('config', 'tokenizer') AND dtype = 'u8';
SELECT is((convert_from(data, 'UTF8')::jsonb)->>'model_type', 'bert', 'the config is readable') FROM serm.tensor WHERE model = 'small' AND name = 'config';
SELECT is(config->>'architecture' || ' ' || (config->>'layers') || ' ' || (config->>'tokenizer') || ' ' || (config->>'vocab') || ' ' ||
	(config->>'max_length') || ' ' || (config->>'parameters'), 'bert 1 WordPiece 9 16 313', 'the version says what it is')
  FROM serm.version WHERE model = 'small';
SELECT is(action || ' ' || reason, 'promote imported', 'the history too') FROM serm.deployment WHERE model = 'small';
SELECT lives_ok($$SELECT serm.drop_model('small')$$, 'it can be dropped');
SELECT is(count(*), 0::bigint, 'with all its weights') FROM serm.tensor WHERE model = 'small';

-- --- options, grades and labels

SELECT is(pg_temp.load('short', pg_temp.file(), options => '{"max_length": 12, "test_share": 0.3}'), 1, 'options of the model and of the import');
SELECT is((SELECT config->>'max_length' FROM serm.version WHERE model = 'short') || ' ' || (SELECT options->>'test_share' FROM serm.model WHERE name = 'short'),
	'12 0.3', 'are kept');
SELECT is(pg_temp.load('nulls', pg_temp.file(), options => '{"rule": null, "max_length": null}'), 1, 'null is the default');
SELECT is(options->>'rule', 'posterior', 'also for texts') FROM serm.model WHERE name = 'nulls';
SELECT is(pg_temp.load('named', pg_temp.file(), grades => '{no,yes}'), 1, 'grades can be named');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), grades => '{a,b,c}')$$, '22023', 'this model has 1 labels, which are 2 grades, not 3');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), options => '{"max_len": 12}')$$, '22023', NULL, 'an unknown option');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), options => '{"max_length": 7}')$$, '22023', NULL, 'too short an input');
SELECT throws_ok($$SELECT pg_temp.load('Bad', pg_temp.file())$$, '22023', NULL, 'a name that is none');
SELECT throws_ok($$SELECT pg_temp.load('named', pg_temp.file())$$, '42710', 'model "named" already exists');

CREATE TEMP TABLE one_label AS SELECT * FROM part WHERE name LIKE 'classifier%';
DELETE FROM part WHERE name LIKE 'classifier%';
SELECT count(*) FROM (SELECT pg_temp.linear('classifier', 4, 4)) AS made \g /dev/null
SELECT is(pg_temp.load('four', pg_temp.file(), pg_temp.config(4)), 1, 'four labels');
SELECT is(grades, '{bad,fair,good,excellent}', 'are the four grades') FROM serm.model WHERE name = 'four';
DELETE FROM part WHERE name LIKE 'classifier%';
SELECT count(*) FROM (SELECT pg_temp.linear('classifier', 3, 4)) AS made \g /dev/null
SELECT is(pg_temp.load('three', pg_temp.file(), pg_temp.config(3)), 1, 'three labels');
SELECT is(grades, '{0,1,2}', 'are numbered') FROM serm.model WHERE name = 'three';
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), pg_temp.config(1))$$, '22P03', NULL, 'a head that is not what the config says');
DELETE FROM part WHERE name LIKE 'classifier%';
INSERT INTO part (name, dtype, shape, data) SELECT name, dtype, shape, data FROM one_label;

SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), pg_temp.config(11))$$, '0A000',
	'config.json cannot be imported: a head of 11 labels is not supported: 1 label is a score, 2 to 10 are grades');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), pg_temp.config(1, '{"model_type": "t5"}'))$$, '0A000', NULL, 'another architecture');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), pg_temp.config(1, '{"hidden_size": 5}'))$$, '0A000', NULL, 'impossible sizes');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), '{"model_type": ')$$, '22P03', NULL, 'a config that is no JSON');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), pg_temp.config(1, '{"vocab_size": 8}'))$$, '22P03',
	'the tokenizer cannot be imported: the tokenizer has 9 tokens, the encoder only 8');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file(), vocab => 'blue')$$, '22P03', NULL, 'a vocabulary without special tokens');

-- --- files

SELECT throws_ok($$SELECT serm.import_model('bad', '{}'::text[], contents => '{}'::bytea[])$$, '58P01', NULL, 'no config');
SELECT throws_ok($$SELECT serm.import_model('bad', '{config.json}', contents => ARRAY[pg_temp.config(1)])$$, '58P01', NULL, 'no tokenizer');
SELECT throws_ok($$SELECT serm.import_model('bad', '{config.json,vocab.txt,pytorch_model.bin}', contents => ARRAY[pg_temp.config(1), pg_temp.vocab(), 'x'])$$,
	'58P01', NULL, 'no weights that can be read');
SELECT throws_ok($$SELECT serm.import_model('bad', '{a,b}', contents => ARRAY['x'::bytea])$$, '2202E', NULL, 'more names than contents');
SELECT throws_ok($$SELECT serm.import_model('bad', '{a,a}', contents => ARRAY['x'::bytea, 'y'])$$, '22023', NULL, 'a file twice');
SELECT throws_ok($$SELECT serm.import_model('bad', '{a}', contents => ARRAY[NULL::bytea])$$, '22004', NULL, 'a content that is NULL');
SELECT throws_ok($$SELECT serm.import_model('bad', NULL::text[])$$, '22004', NULL, 'no files');
SELECT throws_ok($$SELECT serm.import_model('bad', NULL::text)$$, '22004', NULL, 'no directory');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file() || '\x00')$$, '22P03', NULL, 'a byte behind the weights');
SELECT throws_ok($$SELECT pg_temp.load('bad', substr(pg_temp.file(), 1, length(pg_temp.file()) - 1))$$, '22P03', NULL, 'a byte too few');
SELECT throws_ok($$SELECT pg_temp.load('bad', '\xffffffffffffffff7b7d')$$, '54000', NULL, 'a header without end');
SELECT throws_ok($$SELECT pg_temp.load('bad', ''::bytea)$$, '22P03', NULL, 'nothing at all');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file('name <> ''classifier.bias'''))$$, '22P03',
	'the weights cannot be imported: tensor "classifier.bias" is missing');
INSERT INTO part (name, dtype, shape, data) VALUES ('adapter.weight', 'F32', '{1}', '\x00000000'), ('pooler.dense.bias', 'F32', '{1}', '\x00000000');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file('name <> ''pooler.dense.bias'''))$$, '0A000',
	'model.safetensors cannot be imported: tensor "adapter.weight" is no part of a bert sequence classifier');
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file('name <> ''adapter.weight'''))$$, '22P03', NULL, 'a tensor with and without prefix');
DELETE FROM part WHERE name IN ('adapter.weight', 'pooler.dense.bias');
UPDATE part SET data = '\x0000807f' WHERE name = 'classifier.bias';
SELECT throws_ok($$SELECT pg_temp.load('bad', pg_temp.file())$$, '22P03',
	'the weights cannot be imported: tensor "classifier.bias" has a number that is not finite');
UPDATE part SET data = '\x0000803f' WHERE name = 'classifier.bias';
SELECT is(count(*), 0::bigint, 'nothing is left of what failed') FROM serm.model WHERE name = 'bad';

-- --- literals without a type mean a directory, whatever arguments follow

SELECT throws_ok(format('SELECT serm.import_model(%s)', given), '58P01', 'there is no config.json in /nowhere', given) FROM unnest(ARRAY[
	$$'n', '/nowhere'$$, $$'n', '/nowhere', '{}'$$, $$'n', '/nowhere', '{"precision": "int8"}', '{no,yes}'$$,
	$$'n', '/nowhere', '{}', NULL, NULL, NULL$$, $$'n', '/nowhere', options => '{}', documents => NULL$$]) AS given;
SELECT throws_ok($$SELECT serm.import_model('n', '{config.json}', contents => '{"\\x7b7d"}')$$, '0A000', NULL, 'with contents the second names files');

-- --- several files with an index

CREATE FUNCTION pg_temp.sharded(name text, more jsonb DEFAULT '{}') RETURNS int LANGUAGE sql AS $$
	SELECT serm.import_model(name, '{config.json,vocab.txt,model.safetensors.index.json,m-1.safetensors,m-2.safetensors}',
		contents => ARRAY[pg_temp.config(1), pg_temp.vocab(),
			convert_to(jsonb_build_object('weight_map', (SELECT jsonb_object_agg(part.name, 'm-' || 1 + position % 2 || '.safetensors') FROM part) || more)::text, 'UTF8'),
			pg_temp.file('position % 2 = 0'), pg_temp.file('position % 2 = 1')])
$$;
SELECT is(pg_temp.sharded('shards'), 1, 'weights in two files');
SELECT results_eq($$SELECT replace(name, 'bert.', ''), data FROM part WHERE dtype <> 'I64' ORDER BY 1$$,
	$$SELECT name, data FROM serm.tensor WHERE model = 'shards' AND name NOT IN ('config', 'tokenizer') ORDER BY name$$, 'are put together');
SELECT throws_ok($$SELECT pg_temp.sharded('bad', '{"x": "m-3.safetensors"}')$$, '58P01', NULL, 'a file that is not there');
SELECT throws_ok($$SELECT pg_temp.sharded('bad', '{"x": "../m-1.safetensors"}')$$, '22P03', NULL, 'a file that is elsewhere');
SELECT throws_ok($$SELECT pg_temp.sharded('bad', '{"x": "m-1.safetensors"}')$$, '22P03', NULL, 'a tensor that is not there');

-- --- scoring

SELECT is(pg_temp.load('one', pg_temp.file()), 1, 'a model of one label');
SELECT ok(serm.score('blue pill', 'blue pillow', 'one') BETWEEN 0 AND 1, 'its score is a share of two grades');
SELECT is((p).score || ' ' || (p).version || ' ' || cardinality((p).probs), serm.score('blue pill', 'blue pillow', 'one') || ' 1 2', 'predict agrees')
  FROM serm.predict('blue pill', 'blue pillow', 'one') AS p;
SELECT results_eq($$SELECT ordinal, score FROM serm.rank('blue pill', ARRAY['blue', 'pills pills', 'blue pillow'], 'one') ORDER BY ordinal$$,
	$$SELECT ordinality::int, serm.score('blue pill', doc, 'one') FROM unnest(ARRAY['blue', 'pills pills', 'blue pillow']) WITH ORDINALITY AS d (doc, ordinality)$$,
	'a batch gives the bits of single scores');
SELECT throws_ok($$SELECT serm.score('blue', serm.encode('pill'), 'one')$$, '22023', NULL, 'an encoded document does not hold the text');
SELECT is((SELECT round(sum(contribution)::numeric, 4) FROM serm.explain('blue', 'pill', 'one')), round(serm.score('blue', 'pill', 'one')::numeric, 4), 'scores are explained');
SELECT throws_ok($$SELECT pg_temp.load('modern', pg_temp.file(), pg_temp.config(1, '{"model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"], "pad_token_id": 0}'))$$,
	'22P03', 'the tokenizer cannot be imported: the tokenizer uses 2 token types, the encoder has only 1', 'a tokenizer of another architecture');
SELECT ok(serm.score(repeat('blue ', 1000), repeat('pill ', 1000), 'one') BETWEEN 0 AND 1, 'what is too long is cut');

SELECT * FROM finish();
