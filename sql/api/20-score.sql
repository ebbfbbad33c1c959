-- Scoring: the read path.

CREATE OR REPLACE FUNCTION serm.score(query text, doc text)
RETURNS real STABLE STRICT PARALLEL SAFE COST 100 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score';
COMMENT ON FUNCTION serm.score(text, text) IS 'the relevance of a document for a query by the default model: the expected grade, 0 to the number of grades - 1';

CREATE OR REPLACE FUNCTION serm.score(query text, doc text, model text)
RETURNS real STABLE STRICT PARALLEL SAFE COST 100 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score';
COMMENT ON FUNCTION serm.score(text, text, text) IS 'the relevance of a document for a query: the expected grade, 0 to the number of grades - 1';

CREATE OR REPLACE FUNCTION serm.score_version(query text, doc text, model text, version integer)
RETURNS real IMMUTABLE STRICT PARALLEL SAFE COST 100 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_version';
COMMENT ON FUNCTION serm.score_version(text, text, text, integer) IS 'the relevance by one version, whichever is active: versions never change, so indexes and foreign servers may use it';

CREATE OR REPLACE FUNCTION serm.predict(query text, doc text)
RETURNS serm.prediction STABLE STRICT PARALLEL SAFE COST 110 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_predict';
COMMENT ON FUNCTION serm.predict(text, text) IS 'all that the default model says of a pair: score, grade, probabilities, entropy, disagreement and version';

CREATE OR REPLACE FUNCTION serm.predict(query text, doc text, model text)
RETURNS serm.prediction STABLE STRICT PARALLEL SAFE COST 110 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_predict';
COMMENT ON FUNCTION serm.predict(text, text, text) IS 'all that a model says of a pair: score, grade, probabilities, entropy, disagreement and version';

CREATE OR REPLACE FUNCTION serm.rank(query text, docs text[], OUT ordinal integer, OUT score real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 1000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_rank';
COMMENT ON FUNCTION serm.rank(text, text[]) IS 'documents of an array by their score, best first: place in the array and score';

CREATE OR REPLACE FUNCTION serm.rank(query text, docs text[], model text, OUT ordinal integer, OUT score real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 1000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_rank';
COMMENT ON FUNCTION serm.rank(text, text[], text) IS 'documents of an array by their score by a model, best first: place in the array and score';

CREATE OR REPLACE FUNCTION serm.rank(query text, docs text[], top_k integer, OUT ordinal integer, OUT score real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 1000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_rank_top';
COMMENT ON FUNCTION serm.rank(text, text[], integer) IS 'the top_k documents of an array by their score, best first: place in the array and score';

CREATE OR REPLACE FUNCTION serm.rank(query text, docs text[], model text, top_k integer, OUT ordinal integer, OUT score real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 1000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_rank_top';
COMMENT ON FUNCTION serm.rank(text, text[], text, integer) IS 'the top_k documents of an array by their score by a model, best first: place in the array and score';
