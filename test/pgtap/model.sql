-- Models, versions, judgments and the split: everything of sql/api/10-model.sql.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(140);

-- --- signatures
SELECT is(p.provolatile::text || p.proparallel::text || p.proisstrict::text, expected, f)
FROM (VALUES
	('serm.create_model(text,text,text[],regclass,regclass,jsonb)', 'vufalse'),
	('serm.drop_model(text)', 'vutrue'),
	('serm.promote(text,integer,text)', 'vufalse'),
	('serm.rollback(text,integer,text)', 'vufalse'),
	('serm.split_of(text,real)', 'istrue'),
	('serm._model_changed()', 'vufalse'),
	('serm._check_judgment()', 'vufalse'),
	('serm._refuse_update()', 'vufalse')) AS t (f, expected)
	JOIN pg_proc AS p ON p.oid = f::regprocedure;

-- --- creating
SELECT lives_ok($$SELECT serm.create_model('plain')$$, 'a model needs nothing but a name');
SELECT results_eq($$SELECT kind, grades, log, documents, active, options FROM serm.model WHERE name = 'plain'$$,
	$$VALUES ('interaction', '{bad,fair,good,excellent}'::text[], NULL::regclass, NULL::regclass, NULL::integer,
		'{"rule": "posterior", "labels": "posterior", "quorum": 0.666666666666667, "evidence": null, "test_share": 0.2,
		"keep": 0.9, "extra_paths": 0, "gold_rate": 0.02, "min_reliability": 0.1, "budget": null, "budget_day": null, "budget_round": null}'::jsonb)$$,
	'defaults are written out');
SELECT lives_ok($$SELECT serm.create_model('nulls', NULL, NULL, NULL, NULL, NULL)$$, 'NULL means default');
SELECT is(grades, '{bad,fair,good,excellent}', 'NULL grades are the default') FROM serm.model WHERE name = 'nulls';
SELECT throws_ok($$SELECT serm.create_model('plain')$$, '42710', 'model "plain" already exists');
SELECT throws_ok(format('SELECT serm.create_model(%L)', name), '22023', NULL, 'refuses the name ' || left(coalesce(name, 'NULL'), 20))
FROM unnest(ARRAY[NULL, '', 'Upper', 'a-b', 'a b', 'größe', '../x', repeat('x', 49)]) AS name;
SELECT lives_ok(format('SELECT serm.create_model(%L)', repeat('x', 48)), 'a name of 48 letters');
SELECT lives_ok(format('SELECT serm.drop_model(%L)', repeat('x', 48)), 'and away again');
SELECT throws_ok($$SELECT serm.create_model('k', 'perceptron')$$, '22023', 'unknown kind of model "perceptron"');
SELECT throws_ok(format('SELECT serm.create_model(''g'', grades => %L)', grades), '22023', NULL, 'refuses the grades ' || grades)
FROM unnest(ARRAY['{}', '{one}', '{a,b,c,d,e,f,g,h,i,j,k}', '{a,NULL}', '{a,a}', '{a," "}', '{{a,b},{c,d}}',
	'{a,' || repeat('x', 64) || '}']) AS grades;
SELECT throws_ok(format('SELECT serm.create_model(''o'', options => %L)', options), '22023', NULL, 'refuses the options ' || options)
FROM unnest(ARRAY['[]', '{"test_shore": 0.1}', '{"test_share": 0.6}', '{"test_share": "x"}', '{"rule": "any"}', '{"quorum": 1.1}',
	'{"quorum": 0}', '{"rule": ""}', '{"rule": "unanimous, quorum"}', '{"rule": "quo"}', '{"labels": "gold"}', '{"evidence": 3}']) AS options;
CREATE FUNCTION public.lines(query text, doc text) RETURNS SETOF text IMMUTABLE LANGUAGE sql RETURN query;
SELECT throws_ok(format('SELECT serm.create_model(''e'', options => %L)', jsonb_build_object('evidence', name)), '42883', NULL, name || ' gives no evidence')
FROM unnest(ARRAY['public.nothing', 'string_agg', 'public.lines']) AS name;
CREATE FUNCTION public.about(query text, doc text) RETURNS text IMMUTABLE LANGUAGE sql RETURN query;
SELECT lives_ok($$SELECT serm.create_model('evident', options => '{"evidence": "about", "test_share": 0.1, "rule": null}')$$,
	'options are taken');
