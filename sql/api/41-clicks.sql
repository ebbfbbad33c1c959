-- Click models: fitted in steps that commit, then read like any table.

CREATE OR REPLACE PROCEDURE serm.fit_click_model(model text DEFAULT NULL, kind text DEFAULT 'pbm', since timestamptz DEFAULT NULL,
	until timestamptz DEFAULT NULL, options jsonb DEFAULT '{}')
LANGUAGE c AS 'MODULE_PATHNAME', 'serm_fit_click_model';
COMMENT ON PROCEDURE serm.fit_click_model(text, text, timestamptz, timestamptz, jsonb) IS 'fit a click model to the search log: pbm, ubm, cascade, dbn, sdbn or coec; it replaces the one of that kind';

CREATE OR REPLACE FUNCTION serm.evaluate_click_model(model text DEFAULT NULL, kind text DEFAULT 'pbm', since timestamptz DEFAULT NULL,
	until timestamptz DEFAULT NULL)
RETURNS TABLE ("position" integer, log_likelihood float8, perplexity float8, examination float8, impressions bigint, clicks bigint)
STABLE PARALLEL RESTRICTED COST 100000 ROWS 11 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_evaluate_click_model';
COMMENT ON FUNCTION serm.evaluate_click_model(text, text, timestamptz, timestamptz) IS 'how well a fitted click model foretells the clicks of a window, by position; the row without a position is the whole';

CREATE OR REPLACE FUNCTION serm._isotonic(at float8[], level float8[], x float8) RETURNS float8
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_isotonic';
COMMENT ON FUNCTION serm._isotonic(float8[], float8[], float8) IS 'the value at x of a curve that is straight between its knots';

CREATE OR REPLACE FUNCTION serm._model_name(model text) RETURNS text
	LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'serm_model_name';
COMMENT ON FUNCTION serm._model_name(text) IS 'the model that is meant: the one named, else that of the setting serm.model, else the only one';

CREATE OR REPLACE FUNCTION serm.click_relevance(model text DEFAULT NULL, kind text DEFAULT 'pbm')
RETURNS TABLE (query text, doc_id text, relevance float8, grade float8, attractiveness float8, satisfaction float8,
	examination float8, ips float8, impressions bigint, clicks bigint)
STABLE PARALLEL RESTRICTED ROWS 10000 LANGUAGE sql BEGIN ATOMIC
	SELECT p.query, p.doc_id, p.attractiveness * coalesce(p.satisfaction, 1),
		serm._isotonic(m.calibration_at, m.calibration_grade, p.attractiveness * coalesce(p.satisfaction, 1)),
		p.attractiveness, p.satisfaction, p.examination, p.ips, p.impressions, p.clicks
	  FROM serm.click_model AS m JOIN serm.click_param AS p ON p.model = m.model AND p.kind = m.kind
	 WHERE m.model = serm._model_name($1) AND m.kind = coalesce($2, 'pbm') AND p.query IS NOT NULL;
END;
COMMENT ON FUNCTION serm.click_relevance(text, text) IS 'what clicks say of each pair once position is accounted for: relevance, and the grade that judged pairs of such relevance have';

CREATE OR REPLACE FUNCTION serm.click_propensity(model text DEFAULT NULL, kind text DEFAULT 'pbm', clip float8 DEFAULT NULL)
RETURNS TABLE ("position" integer, examination float8, propensity float8, weight float8, impressions bigint, clicks bigint)
STABLE PARALLEL RESTRICTED ROWS 10 LANGUAGE sql BEGIN ATOMIC
	SELECT p."position", p.examination, greatest(p.examination, c.clip), 1 / greatest(p.examination, c.clip), p.impressions, p.clicks
	  FROM serm.click_model AS m JOIN serm.click_param AS p ON p.model = m.model AND p.kind = m.kind
		CROSS JOIN LATERAL (SELECT coalesce($3, (m.options ->> 'clip')::float8) AS clip) AS c
	 WHERE m.model = serm._model_name($1) AND m.kind = coalesce($2, 'pbm') AND p.query IS NULL AND p.previous IS NULL
	 ORDER BY p."position";
END;
COMMENT ON FUNCTION serm.click_propensity(text, text, float8) IS 'the chance that a position is examined, never below clip, and its inverse: the weight of a click there';
