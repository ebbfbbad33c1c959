-- Cross-encoders in the database: precision, long documents, token documents, explanations, over a small random BERT.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

SELECT plan(34);

-- --- the files of a model of two layers

CREATE TEMP TABLE part (position int GENERATED ALWAYS AS IDENTITY, name text, shape int[], data bytea);
-- Numbers between -1 and 1, other ones for each seed, times `spread`, plus `center`.
CREATE FUNCTION pg_temp.add(name text, shape int[], spread float8 DEFAULT 1, center float8 DEFAULT 0) RETURNS void LANGUAGE sql AS $$
	INSERT INTO part (name, shape, data)
	SELECT name, shape, string_agg((SELECT string_agg(substr(wire, 5 - b, 1), '' ORDER BY b) FROM generate_series(1, 4) AS b), '' ORDER BY i)
	  FROM generate_series(1, (SELECT round(exp(sum(ln(x))))::int FROM unnest(shape) AS x)) AS i,
	       LATERAL (SELECT float4send((center + spread * hashtextextended(name || i, 0) / 9.3e18)::real) AS wire) AS w
$$;
CREATE FUNCTION pg_temp.linear(name text, outputs int, inputs int) RETURNS void LANGUAGE sql AS $$
	SELECT pg_temp.add(name || '.weight', ARRAY[outputs, inputs], 2 / sqrt(inputs)), pg_temp.add(name || '.bias', ARRAY[outputs], .3)