SELECT is(options, '{"rule": "posterior", "labels": "posterior", "quorum": 0.666666666666667, "evidence": "public.about", "test_share": 0.1,
	"keep": 0.9, "extra_paths": 0, "gold_rate": 0.02, "min_reliability": 0.1, "budget": null, "budget_day": null, "budget_round": null}',
	'a function is kept by its qualified name') FROM serm.model WHERE name = 'evident';

-- --- log and documents
CREATE TABLE docs (doc_id text PRIMARY KEY, doc text, price numeric);
CREATE TABLE docs_short (doc_id text);
CREATE TABLE docs_typed (doc_id integer, doc text);
CREATE TABLE clicks (query text, doc_id text, shown_at timestamptz, "position" integer, clicked boolean);
CREATE TABLE clicks_dwell (LIKE clicks, dwell_ms text);
CREATE VIEW clicks_view AS SELECT *, 1 AS dwell_ms, ''::text AS session_id FROM clicks;
SELECT lives_ok($$SELECT serm.create_model('shop', log => 'clicks_view', documents => 'docs')$$, 'tables and views of the right shape');
SELECT results_eq($$SELECT log, documents FROM serm.model WHERE name = 'shop'$$,
	$$VALUES ('clicks_view'::regclass, 'docs'::regclass)$$, 'both are kept');
SELECT throws_ok($$SELECT serm.create_model('d', documents => 'docs_short')$$, '42703', 'documents public.docs_short of model "d" has no column "doc"');
SELECT throws_ok($$SELECT serm.create_model('d', documents => 'docs_typed')$$, '42804',
	'column "doc_id" of documents public.docs_typed of model "d" has type integer, not text');
SELECT throws_ok($$SELECT serm.create_model('d', documents => 'docs_pkey')$$, '42809');
SELECT throws_ok($$SELECT serm.create_model('d', log => 'docs')$$, '42703', 'search log public.docs of model "d" has no column "query"');
SELECT throws_ok($$SELECT serm.create_model('d', log => 'clicks_dwell')$$, '42804',
	'column "dwell_ms" of search log public.clicks_dwell of model "d" has type text, not integer');
CREATE VIEW clicks_wide AS SELECT query::varchar(80), doc_id, shown_at, "position"::bigint, clicked, 1::smallint AS dwell_ms FROM clicks;
SELECT lives_ok($$SELECT serm.create_model('wide', log => 'clicks_wide', documents => 'docs')$$, 'what mining can read is accepted');

-- --- judgments
CREATE FUNCTION judge(query text, grade real, target real[] DEFAULT NULL) RETURNS void LANGUAGE sql
	AS $$INSERT INTO serm.judgment (model, query, doc, grade, target) VALUES ('plain', query, 'd', grade, target)$$;
SELECT lives_ok($$SELECT judge('pillow', 3)$$, 'the best grade');
SELECT lives_ok($$SELECT judge('pillow', 1.5, '{0,0.5,0.5,0}')$$, 'a grade between two, with a target');
SELECT throws_ok(format('SELECT judge(''q'', %L)', grade), '22023', NULL, 'refuses the grade ' || grade)
FROM unnest(ARRAY['NaN', 'Infinity', '-0.1', '3.1', '4']) AS grade;
SELECT throws_ok(format('SELECT judge(''q'', 1, %L)', target), '22023', NULL, 'refuses the target ' || target)
FROM unnest(ARRAY['{}', '{1}', '{0.5,0.5}', '{0,0,0,1,0}', '{NULL,0,0,1}', '{0,0,0,0.9}', '{-1,1,1,0}', '{NaN,0,0,1}',
	'{Infinity,0,0,0}', '{{0,1},{0,0}}']) AS target;
