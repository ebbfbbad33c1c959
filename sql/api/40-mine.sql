-- Mining reads only. STABLE: the log, the model and the seed decide, not the clock or chance.

CREATE OR REPLACE FUNCTION serm.mine_feedback(model text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
	options jsonb DEFAULT '{}')
	RETURNS TABLE (query text, doc_id text, doc text, score real, signals jsonb, priority real, reason text)
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1000 COST 10000 AS 'MODULE_PATHNAME', 'serm_mine_feedback';
COMMENT ON FUNCTION serm.mine_feedback(text, timestamptz, timestamptz, jsonb) IS 'pairs that users clicked or read for long while the model scores them low, each with its reason';

CREATE OR REPLACE FUNCTION serm.mine_clicks(model text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
	options jsonb DEFAULT '{}')
	RETURNS TABLE (query text, doc_id text, doc text, score real, signals jsonb, priority real, reason text)
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1000 COST 10000 AS 'MODULE_PATHNAME', 'serm_mine_clicks';
COMMENT ON FUNCTION serm.mine_clicks(text, timestamptz, timestamptz, jsonb) IS 'pairs whose attractiveness, by a position-based click model of the window, is high while the model scores them low';

CREATE OR REPLACE FUNCTION serm.mine_disagreement(model text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
	options jsonb DEFAULT '{}')
	RETURNS TABLE (query text, doc_id text, doc text, score real, signals jsonb, priority real, reason text)
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1000 COST 10000 AS 'MODULE_PATHNAME', 'serm_mine_disagreement';
COMMENT ON FUNCTION serm.mine_disagreement(text, timestamptz, timestamptz, jsonb) IS 'pairs on which the heads of the model differ most: above a threshold or a quantile of the window';

CREATE OR REPLACE FUNCTION serm.mine_uncertainty(model text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
	options jsonb DEFAULT '{}')
	RETURNS TABLE (query text, doc_id text, doc text, score real, signals jsonb, priority real, reason text)
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1000 COST 10000 AS 'MODULE_PATHNAME', 'serm_mine_uncertainty';
COMMENT ON FUNCTION serm.mine_uncertainty(text, timestamptz, timestamptz, jsonb) IS 'pairs whose predicted grades have the highest entropy: above a threshold or a quantile of the window';

CREATE OR REPLACE FUNCTION serm.mine(model text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
	budget integer DEFAULT 1000, options jsonb DEFAULT '{}')
	RETURNS TABLE (query text, doc_id text, doc text, agents text[], signals jsonb, priority real, reason text)
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1000 COST 10000 AS 'MODULE_PATHNAME', 'serm_mine';
COMMENT ON FUNCTION serm.mine(text, timestamptz, timestamptz, integer, jsonb) IS 'pairs of the search log that are worth a grade: the union of the agents and a random draw, under a budget, one row per pair';

CREATE OR REPLACE FUNCTION serm.mine_options(model text DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS jsonb
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_mine_options';
COMMENT ON FUNCTION serm.mine_options(text, jsonb) IS 'the options of mining with the defaults of the model filled in; null where the window decides';

CREATE OR REPLACE FUNCTION serm.mining_overlap(model text DEFAULT NULL, round integer DEFAULT NULL)
RETURNS TABLE (agent text, other text, samples bigint, share float8, jaccard float8, alone bigint, settled bigint, wrong bigint)
STABLE PARALLEL RESTRICTED ROWS 25 LANGUAGE sql BEGIN ATOMIC
	WITH pick AS (
		SELECT s.id, a.agent, cardinality(s.agents) = 1 AS alone, s.grade IS NOT NULL AS settled,
			abs(s.grade - (s.signals ->> 'score')::float8) >= 1 AS wrong
		  FROM serm.sample AS s CROSS JOIN LATERAL unnest(s.agents) AS a (agent)
		 WHERE s.model = serm._model_name($1) AND ($2 IS NULL OR s.round = $2) AND s.agents <> '{gold}'
	), total AS (SELECT p.agent, count(*) AS n FROM pick AS p GROUP BY p.agent)
	SELECT a.agent, b.agent, count(*), count(*)::float8 / ta.n, count(*)::float8 / (ta.n + tb.n - count(*)),
		count(*) FILTER (WHERE a.alone), count(*) FILTER (WHERE a.settled), count(*) FILTER (WHERE a.wrong)
	  FROM pick AS a JOIN pick AS b ON b.id = a.id JOIN total AS ta ON ta.agent = a.agent JOIN total AS tb ON tb.agent = b.agent
	 GROUP BY a.agent, b.agent, ta.n, tb.n ORDER BY a.agent COLLATE "C", b.agent COLLATE "C";
END;
COMMENT ON FUNCTION serm.mining_overlap(text, integer) IS 'what each mining agent adds: samples that two agents share, and of each agent (other = agent) those it alone found and how often the settled grade is a grade or more off the score';

CREATE OR REPLACE FUNCTION serm.mine_next(model text DEFAULT NULL, budget integer DEFAULT 1000, lateness interval DEFAULT '1 hour',
	options jsonb DEFAULT '{}')
	RETURNS TABLE (since timestamptz, until timestamptz, events bigint, late bigint, samples bigint)
	LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 2 COST 100000 AS 'MODULE_PATHNAME', 'serm_mine_next';
COMMENT ON FUNCTION serm.mine_next(text, integer, interval, jsonb) IS 'mine what came into the search log since the last call and store it as samples, in one transaction with the watermark; windows that got late impressions are mined again';

CREATE OR REPLACE FUNCTION serm.check_log(log regclass, documents regclass DEFAULT NULL)
	RETURNS TABLE (severity text, problem text, "column" text, rows bigint, remedy text)
	LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10 COST 100000 AS 'MODULE_PATHNAME', 'serm_check_log';
COMMENT ON FUNCTION serm.check_log(regclass, regclass) IS 'every problem of a relation as a search log: what stops serm (error), what misleads it (warning), what it can do without (notice); no rows: none';
