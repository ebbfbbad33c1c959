-- Rights and the security lint: who may do what, and nothing that runs with another's rights.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off

SELECT plan(33);

-- --- the lint over the extension's own routines
CREATE TEMP VIEW routine AS
	SELECT p.*, l.lanname FROM pg_proc p
	  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid AND e.extname = 'serm'
	  JOIN pg_language l ON l.oid = p.prolang;

SELECT cmp_ok(count(*), '>', 40::bigint, 'the lint sees the extension') FROM routine;
SELECT is_empty('SELECT proname FROM routine WHERE prosecdef', 'nothing is SECURITY DEFINER');
SELECT is_empty($$SELECT proname FROM routine WHERE lanname IN ('sql', 'plpgsql') AND prosqlbody IS NULL
	AND NOT coalesce(array_to_string(proconfig, ','), '') ~ 'search_path'$$, 'every SQL body is parsed or pins its search_path');
SELECT set_eq($$SELECT DISTINCT proname::text FROM routine WHERE has_function_privilege('public', oid, 'EXECUTE')$$,
	ARRAY['dcg', 'ndcg', 'precision_at', 'recall_at', 'average_precision', 'reciprocal_rank', 'err', 'accuracy',
		'cohen_kappa', 'krippendorff_alpha', 'pair_accuracy', 'encode', '_doc_eq', '_doc_ne', '_doc_lt', '_doc_le', '_doc_ge', '_doc_gt', '_doc_cmp', '_doc_hash', '_doc_hash_extended'],
	'PUBLIC may execute the metrics and what compares documents, and nothing else');
SELECT is_empty($$SELECT proname FROM routine WHERE prokind = 'f' AND 'internal'::regtype = ANY (proargtypes::oid[])
	AND proname NOT LIKE '\_%'$$, 'functions that take internal state are internal themselves');
SELECT is_empty($$SELECT relname FROM pg_class WHERE relnamespace = 'serm'::regnamespace AND relkind IN ('r', 'v')
	AND has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE')$$, 'PUBLIC may touch no table');
SELECT is_empty($$SELECT 1 FROM pg_foreign_data_wrapper WHERE fdwname = 'serm_agent'
	AND has_foreign_data_wrapper_privilege('public', fdwname, 'USAGE')$$, 'PUBLIC may not make servers');
SELECT is_empty($$SELECT relname FROM pg_class WHERE relnamespace = 'serm'::regnamespace AND relkind = 'v'
	AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)$$, 'views show what their reader may see');

-- --- levels
CREATE ROLE tap_none;
CREATE ROLE tap_score;
CREATE ROLE tap_analyse;
CREATE ROLE tap_operate;
SELECT lives_ok($$SELECT serm.grant_access('tap_score', 'score')$$, 'grant score');
SELECT lives_ok($$SELECT serm.grant_access('tap_analyse', 'analyse')$$, 'grant analyse');
SELECT lives_ok($$SELECT serm.grant_access('tap_operate', 'operate')$$, 'grant operate');
SELECT throws_ok($$SELECT serm.grant_access('tap_none', 'everything')$$, '22023', NULL, 'an unknown level is refused');
SELECT throws_ok($$SELECT serm.grant_access('nobody_here', 'score')$$, '42704', NULL, 'an unknown role is refused');
SELECT is(serm.grant_access(NULL, 'score')::text, NULL, 'NULL does nothing');

CREATE FUNCTION pg_temp.may(who name) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(DISTINCT proname, ' ' ORDER BY proname) FROM routine
	 WHERE has_function_privilege(who, oid, 'EXECUTE') AND NOT has_function_privilege('public', oid, 'EXECUTE')
$$;
SELECT is(pg_temp.may('tap_none'), NULL, 'a plain role may execute nothing');
SELECT is(pg_temp.may('tap_score'), 'encode explain predict rank score score_batch score_version split_of', 'score: the scoring functions');
SELECT alike(pg_temp.may('tap_analyse'), '%evaluate%mine%mine_clicks%mine_disagreement%mine_feedback%settle%', 'analyse: mining and settling');
SELECT unalike(pg_temp.may('tap_analyse'), '%promote%', 'analyse: no promotion');
SELECT unalike(pg_temp.may('tap_analyse'), '%train%', 'analyse: no training');
SELECT alike(pg_temp.may('tap_operate'), '%annotate%create_model%drop_model%evolve%promote%rollback%schedule%train%', 'operate: everything');
SELECT ok(NOT has_table_privilege('tap_score', 'serm.judgment', 'SELECT'), 'score: judgments stay unseen');
SELECT ok(NOT has_table_privilege('tap_analyse', 'serm.judgment', 'UPDATE, DELETE'), 'analyse: judgments are append only');
SELECT ok(has_table_privilege('tap_analyse', 'serm.judgment', 'INSERT'), 'analyse: judgments may be added');
SELECT ok(NOT has_table_privilege('tap_analyse', 'serm.version', 'INSERT, UPDATE, DELETE'), 'analyse: versions stay as they are');

-- --- and in practice
SET ROLE tap_none;
SELECT throws_ok($$SELECT serm.create_model('mine')$$, '42501', NULL, 'a plain role creates no model');
SELECT throws_ok($$SELECT serm.score('q', 'd')$$, '42501', NULL, 'a plain role scores nothing');
SELECT throws_ok($$SELECT serm.grant_access('tap_none', 'operate')$$, '42501', NULL, 'and gives itself nothing');
SELECT is(serm.ndcg(g, s), 1::double precision, 'but it may measure') FROM (VALUES (3, 2.0), (0, 1.0)) AS v (g, s);
RESET ROLE;
SET ROLE tap_analyse;
SELECT lives_ok(format('SELECT * FROM serm.%I', relname), 'analyse reads ' || relname) FROM pg_class
 WHERE relnamespace = 'serm'::regnamespace AND relkind = 'v' AND relname IN ('stat_server', 'review_queue') ORDER BY relname;
RESET ROLE;
SET ROLE tap_operate;
SELECT throws_ok($$SELECT serm.grant_access('tap_none', 'score')$$, '42501', NULL, 'operate hands nothing on');
SELECT lives_ok($$SELECT serm.create_model('tap_security')$$, 'operate creates a model');
SELECT lives_ok($$SELECT serm.drop_model('tap_security')$$, 'and drops it');
RESET ROLE;

SELECT * FROM finish();