SELECT throws_ok(format('SELECT judge(%L, 1)', query), '22023', 'the query of a judgment must not be empty')
FROM unnest(ARRAY['', E' \t\n']) AS query;
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, doc, grade) VALUES ('none', 'q', 'd', 1)$$, '42704', 'model "none" does not exist');
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, grade) VALUES ('plain', 'q', 1)$$, '23514');
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, doc, grade) VALUES ('plain', 'q', 'd', NULL)$$, '23502');
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, doc, grade) VALUES (NULL, 'q', 'd', 1)$$, '23502');
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, doc, grade, weight) VALUES ('plain', 'q', 'd', 1, 'NaN')$$, '23514');
SELECT throws_ok($$INSERT INTO serm.judgment (model, query, doc, grade, source) VALUES ('plain', 'q', 'd', 1, 'rumour')$$, '23514');
SELECT throws_ok($$UPDATE serm.judgment SET grade = 1$$, '55000', 'rows of serm.judgment do not change');
SELECT throws_ok($$SELECT serm._check_judgment()$$, '39P01');
CREATE TABLE other (model integer, query text, grade real, target real[]);
CREATE TRIGGER wrong_level BEFORE INSERT ON other FOR EACH STATEMENT EXECUTE FUNCTION serm._check_judgment();
SELECT throws_ok($$INSERT INTO other VALUES (1, 'q', 1)$$, '39P01', NULL, 'a trigger of statements is refused');
DROP TRIGGER wrong_level ON other;
CREATE TRIGGER wrong_type BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION serm._check_judgment();
SELECT throws_ok($$INSERT INTO other VALUES (1, 'q', 1)$$, '42703', 'table "other" has no column "model" of type text');

INSERT INTO serm.judgment (model, query, doc_id, doc, grade, source, at) VALUES
	('shop', 'lamp', '1', 'x', 0, 'clicks', '2026-01-04'), ('shop', 'lamp', '1', 'x', 1, 'agents', '2026-01-03'),
	('shop', 'lamp', '1', 'x', 2, 'human', '2026-01-01'), ('shop', 'lamp', '1', 'y', 3, 'human', '2026-01-02'),
	('shop', 'lamp', '1', 'x', 1, 'import', '2026-01-05'),
	('shop', 'lamp', '2', NULL, 1, 'clicks', '2026-01-01'), ('shop', 'lamp', '2', NULL, 2, 'clicks', '2026-01-01'),
	('shop', 'lamp', NULL, 'text', 0, 'agents', '2026-01-02'), ('shop', 'lamp', NULL, 'text', 1, 'import', '2026-01-01'),
	('shop', 'lamp', NULL, '2', 0, 'clicks', '2026-01-01'),
	('plain', 'lamp', '1', 'x', 0, 'human', '2026-01-09');
SELECT results_eq($$SELECT coalesce(doc_id, doc), grade, source FROM serm.current_judgment WHERE model = 'shop' ORDER BY 1, doc_id$$,
	$$VALUES ('1', 3::real, 'human'), ('2', 2, 'clicks'), ('2', 0, 'clicks'), ('text', 1, 'import')$$,
	'human before import before agents before clicks, then the newest, then the last');

-- --- the split
SELECT is(serm.split_of(NULL), NULL, 'no query, no split');
SELECT ok(serm.split_of('') IN ('train', 'test'), 'an empty query has a split');
SELECT is(count(*), 0::bigint, 'case, spacing and punctuation do not matter')
FROM generate_series(1, 300) AS i
WHERE serm.split_of('Blue  PILLOW ' || i) <> serm.split_of(' blue, pillow ' || i || '!');
SELECT ok(count(*) FILTER (WHERE serm.split_of('query ' || i) = 'test') BETWEEN 1880 AND 2120, 'one in five is for testing')
FROM generate_series(1, 10000) AS i;
SELECT is(count(*), 0::bigint, 'a larger share keeps what a smaller one tests')
FROM generate_series(1, 1000) AS i
WHERE serm.split_of('query ' || i, 0.1) = 'test' AND serm.split_of('query ' || i, 0.3) <> 'test';
SELECT is(array_agg(DISTINCT serm.split_of('query ' || i, 0)) || array_agg(DISTINCT serm.split_of('query ' || i, 1)), '{train,test}',
	'nothing and everything') FROM generate_series(1, 100) AS i;
SELECT throws_ok(format('SELECT serm.split_of(''q'', %L)', share), '22023', NULL, 'refuses the share ' || share)
FROM unnest(ARRAY['-0.1', '1.1', 'NaN']) AS share;

