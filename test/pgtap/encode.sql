-- Encoded documents and batches: serm.doc, serm.encode, serm.score_batch, and serm.rank against serm.score.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

SELECT plan(95);

-- --- signatures
SELECT is(p.provolatile::text || p.proparallel::text || p.proisstrict::text || p.prokind::text, expected, f)
FROM (VALUES
	('serm.encode(text)', 'istruef'),
	('serm.score(text,serm.doc)', 'sstruef'),
	('serm.score(text,serm.doc,text)', 'sstruef'),
	('serm.score_version(text,serm.doc,text,integer)', 'istruef'),
	('serm.predict(text,serm.doc)', 'sstruef'),
	('serm.predict(text,serm.doc,text)', 'sstruef'),
	('serm.score_batch(text,text)', 'ssfalsew'),
	('serm.score_batch(text,text,text)', 'ssfalsew'),
	('serm.score_batch(text,serm.doc)', 'ssfalsew'),
	('serm.score_batch(text,serm.doc,text)', 'ssfalsew')) AS t (f, expected)
	JOIN pg_proc AS p ON p.oid = f::regprocedure;

-- --- the type
SELECT is(serm.encode(E'Blue  PILLOW\nA soft, 3.5 ft pillow')::text, '1 blue pillow | a soft =3.5 ft pillow', 'what a document looks like');
SELECT is(serm.encode('')::text, '1 |', 'an empty one');
SELECT is(serm.encode(E'\nblue')::text, '1 | blue', 'without a title');
SELECT is(serm.encode('Don''t')::text, '1 dont |', 'without a body');
SELECT matches(serm.encode(E'\n' || repeat('word ', 50))::text, '^1 \|( word){48}( #[0-9a-f]{8}){2}$', 'words that are not spelled are hashes');

/* Texts of every kind that reading has to get right. */
CREATE TABLE odd AS
SELECT row_number() OVER () AS id, doc FROM (
	SELECT doc FROM unnest(ARRAY['', ' ', E'\n', E'\n\n', 'blue', 'Blue Pillow', E'Blue pillow\n', E'\nblue pillow', E'a\nb\nc',
		'3.5 ft 1,000 4ft 1.2.3. .5', 'don''t rock''n''roll ''tis o''', 'café CRÈME brûlée é', 'ﬁne ﬃ ſtop ½ Ⅷ ㎏',
		'東京タワーへ行く カタカナ ｶﾞｷﾞ 한국어 조선', 'العَرَبِيَّة لُغَة', 'ภาษาไทยภาษาไทยภาษาไทยภาษาไทยภาษาไทย', 'ΣΊΣΥΦΟΣ ΟΔΟΣ', 'ёлка Ёжик',
		'😀 emoji 😀😀 👩‍👩‍👧', E'tab\tand\rreturn\u00a0space\u200bzero', 'pillow case pillowcase', '7 pillow 7 case 7',
		repeat('x', 63), repeat('x', 64), repeat('x', 65), repeat('é', 65), repeat('😀', 300), repeat('7', 100), repeat('東', 400),
		repeat('a b ', 24), repeat('word ', 24), repeat('word ', 25), repeat('word ', 24) || E'\n', repeat('pillow ', 1000),
		E'blue pillow\n' || repeat('one two three ', 200), repeat('long title ', 40) || E'\n' || repeat('body ', 300),
		repeat(' ', 7000) || 'far away', repeat(repeat('w', 70) || ' ', 80), 'x' || repeat(E'\u0301', 90) || 'y',
		'a' || repeat(' 1', 90), repeat('ab12', 90), chr(127) || 'blue' || chr(1) || 'pillow', repeat('blue pillow ', 20000)]) AS doc
	UNION ALL
	SELECT string_agg(w, CASE WHEN (i + n) % 17 = 5 THEN E'\n' ELSE ' ' END ORDER BY n)
	FROM generate_series(1, 60) AS i, LATERAL (
		SELECT n, (ARRAY['blue', 'Pillow', 'case', 'pillowcase', 'the', 'soft', '3.5', 'ft', 'désk', 'pillows', 'lamp''s', 'bed', '12', 'of', 'Ｗide'])
			[1 + abs(hashtext(i || '/' || n)) % 15] AS w, n AS k
		FROM generate_series(1, 1 + abs(hashtext(i::text)) % 130) AS n) AS words
	GROUP BY i) AS t;
