-- Distillation: who may teach, what is graded, what is stored, and that the student follows.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(54);

CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black,white}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,sofa,bowl}'::text[]) AS thing;
CREATE VIEW truth AS SELECT replace(q.doc_id, '-', ' ') AS query, d.doc_id, d.doc,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END AS grade
	  FROM product q, product d;
CREATE TABLE log (query text, doc_id text, shown_at timestamptz, position int, clicked bool);
INSERT INTO log SELECT query, doc_id, now(), 1 + row_number() OVER (PARTITION BY query ORDER BY doc_id), false FROM truth, generate_series(1, 2);

SELECT FROM serm.create_model('teacher', documents => 'product');
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'teacher', query, doc_id, grade FROM truth;
SELECT FROM serm.create_model('student', documents => 'product', log => 'log');
-- A fifth of the queries, so that most pairs of the log have no judgment.
INSERT INTO serm.judgment (model, query, doc_id, grade) SELECT 'student', query, doc_id, grade FROM truth WHERE hashtext(query) % 5 = 0;

CREATE FUNCTION refusal(student text, teacher text, options jsonb, OUT state text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
	CALL serm.distill(student, teacher, options);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;

-- --- options that cannot be; they are refused before the procedure asks for its transaction
SELECT is(state, '2D000', 'options in order come as far as the transaction')
  FROM refusal('student', 'teacher', '{"alpha": 0.5, "temperature": 2, "judged": 10, "unlabelled": 10, "per_query": 5, "unlabelled_weight": 0.5, "failed_share": 0.5, "epochs": 1}');
SELECT is(state, '2D000', 'and a loss that learns from the teacher') FROM refusal('student', 'teacher', '{"loss": "ce:1, kl(temperature=2):1, ranknet_teacher:0.3"}');
SELECT is(state, '22023', 'not ' || options) FROM unnest(ARRAY['{"alpha": 0}', '{"alpha": 1.5}', '{"temperature": 0}', '{"per_query": 0}', '{"unlabelled": -1}',
	'{"unlabelled_weight": 0}', '{"failed_share": 2}', '{"alfa": 1}', '{"continue": "always"}', '{"parent": 1}', '{"reference": 1}', '{"loss": "ce:1"}',
	'{"loss": "kl:1, dpo:1"}', '{"loss": "kl", "temperature": 2}', '[1]']) AS options, refusal('student', 'teacher', options::jsonb);
SELECT ok(hint LIKE '%teacher_version, alpha, temperature, judged, unlabelled, per_query, unlabelled_weight, failed_share%' AND hint NOT LIKE '%replay_max%',
	'the hint lists the options there are') FROM refusal('student', 'teacher', '{"alfa": 1}');
SELECT is(message, 'option "loss" of serm.distill: the loss learns nothing from a teacher: it needs one of kl, margin_mse, ranknet_teacher', 'a loss without a teacher')
  FROM refusal('student', 'teacher', '{"loss": "ce:1"}');
SELECT is(state, '22004', 'a teacher must be named') FROM refusal('student', NULL, '{}');
SELECT is(state, '22004', 'and a student') FROM refusal(NULL, 'teacher', '{}');

-- --- teachers that cannot teach
\set VERBOSITY sqlstate
\set ON_ERROR_STOP 0
CALL serm.distill('student', 'student');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', 'nobody teaches himself');
CALL serm.distill('student', 'nobody');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'a teacher that does not exist');
CALL serm.distill('nobody', 'teacher');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'a student that does not exist');
CALL serm.distill('student', 'teacher');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'a teacher without an active version');
\set ON_ERROR_STOP 1
CALL serm.train('teacher', '{"epochs": 10, "heads": 2, "pretrain_epochs": 1}');
\set ON_ERROR_STOP 0
CALL serm.distill('student', 'teacher', '{"teacher_version": 9}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'a version that the teacher does not have');
SELECT FROM serm.create_model('empty', documents => 'product');
CALL serm.distill('empty', 'teacher');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'a student without pairs');
SELECT is(:'LAST_ERROR_MESSAGE'::text, 'model "empty" has no pairs that a teacher could grade', 'and it is said');
CALL serm.distill('student', 'teacher', '{"judged": 0, "unlabelled": 0}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'options that leave no pair');
SELECT is(count(*), 0::bigint, 'nothing was stored') FROM serm.version WHERE model <> 'teacher';
\set ON_ERROR_STOP 1

-- --- a student
CALL serm.distill('student', 'teacher', '{"heads": 2, "pretrain_epochs": 1}');
SELECT is(status, 'active', 'the first version of a student is promoted') FROM serm.version WHERE model = 'student' AND version = 1;
SELECT is(config - ARRAY['epochs', 'gemm'] @> '{"teacher": "teacher", "teacher_version": 1, "teacher_kind": "interaction", "teacher_grades": 4, "heads": 2, "unlabelled": 20000}', true,
	'it names its teacher and what it was told') FROM serm.version WHERE model = 'student';
SELECT ok(NOT config ? 'promote' AND NOT config ? 'replay_max', 'and nothing that is none of its business') FROM serm.version WHERE model = 'student';
SELECT is((counts ->> 'judgments')::bigint, (SELECT count(*) FROM serm.judgment WHERE model = 'student' AND serm.split_of(query) = 'train'), 'it knows all judgments of the train split')
  FROM serm.version WHERE model = 'student';
SELECT is((counts ->> 'unlabelled')::bigint, (SELECT count(DISTINCT (query, doc_id)) FROM log l WHERE serm.split_of(query) = 'train'
		AND NOT EXISTS (SELECT FROM serm.judgment j WHERE j.model = 'student' AND (j.query, j.doc_id) = (l.query, l.doc_id))),
	'the pairs of the log that are not judged, none of the test split') FROM serm.version WHERE model = 'student';
SELECT is((counts ->> 'taught')::bigint, (counts ->> 'judgments')::bigint + (counts ->> 'unlabelled')::bigint, 'were graded with them') FROM serm.version WHERE model = 'student';
SELECT ok(serm.check_version('student', 1), 'it serves what was trained');
CALL serm.distill('student', 'teacher', '{"heads": 2, "pretrain_epochs": 1}');
SELECT is(a.checksum, b.checksum, 'the same again gives the same bytes') FROM serm.version a, serm.version b WHERE a.model = 'student' AND b.model = 'student' AND a.version = 1 AND b.version = 2;
SELECT is(status, 'candidate', 'and waits, as versions of serm.train do') FROM serm.version WHERE model = 'student' AND version = 2;
CALL serm.distill('student', 'teacher', '{"heads": 2, "pretrain_epochs": 1, "unlabelled": 50, "per_query": 3, "judged": 40, "teacher_version": 1, "promote": true}');
SELECT is(counts @> '{"unlabelled": 50, "taught": 90}' AND (counts ->> 'unlabelled_queries')::int >= 17, true, 'limits hold: ' || counts::text) FROM serm.version WHERE model = 'student' AND version = 3;
SELECT is(status, 'active', 'promote promotes') FROM serm.version WHERE model = 'student' AND version = 3;
CALL serm.distill('student', 'teacher', '{"heads": 2, "pretrain_epochs": 1, "unlabelled": 50, "seed": 2}');
CALL serm.distill('student', 'teacher', '{"heads": 2, "pretrain_epochs": 1, "unlabelled": 50, "seed": 2}');
SELECT is(a.checksum, b.checksum, 'sampling is by the seed') FROM serm.version a, serm.version b WHERE a.model = 'student' AND b.model = 'student' AND a.version = 4 AND b.version = 5;

-- --- it agrees with its teacher better than the same student on the judgments alone, on queries that it did not see
CALL serm.train('student', '{"heads": 2, "pretrain_epochs": 1}');
CREATE FUNCTION distance(version int) RETURNS float8 LANGUAGE sql AS $$
	SELECT avg((serm.score(query, doc, 'teacher') - serm.score_version(query, doc, 'student', version)) ^ 2)
	  FROM truth WHERE serm.split_of(query) = 'test' $$;
SELECT cmp_ok(distance(1), '<', distance(6) / 2, 'distance to the teacher: ' || round(distance(1)::numeric, 3) || ' distilled, ' || round(distance(6)::numeric, 3) || ' trained');

-- --- each loss that learns from a teacher, alone and beside others
SELECT format('CALL serm.distill(''student'', ''teacher'', ''{"heads": 1, "epochs": 2, "pretrain_epochs": 0, "loss": "%s"}'')', loss)
  FROM unnest('{kl,margin_mse,ranknet_teacher,"kl(temperature=3):2, margin_mse:0.5, ce:1, ranknet:0.3, bt_wt"}'::text[]) AS loss
\gexec
SELECT ok(bool_and((metrics ->> 'finite')::boolean) AND count(*) = 4, 'give finite versions') FROM serm.version WHERE model = 'student' AND version > 6;
SELECT ok(bool_and(serm.check_version('student', version)), 'that serve what was trained') FROM serm.version WHERE model = 'student' AND version > 6;

-- --- a student without judgments, and one whose grades are not the teacher's
SELECT FROM serm.create_model('ungraded', documents => 'product', log => 'log');
CALL serm.distill('ungraded', 'teacher', '{"heads": 2, "pretrain_epochs": 1, "class_weights": true, "calibrate": true}');
SELECT is(counts @> '{"judgments": 0}' AND (counts ->> 'unlabelled')::int > 400, true, 'a student without judgments learns from the teacher alone') FROM serm.version WHERE model = 'ungraded';
SELECT cmp_ok(corr(serm.score(query, doc, 'ungraded'), serm.score(query, doc, 'teacher')), '>', .9::float8, 'and follows') FROM truth;
SELECT FROM serm.create_model('two', grades => '{no,yes}', documents => 'product', log => 'log');
SELECT FROM serm.create_model('seven', grades => '{a,b,c,d,e,f,g}', documents => 'product', log => 'log');
CALL serm.distill('two', 'teacher', '{"heads": 2, "pretrain_epochs": 1}');
CALL serm.distill('seven', 'teacher', '{"heads": 2, "pretrain_epochs": 1}');
SELECT is(config ->> 'teacher_grades', '4', 'the grades of the teacher are on record') FROM serm.version WHERE model = 'two';
SELECT ok(avg(abs(serm.score(query, doc, 'two') * 3 - serm.score(query, doc, 'teacher'))) < .3, 'fewer grades have the same expected grade') FROM truth;
SELECT ok(avg(abs(serm.score(query, doc, 'seven') / 2 - serm.score(query, doc, 'teacher'))) < .3, 'more grades, too') FROM truth;

-- --- circles
\set ON_ERROR_STOP 0
CALL serm.distill('teacher', 'student', '{"teacher_version": 1}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', 'a student does not teach its teacher');
SELECT is(:'LAST_ERROR_MESSAGE'::text, 'version 1 of model "student" has learned from model "teacher" itself', 'and it is said');
CALL serm.distill('ungraded', 'student', '{"teacher_version": 1, "epochs": 1, "heads": 1, "pretrain_epochs": 0}');
CALL serm.distill('teacher', 'ungraded', '{"teacher_version": 2}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', 'nor over a third one');
CALL serm.distill('teacher', 'student', '{"teacher_version": 6, "epochs": 1, "heads": 1, "pretrain_epochs": 0}');
SELECT is(:'SQLSTATE'::text, '00000', 'a version that learned from judgments may');
\set ON_ERROR_STOP 1

SELECT * FROM finish();