-- --- versions
INSERT INTO serm.judgment (model, query, doc, grade)
SELECT 'nulls', c || ' ' || p, d || ' ' || e || E'\nA ' || d || ' ' || e || ' for your home', (c = d)::int + 2 * (p = e)::int
FROM unnest('{blue,red,green,black}'::text[]) AS c, unnest('{pillow,lamp,chair,desk,rug}'::text[]) AS p,
	unnest('{blue,red,green,black}'::text[]) AS d, unnest('{pillow,lamp,chair,desk,rug}'::text[]) AS e;
SELECT throws_ok($$SELECT serm.promote('nulls', 1)$$, '42704', 'model "nulls" has no version 1');
SELECT throws_ok($$SELECT serm.rollback('nulls')$$, '55000', 'model "nulls" has no earlier version to roll back to');
CALL serm.train('nulls', '{"seed": 1, "epochs": 2, "pretrain_epochs": 1}');
CALL serm.train('nulls', '{"seed": 2, "epochs": 2, "pretrain_epochs": 1}');
CALL serm.train('nulls', '{"seed": 3, "epochs": 2, "pretrain_epochs": 1}');
SELECT results_eq($$SELECT version, status, active FROM serm.versions WHERE model = 'nulls' ORDER BY 1$$,
	$$VALUES (1, 'active', true), (2, 'candidate', false), (3, 'candidate', false)$$, 'the first version is promoted');
SELECT ok(bytes > 1000000, 'a view tells the size of the weights') FROM serm.versions WHERE model = 'nulls' AND version = 1;
SELECT is(count(DISTINCT checksum), 3::bigint, 'seeds make different weights') FROM serm.versions WHERE model = 'nulls';
SELECT is(serm.promote('nulls', 2), 2, 'promote returns the active version');
SELECT is(serm.promote('nulls', 2), 2, 'promoting it again changes nothing');
SELECT is(serm.promote('nulls', 3, 'it is better'), 3, 'with a reason');
SELECT results_eq($$SELECT version, status, active FROM serm.versions WHERE model = 'nulls' ORDER BY 1$$,
	$$VALUES (1, 'retired', false), (2, 'retired', false), (3, 'active', true)$$, 'one version is active');
SELECT is(serm.rollback('nulls'), 2, 'a rollback goes one back');
SELECT is(serm.rollback('nulls'), 1, 'a second one goes further back');
SELECT throws_ok($$SELECT serm.rollback('nulls')$$, '55000', 'model "nulls" has no earlier version to roll back to');
SELECT is(serm.promote('nulls', 3), 3, 'forward again');
SELECT is(serm.rollback('nulls'), 1, 'and back to where that started');
SELECT is(serm.rollback('nulls', 2, 'that one was good'), 2, 'to a named version');
SELECT results_eq($$SELECT action, from_version, to_version, reason FROM serm.deployment WHERE model = 'nulls' ORDER BY id OFFSET 1$$,
	$$VALUES ('promote', 1, 2, NULL), ('promote', 2, 3, 'it is better'), ('rollback', 3, 2, NULL), ('rollback', 2, 1, NULL),
		('promote', 1, 3, NULL), ('rollback', 3, 1, NULL), ('rollback', 1, 2, 'that one was good')$$, 'all of it is written down');
SELECT throws_ok($$SELECT serm.promote('nulls', NULL)$$, '22004');
SELECT throws_ok($$SELECT serm.promote('nulls', 9)$$, '42704');
SELECT throws_ok($$SELECT serm.promote('none', 1)$$, '42704');
UPDATE serm.version SET status = 'rejected' WHERE model = 'nulls' AND version = 3;
SELECT throws_ok($$SELECT serm.promote('nulls', 3)$$, '55000', 'version 3 of model "nulls" was rejected');
SELECT throws_ok($$UPDATE serm.version SET status = 'active' WHERE model = 'nulls'$$, '23505');
SELECT throws_ok($$UPDATE serm.deployment SET reason = 'no'$$, '55000');
SELECT throws_ok($$UPDATE serm.tensor SET data = ''$$, '55000');
SELECT throws_ok($$UPDATE serm.version SET seed = 0$$, '55000');