ALTER TABLE odd ADD COLUMN encoded serm.doc GENERATED ALWAYS AS (serm.encode(doc)) STORED;
SELECT cmp_ok(count(*), '>', 90::bigint, 'texts to try') FROM odd;
SELECT is(count(*), 0::bigint, 'a generated column has what serm.encode gives') FROM odd WHERE encoded OPERATOR(serm.<>) serm.encode(doc);
SELECT is(count(*), 0::bigint, 'what is printed is read again') FROM odd WHERE encoded::text::serm.doc OPERATOR(serm.<>) encoded;

CREATE TABLE copied (LIKE odd);
ALTER TABLE copied ALTER COLUMN encoded DROP EXPRESSION IF EXISTS;
SELECT format('/tmp/serm_encode_%s', pg_backend_pid()) AS file \gset
COPY (SELECT id, doc, encoded FROM odd) TO :'file' WITH BINARY;
COPY copied (id, doc, encoded) FROM :'file' WITH BINARY;
SELECT is(count(*), (SELECT count(*) FROM odd), 'what is sent is received again')
FROM odd JOIN copied USING (id) WHERE odd.encoded OPERATOR(serm.=) copied.encoded;
SELECT is(pg_column_size(serm.encode(E'\n' || string_agg(translate(substr(md5(i::text), 1, 4 + i % 3), '0123456789', 'ghijklmnop'), ' '))) BETWEEN 300 AND 650, true, 'a hundred words take about 500 bytes')
FROM generate_series(1, 100) AS i;

SELECT is(count(*), 0::bigint, 'equality is equality of what is printed')
FROM odd AS a, odd AS b WHERE (a.encoded OPERATOR(serm.=) b.encoded) <> (a.encoded::text = b.encoded::text);
SELECT is((SELECT count(*) FROM (SELECT encoded FROM odd GROUP BY encoded) AS g), (SELECT count(DISTINCT encoded::text) FROM odd), 'GROUP BY hashes it');
SET enable_mergejoin = off;
SET enable_nestloop = off;
SELECT is((SELECT count(*) FROM odd AS a JOIN odd AS b ON a.encoded OPERATOR(serm.=) b.encoded),
	(SELECT sum(n * n)::bigint FROM (SELECT count(*) AS n FROM odd GROUP BY encoded::text) AS g), 'and so do joins');
RESET enable_mergejoin;
RESET enable_nestloop;
SELECT lives_ok('CREATE INDEX ON odd USING hash (encoded)', 'a hash index');
SELECT is((SELECT count(DISTINCT encoded) FROM odd), (SELECT count(DISTINCT encoded::text) FROM odd), 'count(DISTINCT) sorts it');
SELECT is(array_agg(id ORDER BY encoded, id), array_agg(id ORDER BY serm._doc_send(encoded), id), 'ORDER BY goes by the bytes') FROM odd;
SELECT is(array_agg(id ORDER BY encoded DESC, id), array_agg(id ORDER BY serm._doc_send(encoded) DESC, id), 'or backwards') FROM odd;
SELECT is(count(*), 0::bigint, 'every operator says what the order of the bytes says')
FROM odd AS a, odd AS b, LATERAL (SELECT serm._doc_send(a.encoded) AS x, serm._doc_send(b.encoded) AS y) AS s
WHERE (a.encoded OPERATOR(serm.<) b.encoded, a.encoded OPERATOR(serm.<=) b.encoded, a.encoded OPERATOR(serm.>=) b.encoded,
	a.encoded OPERATOR(serm.>) b.encoded, a.encoded OPERATOR(serm.=) b.encoded, sign(serm._doc_cmp(a.encoded, b.encoded)))
	IS DISTINCT FROM (x < y, x <= y, x >= y, x > y, x = y, (x > y)::int - (x < y)::int);
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT is((SELECT count(*) FROM odd AS a JOIN odd AS b ON a.encoded OPERATOR(serm.=) b.encoded),
	(SELECT sum(n * n)::bigint FROM (SELECT count(*) AS n FROM odd GROUP BY encoded::text) AS g), 'merge joins');
