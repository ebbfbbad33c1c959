-- Cross-encoders in the database: precision, long documents, token documents, explanations, over a small random BERT.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

SELECT plan(87);

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
	SELECT serm.import_model(name, ARRAY['config.json', 'vocab.txt', 'model.safetensors'], contents => ARRAY[convert_to(jsonb_build_object('model_type', 'bert',
		'architectures', ARRAY['BertForSequenceClassification'], 'num_hidden_layers', 2, 'hidden_size', 16, 'num_attention_heads', 2,
		'intermediate_size', 32, 'vocab_size', 20, 'max_position_embeddings', 24, 'num_labels', 4)::text, 'UTF8'),
		convert_to(replace('[PAD] [UNK] [CLS] [SEP] [MASK] ' || words, ' ', E'\n'), 'UTF8'), pg_temp.weights()], options => options)
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
	SELECT string_agg(regexp_replace(f, '.*\.m\.1\.[0-9a-f]*', 'm'), ' ' ORDER BY f) FROM pg_ls_dir('serm') AS f
	WHERE f LIKE '%.' || (SELECT oid FROM pg_database WHERE datname = current_database()) || '.m.1.%'
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

-- --- libraries: skipped where they are not installed

CREATE FUNCTION pg_temp.is_near(library text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('serm.gemm', library, false);
	RETURN NEXT cmp_ok(pg_temp.apart(), '<', 1e-5::float8, library || ' gives the scores to 1e-5');
	IF pg_temp.files() LIKE '%' || library || '%' THEN
		RETURN NEXT cmp_ok((SELECT count(*) FROM pair, serm.explain(query, doc, 'm')), '>', 20::bigint, 'and explains them, from a file of its own');
	ELSE
		RETURN NEXT skip(library || ' is not installed');
	END IF;
	PERFORM set_config('serm.gemm', 'built-in', false);
END $$;
SELECT * FROM pg_temp.is_near('openblas');
SELECT * FROM pg_temp.is_near('onednn');
SELECT is(pg_temp.apart(), 0::float8, 'built-in again: the old bits');
SELECT throws_ok($$SET serm.gemm = 'mkl'$$, '22023', NULL, 'no such library');

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

-- --- token documents

SELECT is(p.provolatile::text || p.proparallel::text || p.proisstrict::text, 'sstrue', 'serm.encode of a model reads it') FROM pg_proc AS p WHERE p.oid = 'serm.encode(text,text)'::regprocedure;
SELECT matches(serm.encode(E'blue pills\nand soft', 'm')::text, '^2 [0-9a-f]{16} 3 5 6 8 1 9$', 'the ids of a document, and how many are of its title');
CREATE TABLE encoded AS SELECT id, query, doc, serm.encode(doc, 'm') AS tokens FROM pair;
CREATE FUNCTION pg_temp.differing() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM encoded WHERE serm.score(query, tokens, 'm') IS DISTINCT FROM serm.score(query, doc, 'm')
		OR (serm.predict(query, tokens, 'm')).probs IS DISTINCT FROM (serm.predict(query, doc, 'm')).probs
		OR serm.score_version(query, tokens, 'm', 1) IS DISTINCT FROM serm.score_version(query, doc, 'm', 1)
$$;
SELECT is(pg_temp.differing(), 0::bigint, 'tokens give the bits of their text');
SELECT is(count(*), 0::bigint, 'in a window too') FROM (SELECT id, serm.score_batch(query, tokens, 'm') OVER () AS score FROM encoded) AS b JOIN encoded USING (id)
 WHERE b.score <> serm.score(query, doc, 'm');
SELECT FROM serm.alter_model('m', '{"long_documents": "chunk_max", "precision": "bf16"}');
SELECT is(pg_temp.differing(), 0::bigint, 'whatever the options are');
SELECT FROM serm.alter_model('m', '{"long_documents": "truncate", "precision": "f32"}');
SELECT ok(bool_and(tokens::text::serm.doc OPERATOR(serm.=) tokens), 'the readable form can be read back') FROM encoded;
SELECT is(count(*), (SELECT count(DISTINCT doc) FROM encoded), 'equal tokens are equal documents') FROM (SELECT DISTINCT tokens FROM encoded) AS d;
SELECT current_setting('data_directory') || '/serm_tokens.bin' AS file \gset
CREATE TEMP TABLE copied (id int, tokens serm.doc);
COPY (SELECT id, tokens FROM encoded) TO :'file' WITH BINARY;
COPY copied (id, tokens) FROM :'file' WITH BINARY;
SELECT ok(bool_and(c.tokens OPERATOR(serm.=) e.tokens) AND count(*) = (SELECT count(*) FROM encoded), 'and so can the binary one') FROM copied AS c JOIN encoded AS e USING (id);
SELECT is(serm.encode(NULL, 'm')::text, NULL, 'no document');
SELECT is(pg_temp.load('twin', '{"max_length": 12}'), 1, 'a model with the same tokenizer and shorter inputs');
SELECT is(serm.score('oak desk', serm.encode(pg_temp.slice(0, 40), 'm'), 'twin'), serm.score('oak desk', pg_temp.slice(0, 40), 'twin'), 'reads the same tokens');
SELECT is(pg_temp.load('other', words => 'pill blue ##ow ##s soft red lamp desk oak a the , . for home'), 1, 'one with another vocabulary');
SELECT throws_ok($$SELECT serm.score('oak desk', tokens, 'other') FROM encoded$$, '22023',
	'model "other" cannot read this serm.doc: the document was encoded for another tokenizer');
SELECT throws_ok($$SELECT serm.rank('oak desk', ARRAY['a'], 'nobody')$$, '42704', NULL, 'nobody');
SELECT throws_ok($$SELECT serm.score_batch('oak desk', tokens, 'other') OVER () FROM encoded$$, '22023', NULL, 'nor in a window');
SELECT throws_ok($$SELECT serm.explain('oak desk', tokens, 'other') FROM encoded$$, '22023', NULL, 'nor explains it');
/* The largest there is, where TOAST holds it. */
CREATE TEMP TABLE far (tokens serm.doc);
ALTER TABLE far ALTER COLUMN tokens SET STORAGE EXTERNAL;
INSERT INTO far SELECT ('2 0000000000000001 7' || repeat(' 16000000', 65536))::serm.doc;
SELECT throws_ok(format('SELECT %s FROM far', scored), '22023', 'model "m" cannot read this serm.doc: the document was encoded for another tokenizer', 'a long one is read in full by ' || scored)
FROM unnest(ARRAY['serm.score(''oak desk'', tokens, ''m'')', 'serm.score_batch(''oak desk'', tokens, ''m'') OVER ()', 'serm.explain(''oak desk'', tokens, ''m'')']) AS scored;
SELECT throws_ok($$SELECT serm.score('oak desk', serm.encode('oak desk'), 'm')$$, '22023', 'model "m" cannot read this serm.doc: it holds words, not tokens');
CREATE FUNCTION pg_temp.hint(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN EXECUTE statement; RETURN NULL; EXCEPTION WHEN OTHERS THEN GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT; RETURN hint; END $$;
SELECT is(pg_temp.hint($$SELECT serm.score('oak desk', serm.encode('oak desk'), 'm')$$), $$Encode documents for it with serm.encode(doc, 'm'), or pass the text.$$, 'the hint says how');
CREATE TABLE product (doc_id text, doc text);
INSERT INTO product SELECT id::text, doc FROM pair;
SELECT FROM serm.create_model('words', documents => 'product');
CALL serm.pretrain('words');
SELECT throws_ok($$SELECT serm.score('oak desk', tokens, 'words') FROM encoded$$, '22023', 'model "words" cannot read this serm.doc: it holds the tokens of a cross-encoder');
SELECT is(serm.encode('oak desk', 'words')::text, serm.encode('oak desk')::text, 'for the default kind, what serm.encode gives');
SELECT throws_ok($$SELECT '2 0123456789abcdef 2 5'::serm.doc$$, '22P02', NULL, 'a title longer than its document');
SELECT throws_ok($$SELECT serm.score('oak', '2 0123456789abcdef 0 5'::serm.doc, 'm')$$, '22023', NULL, 'tokens of nobody');
SELECT throws_ok(format($$SELECT serm.score('oak', '%s 20'::serm.doc, 'm')$$, (serm.encode('oak', 'm'))::text), '22023', NULL, 'an id that the vocabulary lacks');
CREATE TABLE forged AS SELECT id, ((serm.encode('oak desk', 'm'))::text || ' ' || id || ' 9')::serm.doc AS tokens FROM generate_series(0, 4) AS id;
SELECT throws_ok(format('SELECT %s FROM forged WHERE id = 3', call), '22023',
	'model "m" cannot read this serm.doc: token 3 of the document is a special one, which no text gives', 'a forged [SEP]: ' || call)
FROM unnest(ARRAY[$$serm.score('oak', tokens, 'm')$$, $$serm.score_version('oak', tokens, 'm', 1)$$, $$serm.predict('oak', tokens, 'm')$$,
	$$serm.score_batch('oak', tokens, 'm') OVER ()$$, $$serm.explain('oak', tokens, 'm')$$]) AS call;
SELECT throws_ok($$SELECT serm.score('oak', tokens, 'm') FROM forged WHERE id IN (0, 2, 4)$$, '22023', NULL, 'nor any other special token');
SELECT is(serm.score('oak', tokens, 'm'), serm.score('oak', 'oak desk zebra soft', 'm'), 'what the vocabulary cannot spell is none') FROM forged WHERE id = 1;

-- --- explanations

CREATE TABLE e AS SELECT * FROM serm.explain('blue pills', E'soft blue pillow\na soft, soft pillow for home', 'm');
SELECT results_eq($$SELECT query_term FROM e WHERE field = 'query'$$, $$VALUES ('blue'), ('pills')$$, 'a row for each word of the query');
SELECT results_eq($$SELECT doc_term FROM e WHERE field = 'title'$$, $$VALUES ('soft'), ('blue'), ('pillow')$$, 'of the title');
SELECT results_eq($$SELECT doc_term FROM e WHERE field = 'body'$$, $$VALUES ('a'), ('soft'), (','), ('pillow'), ('for'), ('home')$$, 'and of the body, once');
SELECT is(count(*), 1::bigint, 'and one for the rest') FROM e WHERE query_term IS NULL AND doc_term IS NULL AND field IS NULL;
SELECT is(count(*), 0::bigint, 'query and document apart') FROM e WHERE query_term IS NOT NULL AND doc_term IS NOT NULL;
SELECT cmp_ok(count(DISTINCT contribution), '>', 9::bigint, 'each word has a contribution of its own') FROM e;
CREATE FUNCTION pg_temp.worst() RETURNS float8 LANGUAGE sql AS $$
	SELECT max(abs(serm.score(query, doc, 'm') - (SELECT sum(contribution::float8) FROM serm.explain(query, doc, 'm')))) FROM pair
$$;
SELECT cmp_ok(pg_temp.worst(), '<', 1e-5::float8, 'contributions sum to the score');
SELECT is_empty($$(SELECT * FROM encoded, serm.explain(query, doc, 'm')) EXCEPT (SELECT * FROM encoded, serm.explain(query, tokens, 'm'))$$, 'tokens are explained like their text');
SELECT FROM serm.alter_model('m', '{"precision": "int8"}');
SELECT cmp_ok(pg_temp.worst(), '<', 1e-5::float8, 'those of narrow weights too');
SELECT FROM serm.alter_model('m', '{"precision": "f32", "long_documents": "chunk_max", "chunk_overlap": 4}');
SELECT cmp_ok(pg_temp.worst(), '<', 1e-5::float8, 'and those of chunks');
SELECT cmp_ok((SELECT sum(length(doc_term)) FROM serm.explain('oak desk', pg_temp.slice(0, 40), 'm')), '<', 200::bigint, 'of the best one');
SELECT is(count(*), 3::bigint, 'without a document the query is left') FROM serm.explain('blue pill', '', 'm');
SELECT is(count(*), 1::bigint, 'and without any of them the rest') FROM serm.explain('', '', 'm');
SELECT is_empty($$SELECT * FROM serm.explain(NULL, 'red', 'm')$$, 'no rows for NULL');

SELECT * FROM finish();