-- --- documents whose ids are not unique
CREATE TABLE docs_twice AS SELECT (c || ' ' || p)::varchar(40) AS doc_id, (part || c || ' ' || p)::varchar AS doc
FROM unnest('{blue,red,green,black}'::text[]) AS c, unnest('{pillow,lamp,chair,desk,rug}'::text[]) AS p, unnest('{"a ","one more "}'::text[]) AS part;
SELECT lives_ok($$SELECT serm.create_model('twice', documents => 'docs_twice')$$, 'are documents all the same');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT DISTINCT 'twice', q.doc_id, d.doc_id, (q.doc_id = d.doc_id)::int FROM docs_twice AS q, docs_twice AS d;
CALL serm.train('twice', '{"epochs": 1, "pretrain_epochs": 1}');
SELECT is((counts ->> 'judgments')::int + (counts ->> 'test_judgments')::int, 400, 'and a judgment counts once') FROM serm.version WHERE model = 'twice';
SELECT lives_ok($$SELECT serm.drop_model('twice')$$, 'such a model goes too');

-- --- dropping
SELECT lives_ok($$SELECT serm.drop_model('nulls')$$, 'a model goes with all it has');
SELECT is((SELECT count(*) FROM serm.version) + (SELECT count(*) FROM serm.tensor) + (SELECT count(*) FROM serm.deployment)
	+ (SELECT count(*) FROM serm.judgment WHERE model = 'nulls'), 0::bigint, 'nothing is left of it');
SELECT throws_ok($$SELECT serm.drop_model('nulls')$$, '42704', 'model "nulls" does not exist');
SELECT lives_ok('SELECT serm.drop_model(NULL)', 'dropping nothing');

-- --- alter_model
SELECT serm.create_model('altered', options => '{"test_share": 0.3, "quorum": 0.9}');
CREATE TEMP TABLE altered AS SELECT serm.alter_model('altered', '{"budget": 5, "rule": "quorum"}') AS options;
SELECT is((SELECT options FROM altered), (SELECT options FROM serm.model WHERE name = 'altered'), 'alter_model returns the options');
SELECT is((SELECT ARRAY[options ->> 'budget', options ->> 'rule', options ->> 'quorum', options ->> 'test_share'] FROM serm.model
	WHERE name = 'altered'), '{5,quorum,0.9,0.3}', 'what is not given stays');
SELECT is(serm.alter_model('altered', '{"budget": null, "rule": null}') ->> 'budget', NULL, 'null is the default');
SELECT is((SELECT options ->> 'rule' FROM serm.model WHERE name = 'altered'),
	(SELECT options ->> 'rule' FROM serm.model WHERE name = 'evident'), 'of a text, too');
SELECT throws_ok($$SELECT serm.alter_model('altered', '{"bugdet": 5}')$$, '22023', NULL, 'an unknown option is refused');
SELECT throws_ok($$SELECT serm.alter_model('altered', '{"budget": -1}')$$, '22023', NULL, 'and a budget below 0');
SELECT throws_ok($$SELECT serm.alter_model('altered', '[{"budget": 1}]')$$, '22023', NULL, 'and what is no object');
SELECT throws_ok($$SELECT serm.alter_model('nobody', '{}')$$, '42704', NULL, 'and an unknown model');
SELECT throws_ok($$SELECT serm.alter_model('altered', documents => 'pg_class')$$, '42703', NULL, 'and documents without their columns');
SELECT lives_ok($$SELECT serm.alter_model('altered', '{"test_share": 0.1}')$$, 'the test split moves while there is nothing to test');
INSERT INTO serm.judgment (model, query, doc, grade) VALUES ('altered', 'q', 'd', 1);
SELECT throws_ok($$SELECT serm.alter_model('altered', '{"test_share": 0.2}')$$, '55000', NULL, 'and not with judgments');
SELECT lives_ok($$SELECT serm.alter_model('altered', '{"test_share": 0.1, "quorum": 0.5}')$$, 'others still do');

DO $$
DECLARE hint text;
BEGIN
	PERFORM serm.mine('altered');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	PERFORM set_config('tap.hint', hint, false);
END $$;
SELECT is(current_setting('tap.hint', true), $$Name one: SELECT serm.alter_model('altered', log => 'table').$$, 'who has no log is told the command');

SELECT * FROM finish();
