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

CREATE OR REPLACE FUNCTION serm.encode(doc text)
RETURNS serm.doc IMMUTABLE STRICT PARALLEL SAFE COST 50 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_encode';
COMMENT ON FUNCTION serm.encode(text) IS 'a document parsed for scoring, the same for every model: for a generated column, so that queries need not parse it';

CREATE OR REPLACE FUNCTION serm.encode(doc text, model text)
RETURNS serm.doc STABLE STRICT PARALLEL SAFE COST 100 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_encode_for';
COMMENT ON FUNCTION serm.encode(text, text) IS 'a document as this model reads it: for a cross-encoder the ids of its tokens, which every version with the same tokenizer can score';

CREATE OR REPLACE FUNCTION serm.score(query text, doc serm.doc)
RETURNS real STABLE STRICT PARALLEL SAFE COST 60 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_doc';
COMMENT ON FUNCTION serm.score(text, serm.doc) IS 'the relevance of an encoded document for a query by the default model: the bits that its text gives';

CREATE OR REPLACE FUNCTION serm.score(query text, doc serm.doc, model text)
RETURNS real STABLE STRICT PARALLEL SAFE COST 60 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_doc';
COMMENT ON FUNCTION serm.score(text, serm.doc, text) IS 'the relevance of an encoded document for a query: the bits that its text gives';

CREATE OR REPLACE FUNCTION serm.score_version(query text, doc serm.doc, model text, version integer)
RETURNS real IMMUTABLE STRICT PARALLEL SAFE COST 60 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_version_doc';
COMMENT ON FUNCTION serm.score_version(text, serm.doc, text, integer) IS 'the relevance of an encoded document by one version, whichever is active';

CREATE OR REPLACE FUNCTION serm.predict(query text, doc serm.doc)
RETURNS serm.prediction STABLE STRICT PARALLEL SAFE COST 70 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_predict_doc';
COMMENT ON FUNCTION serm.predict(text, serm.doc) IS 'all that the default model says of a query and an encoded document';

CREATE OR REPLACE FUNCTION serm.predict(query text, doc serm.doc, model text)
RETURNS serm.prediction STABLE STRICT PARALLEL SAFE COST 70 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_predict_doc';
COMMENT ON FUNCTION serm.predict(text, serm.doc, text) IS 'all that a model says of a query and an encoded document';

CREATE OR REPLACE FUNCTION serm.score_batch(query text, doc text)
RETURNS real WINDOW STABLE PARALLEL SAFE COST 80 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_batch';
COMMENT ON FUNCTION serm.score_batch(text, text) IS 'serm.score as a window function: the rows of a partition are scored together';

CREATE OR REPLACE FUNCTION serm.score_batch(query text, doc text, model text)
RETURNS real WINDOW STABLE PARALLEL SAFE COST 80 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_batch';
COMMENT ON FUNCTION serm.score_batch(text, text, text) IS 'serm.score by a model as a window function: the rows of a partition are scored together';

CREATE OR REPLACE FUNCTION serm.score_batch(query text, doc serm.doc)
RETURNS real WINDOW STABLE PARALLEL SAFE COST 40 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_batch_doc';
COMMENT ON FUNCTION serm.score_batch(text, serm.doc) IS 'serm.score of encoded documents as a window function: the rows of a partition are scored together';

CREATE OR REPLACE FUNCTION serm.score_batch(query text, doc serm.doc, model text)
RETURNS real WINDOW STABLE PARALLEL SAFE COST 40 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_score_batch_doc';
COMMENT ON FUNCTION serm.score_batch(text, serm.doc, text) IS 'serm.score of encoded documents by a model as a window function: the rows of a partition are scored together';

CREATE OR REPLACE FUNCTION serm.explain(query text, doc text, OUT query_term text, OUT doc_term text, OUT field text, OUT contribution real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 2000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_explain';
COMMENT ON FUNCTION serm.explain(text, text) IS 'the score by the default model taken apart: what each term of the query brings through each field, and in a row of NULLs the rest; contributions sum to the score';

CREATE OR REPLACE FUNCTION serm.explain(query text, doc text, model text, OUT query_term text, OUT doc_term text, OUT field text, OUT contribution real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 2000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_explain';
COMMENT ON FUNCTION serm.explain(text, text, text) IS 'the score taken apart: what each term of the query brings through each field, and in a row of NULLs the rest; contributions sum to the score';

CREATE OR REPLACE FUNCTION serm.explain(query text, doc serm.doc, OUT query_term text, OUT doc_term text, OUT field text, OUT contribution real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 2000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_explain_doc';
COMMENT ON FUNCTION serm.explain(text, serm.doc) IS 'the score of an encoded document by the default model taken apart: what each term of the query brings through each field, and in a row of NULLs the rest; contributions sum to the score';

CREATE OR REPLACE FUNCTION serm.explain(query text, doc serm.doc, model text, OUT query_term text, OUT doc_term text, OUT field text, OUT contribution real)
RETURNS SETOF record STABLE STRICT PARALLEL SAFE COST 2000 ROWS 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_explain_doc';
COMMENT ON FUNCTION serm.explain(text, serm.doc, text) IS 'the score of an encoded document taken apart: what each term of the query brings through each field, and in a row of NULLs the rest; contributions sum to the score';