RESET enable_hashjoin;
RESET enable_nestloop;
SELECT throws_ok('CREATE UNIQUE INDEX ON odd (encoded)', '23505', NULL, 'a unique index finds equal ones');

-- --- a document of 100 MB: what is read of it is its beginning
SELECT ok(serm.encode(repeat('soft blue pillow ', 6000000)) OPERATOR(serm.=) serm.encode(repeat('soft blue pillow ', 4000)), 'of a long text the beginning is encoded');

-- --- hostile input
SELECT throws_ok(format('SELECT %L::serm.doc', given), '22P02', NULL, 'refuses ' || given)
FROM unnest(ARRAY['', 'blue', '1', '2 |', '1 a', '1 | a | b', '1 | A', '1 | a-b', '1 | =a', '1 | =', '1 | #00000000', '1 | a\', '1 | \u{}', '1 | \u{zz}',
	'1 | \x', '1 | 3', E'1 | a\tb', '1 |' || repeat(' a', 49), '1 |' || repeat(' a', 48) || ' #0000000', '1 |' || repeat(' a', 48) || ' #0000000G',
	'1 |' || repeat(' a', 48) || repeat(' #00000000', 465), '1' || repeat(' a', 33) || ' |', '1 | ' || repeat('a', 65)]) AS given;
SELECT is('1 | \u{e9}t\u{e9} =\u{663}'::serm.doc::text, '1 | été =٣', 'escapes are read');