$$;
CREATE FUNCTION pg_temp.norm(name text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_temp.add(name || '.weight', '{16}', .3, 1), pg_temp.add(name || '.bias', '{16}', .3)
$$;
CREATE FUNCTION pg_temp.layer(base text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_temp.linear(base || '.attention.self.query', 16, 16), pg_temp.linear(base || '.attention.self.key', 16, 16),
		pg_temp.linear(base || '.attention.self.value', 16, 16), pg_temp.linear(base || '.attention.output.dense', 16, 16),
		pg_temp.norm(base || '.attention.output.LayerNorm'), pg_temp.linear(base || '.intermediate.dense', 32, 16),
		pg_temp.linear(base || '.output.dense', 16, 32), pg_temp.norm(base || '.output.LayerNorm')
$$;
SELECT count(*) FROM (SELECT pg_temp.add('embeddings.word_embeddings.weight', '{20,16}'), pg_temp.add('embeddings.position_embeddings.weight', '{24,16}', .5),
	pg_temp.add('embeddings.token_type_embeddings.weight', '{2,16}', .5), pg_temp.norm('embeddings.LayerNorm'),
	pg_temp.layer('encoder.layer.0'), pg_temp.layer('encoder.layer.1'), pg_temp.linear('pooler.dense', 16, 16),
	pg_temp.linear('classifier', 4, 16)) AS made \g /dev/null
CREATE FUNCTION pg_temp.weights() RETURNS bytea LANGUAGE sql AS $$
	WITH placed AS (SELECT *, coalesce(sum(length(data)) OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS start FROM part),
	file AS (SELECT convert_to(json_object_agg(name, json_build_object('dtype', 'F32', 'shape', shape, 'data_offsets', ARRAY[start, start + length(data)])
		ORDER BY position)::text, 'UTF8') AS header, string_agg(data, '' ORDER BY position) AS body FROM placed)
	SELECT set_byte(set_byte('\x0000000000000000', 0, length(header) & 255), 1, length(header) >> 8) || header || body FROM file
$$;
CREATE FUNCTION pg_temp.load(name text, options jsonb DEFAULT '{}', words text DEFAULT 'blue pill ##ow ##s soft red lamp desk oak a the , . for home') RETURNS int
LANGUAGE sql AS $$
	SELECT serm.import_model(name, ARRAY['config.json', 'vocab.txt', 'model.safetensors'], ARRAY[convert_to(jsonb_build_object('model_type', 'bert',
		'architectures', ARRAY['BertForSequenceClassification'], 'num_hidden_layers', 2, 'hidden_size', 16, 'num_attention_heads', 2,
		'intermediate_size', 32, 'vocab_size', 20, 'max_position_embeddings', 24, 'num_labels', 4)::text, 'UTF8'),
		convert_to(replace('[PAD] [UNK] [CLS] [SEP] [MASK] ' || words, ' ', E'\n'), 'UTF8'), pg_temp.weights()], options)
$$;
CREATE TEMP TABLE pair (id int GENERATED ALWAYS AS IDENTITY, query text, doc text);
INSERT INTO pair (query, doc) VALUES ('blue pillow', E'soft blue pillow\na soft pillow for the home'), ('red lamp', 'oak desk'), ('pills', ''), ('', 'red'),
	('oak desk', repeat('a red lamp, the soft pillows. ', 12) || 'oak desk'), (repeat('blue ', 30), repeat('pillow ', 30)), ('desk', 'a [SEP] b');

-- --- precision

SELECT is(pg_temp.load('m'), 1, 'a model');
SELECT is(options ->> 'precision', 'f32', 'f32 is the default') FROM serm.model WHERE name = 'm';
CREATE TEMP TABLE exact AS SELECT id, serm.score(query, doc, 'm') AS score FROM pair;
SELECT cmp_ok(stddev(score), '>', .1::float8, 'scores differ') FROM exact;
CREATE FUNCTION pg_temp.apart() RETURNS float8 LANGUAGE sql AS $$ SELECT max(abs(e.score - serm.score(query, doc, 'm'))) FROM pair JOIN exact AS e USING (id) $$;
CREATE FUNCTION pg_temp.files() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(regexp_replace(f, '.*\.m\.1\.[0-9a-f]*', 'm'), ' ' ORDER BY f) FROM pg_ls_dir('serm') AS f WHERE f LIKE '%.m.1.%'
$$;
SELECT is(pg_temp.files(), 'm', 'with a cache file');
SELECT is(serm.alter_model('m', '{"precision": "bf16"}') ->> 'precision', 'bf16', 'alter_model chooses another one');
SELECT ok(pg_temp.apart() BETWEEN 1e-7 AND .03, 'bf16: other scores that differ little, at the next statement');
SELECT is(pg_temp.files(), 'm.bf16', 'from a file of its own; the other one is gone');
SELECT is(serm.alter_model('m', '{"precision": "int8"}') ->> 'precision', 'int8', 'int8');
SELECT ok(pg_temp.apart() < .15, 'int8: scores that differ little');
SELECT is(serm.alter_model('m', '{"precision": null}') ->> 'precision', 'f32', 'null is the default');
SELECT is(pg_temp.apart(), 0::float8, 'f32 again: the old bits');
BEGIN;
SELECT FROM serm.alter_model('m', '{"precision": "bf16"}');
SELECT cmp_ok(pg_temp.apart(), '>', 0::float8, 'within a transaction');
ROLLBACK;
SELECT is(pg_temp.apart(), 0::float8, 'that is rolled back');
SELECT is(pg_temp.load('narrow', '{"precision": "bf16"}'), 1, 'import_model takes it too');
SELECT is(options ->> 'precision', 'bf16', 'and keeps it') FROM serm.model WHERE name = 'narrow';
SELECT throws_ok($$SELECT serm.alter_model('m', '{"precision": "f64"}')$$, '22023', 'option "precision" of serm.alter_model has an unknown value');
SELECT throws_ok($$SELECT pg_temp.load('bad', '{"precision": 8}')$$, '22023', NULL, 'a number is none');
SELECT throws_ok($$SELECT serm.create_model('plain', options => '{"precision": "int8"}')$$, '22023', NULL, 'the default kind has no precision');
SELECT lives_ok($$SELECT serm.drop_model('narrow')$$, 'dropped');

-- --- long documents: an input of 24 tokens, 3 of them special

CREATE TEMP TABLE words AS SELECT n, (regexp_split_to_array('blue pill soft red lamp desk oak a the for home', ' '))[1 + abs(hashtext(n::text)) % 11] AS word
	FROM generate_series(0, 39) AS n;
CREATE FUNCTION pg_temp.slice(first int, count int) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(word, ' ' ORDER BY n) FROM words WHERE n >= first AND n < first + count
$$;
INSERT INTO pair (query, doc) SELECT 'oak desk', pg_temp.slice(0, n) FROM generate_series(17, 40) AS n;
TRUNCATE exact;
INSERT INTO exact SELECT id, serm.score(query, doc, 'm') AS score FROM pair;
SELECT is(serm.alter_model('m', '{"long_documents": "chunk_first", "chunk_count": 1, "chunk_overlap": 4}') ->> 'long_documents', 'chunk_first', 'the first chunk');
SELECT is(pg_temp.apart(), 0::float8, 'is what a document is cut to, bit for bit');
SELECT is(serm.alter_model('m', '{"long_documents": "chunk_max"}') ->> 'chunk_overlap', '4', 'all chunks');
SELECT is(count(*), 0::bigint, 'short documents: the same bits') FROM pair JOIN exact AS e USING (id)
 WHERE query = 'oak desk' AND cardinality(regexp_split_to_array(doc, ' ')) <= 19 AND e.score <> serm.score(query, doc, 'm');
SELECT is(count(*), 0::bigint, 'no document loses') FROM pair JOIN exact AS e USING (id) WHERE e.score > serm.score(query, doc, 'm');
SELECT cmp_ok(count(*), '>', 3::bigint, 'some gain') FROM pair JOIN exact AS e USING (id) WHERE e.score < serm.score(query, doc, 'm');
SELECT is(serm.score('oak desk', pg_temp.slice(0, 20), 'm'), greatest(serm.score('oak desk', pg_temp.slice(0, 19), 'm'), serm.score('oak desk', pg_temp.slice(1, 19), 'm')),
	'one token more is a second chunk, which reaches back');
SELECT is(serm.score('oak desk', pg_temp.slice(0, 40), 'm'), greatest(serm.score('oak desk', pg_temp.slice(0, 19), 'm'),
	serm.score('oak desk', pg_temp.slice(15, 19), 'm'), serm.score('oak desk', pg_temp.slice(21, 19), 'm')), 'chunks overlap; the last one ends with the document');
SELECT is((serm.predict('oak desk', pg_temp.slice(0, 40), 'm')).score, serm.score('oak desk', pg_temp.slice(0, 40), 'm'), 'a prediction is that of one chunk');
SELECT is(count(*), 0::bigint, 'chunks in a batch: the same bits') FROM (SELECT id, serm.score_batch(query, doc, 'm') OVER (ORDER BY doc
	ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS score FROM pair) AS b JOIN pair USING (id) WHERE b.score <> serm.score(query, doc, 'm');
SELECT FROM serm.alter_model('m', '{"long_documents": "chunk_first", "chunk_count": 2}');
SELECT is(serm.score('oak desk', pg_temp.slice(0, 40), 'm'), greatest(serm.score('oak desk', pg_temp.slice(0, 19), 'm'), serm.score('oak desk', pg_temp.slice(15, 19), 'm')),
	'the first two of three');
SELECT FROM serm.alter_model('m', '{"chunk_overlap": 1000}');
SELECT is(serm.score('oak desk', pg_temp.slice(0, 40), 'm'), greatest(serm.score('oak desk', pg_temp.slice(0, 19), 'm'), serm.score('oak desk', pg_temp.slice(10, 19), 'm')),
	'an overlap is half a chunk at most');
SELECT throws_ok($$SELECT serm.alter_model('m', '{"long_documents": "chunk"}')$$, '22023', NULL, 'no such mode');
SELECT throws_ok($$SELECT serm.alter_model('m', '{"chunk_count": 0}')$$, '22023', NULL, 'no chunk at all');
SELECT FROM serm.alter_model('m', '{"long_documents": null}');
SELECT is(pg_temp.apart(), 0::float8, 'cut again: the old bits');

SELECT * FROM finish();
