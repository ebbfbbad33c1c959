-- Losses, weights and calibration by their options: what trains, what is stored, what is refused.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;
SET search_path = public;

SELECT plan(59);

CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
INSERT INTO product
	SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for your home.', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black}'::text[]) AS colour, unnest('{shoe,lamp,chair,table}'::text[]) AS thing;
SELECT FROM serm.create_model('m', documents => 'product');
INSERT INTO serm.judgment (model, query, doc_id, grade, source)
	SELECT 'm', replace(q.doc_id, '-', ' '), d.doc_id,
		CASE WHEN q.doc_id = d.doc_id THEN 3 WHEN split_part(q.doc_id, '-', 2) = split_part(d.doc_id, '-', 2) THEN 2
			WHEN split_part(q.doc_id, '-', 1) = split_part(d.doc_id, '-', 1) THEN 1 ELSE 0 END,
		CASE WHEN hashtext(q.doc_id || d.doc_id) % 3 = 0 THEN 'agents' ELSE 'human' END
	  FROM product q, product d;


-- --- options that cannot be read; they are refused before the procedure asks for its transaction
CREATE FUNCTION refusal(options jsonb, OUT state text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
	CALL serm.train('m', options);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
SELECT is(state, '2D000', 'options in order come as far as the transaction') FROM refusal('{"loss": "ce:1, listmle(temperature=0.5):0.3"}');
SELECT is(state, '22023', 'an unknown loss') FROM refusal('{"loss": "ce:1,softmax:2"}');
SELECT is(message, 'option "loss" of serm.train: unknown loss "softmax"', 'its message names it') FROM refusal('{"loss": "ce:1,softmax:2"}');
SELECT is(hint, 'Write losses with coefficients, as in "ce:1, ranknet:0.3". Valid losses are: ce, ordinal, kl, tcm, ranknet, ranknet_adjacent, '
	'ranknet_skip, hinge_rank, bt_wt, lambda_ndcg, dpo, mapo, margin_mse, ranknet_teacher, listnet, listmle, irpo, infonce_multi.', 'its hint lists the losses')
  FROM refusal('{"loss": "ce:1,softmax:2"}');
SELECT is(state, '22023', 'an unreadable sum: ' || loss) FROM unnest(ARRAY['', 'ce:', 'ce:0', 'ce,ce', 'ce ranknet', 'ranknet(margin=1)', 'ranknet(slope=3']) AS loss,
	refusal(jsonb_build_object('loss', loss));
SELECT is(state, '22023', 'a loss that is no text') FROM refusal('{"loss": 1}');
SELECT is(state, '22023', 'loss and pairwise exclude each other') FROM refusal('{"loss": "ce", "pairwise": 0.5}');
SELECT is(state, '22023', 'an unreadable source weight: ' || weights) FROM unnest(ARRAY['', 'human', 'human:', 'human:x', 'human:-1', 'robots:1', 'human:1;agents:2']) AS weights,
	refusal(jsonb_build_object('source_weights', weights));
SELECT ok(hint LIKE '%Valid sources are: human, agents, clicks, import.', 'its hint lists the sources') FROM refusal('{"source_weights": "robots:1"}');
SELECT is(state, '22023', 'a cap above 2') FROM refusal('{"margin_cap": 2.5}');

-- --- what needs a reference, before there is one
\set VERBOSITY sqlstate
\set ON_ERROR_STOP 0
CALL serm.train('m', '{"loss": "ce,dpo", "epochs": 1}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'a loss that needs a reference finds no version');
SELECT is(:'LAST_ERROR_MESSAGE'::text, 'loss "ce,dpo" needs a reference, and model "m" has no active version', 'and says so');
CALL serm.train('m', '{"reference": 9, "epochs": 1}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '42704', 'a reference that does not exist');
CALL serm.train('m', '{"source_weights": "human:0, agents:0", "epochs": 1}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '22023', 'sources that leave nothing');
SELECT is(count(*), 0::bigint, 'nothing was stored') FROM serm.version;
\set ON_ERROR_STOP 1

-- --- each loss trains, is finite and can be promoted
CALL serm.train('m', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "pairwise": 1}');
CALL serm.train('m', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "loss": "ce:1, ranknet:1"}');
SELECT is(count(DISTINCT checksum), 1::bigint, 'pairwise, spelled out as a loss, gives the same bytes') FROM serm.version;
SELECT is(config -> 'loss', '"ce:1, ranknet:1"', 'the version says what it minimised') FROM serm.version WHERE version = 2;
SELECT format('CALL serm.train(''m'', ''{"epochs": 2, "heads": 2, "pretrain_epochs": 0, "promote": true, "loss": "%s"}'')', loss)
  FROM unnest('{ce,ordinal,kl,tcm,ranknet,ranknet_adjacent,ranknet_skip,hinge_rank,bt_wt,lambda_ndcg,dpo,mapo,margin_mse,ranknet_teacher,listnet,listmle,irpo,infonce_multi}'::text[])
	AS loss
\gexec
SELECT is(count(*), 18::bigint, 'every loss alone gives an active version') FROM serm.deployment WHERE to_version > 2;
SELECT ok(bool_and((metrics ->> 'finite')::boolean AND metrics ->> 'nll' IS NOT NULL AND config ->> 'final_loss' IS NOT NULL), 'of finite scores') FROM serm.version;
SELECT is(string_agg(config ->> 'loss', ',' ORDER BY version), 'kl,dpo,margin_mse,ranknet_teacher', 'those that need a reference took the active version')
  FROM serm.version WHERE config ->> 'reference' IS NOT NULL AND (config ->> 'reference')::int = version - 1;
SELECT ok(bool_and(serm.check_version('m', version)), 'and serves what was trained') FROM serm.version;

-- --- weights
CALL serm.train('m', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "pairwise": 1, "source_weights": "human:1, agents:1"}');
SELECT is(a.checksum, b.checksum, 'weights of 1 give the bytes of none') FROM serm.version a, serm.version b WHERE a.version = 1 AND b.version = 21;
CALL serm.train('m', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "source_weights": " agents : .5 "}');
SELECT isnt(a.checksum, b.checksum, 'another weight counts') FROM serm.version a, serm.version b WHERE a.version = 1 AND b.version = 22;
CALL serm.train('m', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "source_weights": "agents:0"}');
SELECT is((v.counts ->> 'judgments')::bigint, count(*), 'a source of weight 0 is left out')
  FROM serm.version v, serm.judgment j WHERE v.version = 23 AND j.source = 'human' AND serm.split_of(j.query) = 'train' GROUP BY v.counts;
CALL serm.train('m', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "class_weights": true, "rank_weights": true, "curriculum": 1, "margin_cap": 1.5}');
SELECT ok(checksum NOT IN (SELECT checksum FROM serm.version WHERE version < 24) AND config @> '{"class_weights": true, "curriculum": 1, "margin_cap": 1.5}',
	'the other weights count and are stored') FROM serm.version WHERE version = 24;

-- --- calibration
CALL serm.train('m', '{"epochs": 2, "heads": 4, "pretrain_epochs": 1, "calibrate": true}');
SELECT is((config ->> 'temperature')::float8 <> 1, EXISTS (SELECT FROM serm.tensor t WHERE t.version = 25 AND t.name = 'temperature'),
	'a temperature that helps is stored with the version') FROM serm.version WHERE version = 25;
SELECT ok(serm.check_version('m', 25), 'and serves what was trained');
SELECT is(count(*), 0::bigint, 'nothing else has one, unless its loss ranks only')
  FROM serm.tensor t JOIN serm.version v USING (version) WHERE t.name = 'temperature' AND version < 25 AND coalesce(v.config ->> 'loss', 'ce') ~ '^(ce|ordinal|kl|mapo)';

-- --- propensities of judgments from clicks
CREATE TABLE log (query text, doc_id text, shown_at timestamptz, position int, clicked bool);
\set VERBOSITY sqlstate
\set ON_ERROR_STOP 0
CALL serm.train('m', '{"epochs": 1, "propensity": true}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'propensities need a log');
SELECT FROM serm.create_model('c', documents => 'product', log => 'log');
INSERT INTO serm.judgment (model, query, doc_id, grade, source)
	SELECT 'c', query, doc_id, grade, CASE WHEN grade IN (1, 2) THEN 'clicks' ELSE 'human' END FROM serm.judgment WHERE model = 'm';
CALL serm.train('c', '{"epochs": 1, "propensity": true}');
SELECT is(:'LAST_ERROR_SQLSTATE'::text, '55000', 'that is not empty');
\set ON_ERROR_STOP 1
-- Examined with chance 1, 1/2, 1/4; each pair is shown at each place, so the click rates are in that proportion.
INSERT INTO log SELECT q.doc_id, d.doc_id, now(), p, (i * 0.618034) % 1 < .4 / 2 ^ (p - 1)
	FROM product q, product d, generate_series(1, 3) AS p, generate_series(1, 30) AS i;
INSERT INTO log SELECT query, doc_id, now(), CASE WHEN hashtext(query || doc_id) % 2 = 0 THEN 1 ELSE 3 END, false
	FROM serm.judgment WHERE model = 'c' AND source = 'clicks';
CALL serm.train('c', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1}');
CALL serm.train('c', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "propensity": true}');
CALL serm.train('c', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "propensity": true, "propensity_clip": 1}');
CALL serm.train('c', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "propensity": true, "propensity_clip": 0.6}');
CALL serm.train('c', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "propensity": true, "source_weights": "clicks:0"}');
CALL serm.train('c', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "source_weights": "clicks:0"}');
SELECT is(round((config #>> '{examination,1}')::numeric, 2), 1.00, 'the first place is always examined') FROM serm.version WHERE model = 'c' AND version = 2;
SELECT ok((config #>> '{examination,2}')::float8 BETWEEN .4 AND .6 AND (config #>> '{examination,3}')::float8 BETWEEN .15 AND .35,
	'examination is fitted to the log: ' || (config ->> 'examination')) FROM serm.version WHERE model = 'c' AND version = 2;
SELECT isnt(a.checksum, b.checksum, 'propensities count') FROM serm.version a, serm.version b WHERE a.model = 'c' AND b.model = 'c' AND a.version = 1 AND b.version = 2;
SELECT is(a.checksum, b.checksum, 'a clip of 1 gives the bytes of none') FROM serm.version a, serm.version b WHERE a.model = 'c' AND b.model = 'c' AND a.version = 1 AND b.version = 3;
SELECT isnt(a.checksum, b.checksum, 'a clip counts') FROM serm.version a, serm.version b WHERE a.model = 'c' AND b.model = 'c' AND a.version = 2 AND b.version = 4;
SELECT is(a.checksum, b.checksum, 'only judgments from clicks have one') FROM serm.version a, serm.version b WHERE a.model = 'c' AND b.model = 'c' AND a.version = 5 AND b.version = 6;
SELECT is(config ->> 'examination', NULL, 'nothing is fitted without the option') FROM serm.version WHERE model = 'c' AND version = 1;
SELECT is(state, '22023', 'a clip of 0') FROM refusal('{"propensity_clip": 0}');
SELECT ok(bool_and(serm.check_version('c', version)), 'all serve what was trained') FROM serm.version WHERE model = 'c';
SELECT is(count(*), 6::bigint, 'six versions') FROM serm.version WHERE model = 'c';
-- A click model that was fitted to this log is used; its marked examination shows it.
CALL serm.fit_click_model('c');
CALL serm.train('c', '{"epochs": 2, "heads": 2, "pretrain_epochs": 1, "propensity": true}');
SELECT is(a.config -> 'examination', b.config -> 'examination', 'the stored click model says what a fit says')
  FROM serm.version a, serm.version b WHERE a.model = 'c' AND b.model = 'c' AND a.version = 2 AND b.version = 7;
SELECT is(a.checksum, b.checksum, 'of every pair') FROM serm.version a, serm.version b WHERE a.model = 'c' AND b.model = 'c' AND a.version = 2 AND b.version = 7;
UPDATE serm.click_param SET examination = 0.33 WHERE model = 'c' AND (position = 2 OR query IS NOT NULL);
CREATE FUNCTION pg_temp.told(nth int) RETURNS boolean LANGUAGE sql AS $$SELECT config #> '{examination,2}' = '0.33' FROM serm.version WHERE model = 'c' AND version = $1$$;
CALL serm.train('c', '{"epochs": 1, "heads": 2, "pretrain_epochs": 0, "propensity": true}');
UPDATE serm.click_model SET fitted = fitted - interval '2 days' WHERE model = 'c';
CALL serm.train('c', '{"epochs": 1, "heads": 2, "pretrain_epochs": 0, "propensity": true}');
UPDATE serm.click_model SET fitted = now(), since = '2020-01-01' WHERE model = 'c';
CALL serm.train('c', '{"epochs": 1, "heads": 2, "pretrain_epochs": 0, "propensity": true}');
UPDATE serm.click_model SET since = NULL, log = 'product' WHERE model = 'c';
CALL serm.train('c', '{"epochs": 1, "heads": 2, "pretrain_epochs": 0, "propensity": true}');
SELECT is(pg_temp.told(nth), used, why) FROM (VALUES (8, true, 'the stored click model is used'), (9, false, 'but not an old one'),
	(10, false, 'nor one of a part of the log'), (11, false, 'nor one of another log')) AS v (nth, used, why);
SELECT isnt(a.checksum, b.checksum, 'its examination of the pairs counts') FROM serm.version a, serm.version b WHERE a.model = 'c' AND b.model = 'c' AND a.version = 8 AND b.version = 9;

SELECT * FROM finish();