/* Receive bytes as a client may send them: a binary COPY of one row. */
CREATE FUNCTION receive(doc bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	file text := format('/tmp/serm_receive_%s', pg_backend_pid());
	stream bytea := '\x5047434f50590aff0d0a00'::bytea || '\x0000000000000000'::bytea || '\x0001'::bytea || int4send(length(doc)) || doc || '\xffff'::bytea;
	object oid := lo_from_bytea(0, stream);
	received serm.doc;
BEGIN
	PERFORM lo_export(object, file);
	PERFORM lo_unlink(object);
	DROP TABLE IF EXISTS received;
	CREATE TEMP TABLE received (doc serm.doc);
	EXECUTE format('COPY received FROM %L WITH BINARY', file);
	SELECT r.doc INTO received FROM received AS r;
	RETURN received::text;
END $$;
SELECT is(receive('\x010100000100000001000000000061'), '1 a |', 'bytes that are a document');
SELECT throws_ok(format('SELECT receive(%L)', bytes), '22P03', NULL, 'refuses ' || what)
FROM (VALUES ('no bytes', '\x'), ('another format', '\x020100000100000001000000000061'), ('a header cut short', '\x0100000000'),
	('a longer one', '\x010000000000000000000000' || '00'), ('too many words', '\x014100000000000000000000'),
	('words without lengths', '\x010100000100000001000000'), ('lengths that do not add up', '\x010100000100000002000000' || '00006161'),
	('unused bits', '\x010100000100000001000000' || '000261'), ('trigrams miscounted', '\x010100000200000001000000' || '000061'),
	('half a character', '\x010100000100000001000000' || '0000c3'), ('a blank in a word', '\x010100000100000001000000' || '000020')) AS t (what, bytes);
CREATE FUNCTION flip(doc bytea, i integer) RETURNS bytea LANGUAGE sql AS 'SELECT set_byte(doc, i % length(doc), (get_byte(doc, i % length(doc)) + 1 + i / length(doc) * 37) % 256)';
CREATE FUNCTION survives(bytes bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM receive(bytes);
	RETURN 'read';
EXCEPTION WHEN invalid_binary_representation THEN
	RETURN 'refused';
END $$;
SELECT is(array_agg(DISTINCT survives(flip(serm._doc_send(serm.encode(E'blue pillow\na soft 3.5 ft caf\u00e9 pillow')), i)) ORDER BY survives(flip(serm._doc_send(serm.encode(E'blue pillow\na soft 3.5 ft caf\u00e9 pillow')), i))),
	ARRAY['read', 'refused'], 'any changed byte is another document or refused') FROM generate_series(0, 240) AS i;

/* More tokens than 64 kB of their readable form hold, as a dump writes them. */
SELECT '2 0000000000000001 7' || repeat(' 16000000', 65536) AS tokens \gset
SELECT ok(:'tokens'::serm.doc::text = :'tokens', 'the longest document of tokens is read in full');
SELECT throws_ok(format('SELECT %L::serm.doc', :'tokens' || ' 1'), '22P02', NULL, 'one with a token more is refused');
SELECT throws_ok($$SELECT ('1 a |' || repeat(' ', 70000) || 'b')::serm.doc$$, '22P02', NULL, 'and no word is cut off');
CREATE TABLE far (tokens serm.doc);
ALTER TABLE far ALTER COLUMN tokens SET STORAGE EXTERNAL;
INSERT INTO far VALUES (:'tokens');
SELECT ok(pg_column_size(tokens) > 131072 AND tokens OPERATOR(serm.=) :'tokens', 'it is the same out of line') FROM far;

-- --- scores
\o /dev/null
SELECT serm.create_model('shop');
\o
CREATE VIEW goods AS
SELECT c || ' ' || p AS query, d || ' ' || e || E'\nA ' || d || ' ' || e || ' for your home' AS doc, (c = d)::int + 2 * (p = e)::int AS grade
FROM unnest('{blue,red,green}'::text[]) AS c, unnest('{pillow,lamp,chair,desk}'::text[]) AS p,
	unnest('{blue,red,green}'::text[]) AS d, unnest('{pillow,lamp,chair,desk}'::text[]) AS e;
INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'shop', query, doc, grade FROM goods;
CALL serm.train('shop', '{"seed": 1, "epochs": 4, "pretrain_epochs": 1}');

CREATE TABLE asked AS SELECT q AS query FROM unnest(ARRAY['', 'blue', 'blue pillow', 'pillowcase', 'pillow case 3.5 ft', 'der die das', '東京 タワー', 'café désk pillows', '7 12',
	'the soft blue pillow case of the bed with the lamp and the desk 3.5 ft wide in blue or red or green for your home and garden and more',
	repeat('blue pillow ', 40)]) AS q;
CREATE TABLE plain AS SELECT query, id, doc, encoded, serm.score(query, doc) AS score FROM asked, odd;
SELECT is(count(*), 0::bigint, 'encoded documents have the scores of their texts, bit for bit')
FROM plain WHERE float4send(serm.score(query, encoded)) <> float4send(score);
SELECT is(count(*), 0::bigint, 'in any order') FROM (SELECT *, serm.score(query, encoded, 'shop') AS again FROM (SELECT * FROM plain ORDER BY md5(query || id)) AS p) AS s
WHERE float4send(again) <> float4send(score);
SELECT is(count(*), 0::bigint, 'by a version') FROM plain WHERE float4send(serm.score_version(query, encoded, 'shop', 1)) <> float4send(score);
SELECT is(count(*), 0::bigint, 'predictions too') FROM plain
WHERE serm.predict(query, encoded) IS DISTINCT FROM serm.predict(query, doc) OR serm.predict(query, encoded, 'shop') IS DISTINCT FROM serm.predict(query, doc, 'shop');
SELECT cmp_ok(count(DISTINCT score), '>', 300::bigint, 'which differ among each other') FROM plain;
SELECT is(count(*), 0::bigint, 'a batch has them')
FROM (SELECT *, serm.score_batch(query, doc) OVER (PARTITION BY query) AS batch, serm.score_batch(query, encoded) OVER (PARTITION BY query) AS batch_encoded,
	serm.score_batch(query, doc, 'shop') OVER (PARTITION BY query ORDER BY id DESC) AS named, serm.score_batch(query, encoded, 'shop') OVER () AS whole FROM plain) AS s
WHERE NOT (float4send(batch) = float4send(score) AND float4send(batch_encoded) = float4send(score)
	AND float4send(named) = float4send(score) AND float4send(whole) = float4send(score));
SELECT is(count(*), 0::bigint, 'an array that is ranked has them')
FROM (SELECT query, array_agg(doc ORDER BY id) AS docs, array_agg(score ORDER BY id) AS scores FROM plain GROUP BY query) AS g, serm.rank(query, docs) AS r
WHERE float4send(r.score) <> float4send(scores[r.ordinal]);

-- --- memory: after the first rows a statement takes no more, whatever the rows say
CREATE FUNCTION memory_now(id bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$BEGIN
	RETURN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts);
END$$;
CREATE TABLE many AS
SELECT i AS id, 'blue pillow ' || i % 7 AS query, 'Pillow ' || i || E'\nsoft ' || md5(i::text) || repeat(' word' || i % 100, i % 60) AS doc
FROM generate_series(1, 30000) AS i;
ALTER TABLE many ADD COLUMN encoded serm.doc;
UPDATE many SET encoded = serm.encode(doc);
SET max_parallel_workers_per_gather = 0;
/* What looking at memory takes itself, it takes at its first calls. */
SELECT is(count(memory_now(i)), 3::bigint, 'memory can be looked at') FROM generate_series(1, 3) AS i;
SELECT is(max(bytes), min(bytes), 'nothing is taken per row: ' || what)
FROM (
	SELECT 'text' AS what, serm.score('blue pillow', doc), CASE WHEN id IN (3000, 30000) THEN memory_now(id) END AS bytes FROM many
	UNION ALL SELECT 'encoded', serm.score('blue pillow', encoded), CASE WHEN id IN (3000, 30000) THEN memory_now(id) END FROM many
	UNION ALL SELECT 'changing queries', serm.score(query, encoded), CASE WHEN id IN (3000, 30000) THEN memory_now(id) END FROM many
	UNION ALL SELECT 'encoding', length(serm.encode(doc)::text), CASE WHEN id IN (3000, 30000) THEN memory_now(id) END FROM many) AS m
GROUP BY what ORDER BY what;
/* A batch reads its whole partition for the first row: the arguments tell what is taken then. */
CREATE FUNCTION noted(doc text, id bigint) RETURNS text LANGUAGE plpgsql VOLATILE AS $$BEGIN
	IF id IN (300, 3000, 30000) THEN PERFORM set_config('noted.at' || id, memory_now(id)::text, false); END IF;
	RETURN doc;
END$$;
SELECT FROM (SELECT serm.score_batch('blue pillow', noted(doc || ' soft', id)) OVER () FROM many) AS b LIMIT 1;
SELECT cmp_ok(current_setting('noted.at30000')::bigint, '<=', current_setting('noted.at3000')::bigint, 'nor by a batch, for what its arguments compute');
RESET max_parallel_workers_per_gather;

-- --- NULL, several models, damage
SELECT is(serm.score(NULL, serm.encode('d')), NULL, 'no query');
SELECT is(serm.score('q', NULL::serm.doc), NULL, 'no document');
SELECT is(array_agg(s), ARRAY[NULL, NULL, serm.score('blue', 'blue')], 'a batch passes NULLs on')
FROM (SELECT serm.score_batch(q, d) OVER (ORDER BY i) AS s FROM (VALUES (1, NULL, 'blue'), (2, 'blue', NULL), (3, 'blue', 'blue')) AS t (i, q, d)) AS b;
SELECT is_empty($$SELECT serm.score_batch('q', doc) OVER () FROM odd WHERE false$$, 'a batch of nothing');
\o /dev/null
SELECT serm.create_model('other', grades => '{no,yes}');
\o
INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'other', query, doc, grade / 3 FROM goods;
CALL serm.train('other', '{"seed": 1, "epochs": 2, "pretrain_epochs": 1}');
SELECT is(count(*), 0::bigint, 'a batch may mix models')
FROM (SELECT *, serm.score_batch(query, encoded, CASE id % 3 WHEN 0 THEN 'shop' WHEN 1 THEN 'other' END) OVER () AS batch FROM plain) AS s
WHERE batch IS DISTINCT FROM CASE id % 3 WHEN 0 THEN score WHEN 1 THEN serm.score(query, doc, 'other') END;
SELECT throws_ok($$SELECT serm.score_batch('q', 'd') OVER ()$$, '55000');
SELECT throws_ok($$SELECT serm.score_batch('q', 'd', 'none') OVER ()$$, '42704');
SELECT throws_ok($$SELECT serm.score('q', serm.encode('d'), 'none')$$, '42704');
SELECT throws_ok($$SELECT serm.score_batch('q', 'd')$$, '42809');
CREATE TABLE indexed AS SELECT encoded FROM odd;
SELECT lives_ok($$CREATE INDEX ON indexed (serm.score_version('blue pillow', encoded, 'shop', 1))$$, 'an index by a version over encoded documents');

SELECT * FROM finish();
