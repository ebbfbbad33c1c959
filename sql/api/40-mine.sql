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
