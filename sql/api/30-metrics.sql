-- Metrics as aggregates. Pure: they read nothing but their arguments, so everybody may use them.
-- States are C structures; combine, serialize and deserialize make every aggregate fit for parallel plans.

-- Ranked lists.
CREATE OR REPLACE FUNCTION serm._gain_accum(internal, float8, float8) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_gain_accum';
COMMENT ON FUNCTION serm._gain_accum(internal, float8, float8) IS
	'internal: add a row to the state of dcg, ndcg or pair_accuracy';
CREATE OR REPLACE FUNCTION serm._gain_accum(internal, float8, float8, integer) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_gain_accum';
COMMENT ON FUNCTION serm._gain_accum(internal, float8, float8, integer) IS
	'internal: add a row to the state of dcg, ndcg or pair_accuracy';
CREATE OR REPLACE FUNCTION serm._gain_accum(internal, float8, float8, integer, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_gain_accum';
COMMENT ON FUNCTION serm._gain_accum(internal, float8, float8, integer, text) IS
	'internal: add a row to the state of dcg, ndcg or pair_accuracy';
CREATE OR REPLACE FUNCTION serm._gain_accum(internal, float8, float8, integer, text, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_gain_accum';
COMMENT ON FUNCTION serm._gain_accum(internal, float8, float8, integer, text, text) IS
	'internal: add a row to the state of dcg, ndcg or pair_accuracy';
CREATE OR REPLACE FUNCTION serm._cutoff_accum(internal, float8, float8, integer) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_cutoff_accum';
COMMENT ON FUNCTION serm._cutoff_accum(internal, float8, float8, integer) IS
	'internal: add a row to the state of precision_at or recall_at';
CREATE OR REPLACE FUNCTION serm._cutoff_accum(internal, float8, float8, integer, float8) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_cutoff_accum';
COMMENT ON FUNCTION serm._cutoff_accum(internal, float8, float8, integer, float8) IS
	'internal: add a row to the state of precision_at or recall_at';
CREATE OR REPLACE FUNCTION serm._cutoff_accum(internal, float8, float8, integer, float8, text)
	RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_cutoff_accum';
COMMENT ON FUNCTION serm._cutoff_accum(internal, float8, float8, integer, float8, text) IS
	'internal: add a row to the state of precision_at or recall_at';
CREATE OR REPLACE FUNCTION serm._threshold_accum(internal, float8, float8) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_threshold_accum';
COMMENT ON FUNCTION serm._threshold_accum(internal, float8, float8) IS
	'internal: add a row to the state of average_precision or reciprocal_rank';
CREATE OR REPLACE FUNCTION serm._threshold_accum(internal, float8, float8, float8) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_threshold_accum';
COMMENT ON FUNCTION serm._threshold_accum(internal, float8, float8, float8) IS
	'internal: add a row to the state of average_precision or reciprocal_rank';
CREATE OR REPLACE FUNCTION serm._threshold_accum(internal, float8, float8, float8, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_threshold_accum';
COMMENT ON FUNCTION serm._threshold_accum(internal, float8, float8, float8, text) IS
	'internal: add a row to the state of average_precision or reciprocal_rank';
CREATE OR REPLACE FUNCTION serm._cascade_accum(internal, float8, float8, integer, float8) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_cascade_accum';
COMMENT ON FUNCTION serm._cascade_accum(internal, float8, float8, integer, float8) IS
	'internal: add a row to the state of err';
CREATE OR REPLACE FUNCTION serm._cascade_accum(internal, float8, float8, integer, float8, text)
	RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_cascade_accum';
COMMENT ON FUNCTION serm._cascade_accum(internal, float8, float8, integer, float8, text) IS
	'internal: add a row to the state of err';
CREATE OR REPLACE FUNCTION serm._rank_combine(internal, internal) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rank_combine';
COMMENT ON FUNCTION serm._rank_combine(internal, internal) IS
	'internal: join two states of a ranking metric';
CREATE OR REPLACE FUNCTION serm._rank_serialize(internal) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rank_serialize';
COMMENT ON FUNCTION serm._rank_serialize(internal) IS 'internal: the state of a ranking metric as bytes';
CREATE OR REPLACE FUNCTION serm._rank_deserialize(bytea, internal) RETURNS internal
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rank_deserialize';
COMMENT ON FUNCTION serm._rank_deserialize(bytea, internal) IS
	'internal: the state of a ranking metric from bytes';
CREATE OR REPLACE FUNCTION serm._dcg_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_dcg_final';
COMMENT ON FUNCTION serm._dcg_final(internal) IS 'internal: the result of dcg';
CREATE OR REPLACE FUNCTION serm._ndcg_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_ndcg_final';
COMMENT ON FUNCTION serm._ndcg_final(internal) IS 'internal: the result of ndcg';
CREATE OR REPLACE FUNCTION serm._precision_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_precision_final';
COMMENT ON FUNCTION serm._precision_final(internal) IS 'internal: the result of precision_at';
CREATE OR REPLACE FUNCTION serm._recall_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_recall_final';
COMMENT ON FUNCTION serm._recall_final(internal) IS 'internal: the result of recall_at';
CREATE OR REPLACE FUNCTION serm._average_precision_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_average_precision_final';
COMMENT ON FUNCTION serm._average_precision_final(internal) IS 'internal: the result of average_precision';
CREATE OR REPLACE FUNCTION serm._reciprocal_rank_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_reciprocal_rank_final';
COMMENT ON FUNCTION serm._reciprocal_rank_final(internal) IS 'internal: the result of reciprocal_rank';
CREATE OR REPLACE FUNCTION serm._err_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_err_final';
COMMENT ON FUNCTION serm._err_final(internal) IS 'internal: the result of err';
CREATE OR REPLACE FUNCTION serm._pair_accuracy_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_pair_accuracy_final';
COMMENT ON FUNCTION serm._pair_accuracy_final(internal) IS 'internal: the result of pair_accuracy';

CREATE OR REPLACE AGGREGATE serm.dcg(grade float8, score float8) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._dcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.dcg(float8, float8) IS
	'discounted cumulative gain of a ranked list, linear gain, no cutoff';
CREATE OR REPLACE AGGREGATE serm.dcg(grade float8, score float8, k integer) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._dcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.dcg(float8, float8, integer) IS
	'discounted cumulative gain of a ranked list at cutoff k, linear gain';
CREATE OR REPLACE AGGREGATE serm.dcg(grade float8, score float8, k integer, gain text) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._dcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.dcg(float8, float8, integer, text) IS
	'discounted cumulative gain of a ranked list at cutoff k, gain linear or exponential';
CREATE OR REPLACE AGGREGATE serm.dcg(grade float8, score float8, k integer, gain text, doc_id text) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._dcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.dcg(float8, float8, integer, text, text) IS
	'discounted cumulative gain of a ranked list at cutoff k; ties by doc_id, as trec_eval';
CREATE OR REPLACE AGGREGATE serm.ndcg(grade float8, score float8) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._ndcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.ndcg(float8, float8) IS
	'normalised discounted cumulative gain of a ranked list, 0 to 1, linear gain, no cutoff';
CREATE OR REPLACE AGGREGATE serm.ndcg(grade float8, score float8, k integer) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._ndcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.ndcg(float8, float8, integer) IS
	'normalised discounted cumulative gain of a ranked list, 0 to 1 at cutoff k, linear gain';
CREATE OR REPLACE AGGREGATE serm.ndcg(grade float8, score float8, k integer, gain text) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._ndcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.ndcg(float8, float8, integer, text) IS
	'normalised discounted cumulative gain of a ranked list, 0 to 1 at cutoff k, gain linear or exponential';
CREATE OR REPLACE AGGREGATE serm.ndcg(grade float8, score float8, k integer, gain text, doc_id text) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._ndcg_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.ndcg(float8, float8, integer, text, text) IS
	'normalised discounted cumulative gain of a list, 0 to 1 at cutoff k; ties by doc_id, as trec_eval';
CREATE OR REPLACE AGGREGATE serm.precision_at(grade float8, score float8, k integer) (
	SFUNC = serm._cutoff_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._precision_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.precision_at(float8, float8, integer) IS
	'share of relevant documents among the first k, relevant from grade 1';
CREATE OR REPLACE AGGREGATE serm.precision_at(grade float8, score float8, k integer, threshold float8) (
	SFUNC = serm._cutoff_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._precision_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.precision_at(float8, float8, integer, float8) IS
	'share of relevant documents among the first k, relevant from grade threshold';
CREATE OR REPLACE AGGREGATE serm.precision_at(grade float8, score float8, k integer, threshold float8,
	doc_id text) (
	SFUNC = serm._cutoff_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._precision_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.precision_at(float8, float8, integer, float8, text) IS
	'share of relevant documents among the first k; ties by doc_id, as trec_eval';
CREATE OR REPLACE AGGREGATE serm.recall_at(grade float8, score float8, k integer) (
	SFUNC = serm._cutoff_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._recall_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.recall_at(float8, float8, integer) IS
	'share of the relevant documents that are among the first k, relevant from grade 1';
CREATE OR REPLACE AGGREGATE serm.recall_at(grade float8, score float8, k integer, threshold float8) (
	SFUNC = serm._cutoff_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._recall_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.recall_at(float8, float8, integer, float8) IS
	'share of the relevant documents that are among the first k, relevant from grade threshold';
CREATE OR REPLACE AGGREGATE serm.recall_at(grade float8, score float8, k integer, threshold float8,
	doc_id text) (
	SFUNC = serm._cutoff_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._recall_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.recall_at(float8, float8, integer, float8, text) IS
	'share of the relevant documents that are among the first k; ties by doc_id, as trec_eval';
CREATE OR REPLACE AGGREGATE serm.average_precision(grade float8, score float8) (
	SFUNC = serm._threshold_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._average_precision_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.average_precision(float8, float8) IS
	'mean of the precision at the rank of each relevant document, relevant from grade 1';
CREATE OR REPLACE AGGREGATE serm.average_precision(grade float8, score float8, threshold float8) (
	SFUNC = serm._threshold_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._average_precision_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.average_precision(float8, float8, float8) IS
	'mean of the precision at the rank of each relevant document, relevant from grade threshold';
CREATE OR REPLACE AGGREGATE serm.average_precision(grade float8, score float8, threshold float8,
	doc_id text) (
	SFUNC = serm._threshold_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._average_precision_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.average_precision(float8, float8, float8, text) IS
	'mean of the precision at the rank of each relevant document; ties by doc_id, as trec_eval';
CREATE OR REPLACE AGGREGATE serm.reciprocal_rank(grade float8, score float8) (
	SFUNC = serm._threshold_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._reciprocal_rank_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.reciprocal_rank(float8, float8) IS
	'one over the rank of the first relevant document, relevant from grade 1';
CREATE OR REPLACE AGGREGATE serm.reciprocal_rank(grade float8, score float8, threshold float8) (
	SFUNC = serm._threshold_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._reciprocal_rank_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.reciprocal_rank(float8, float8, float8) IS
	'one over the rank of the first relevant document, relevant from grade threshold';
CREATE OR REPLACE AGGREGATE serm.reciprocal_rank(grade float8, score float8, threshold float8, doc_id text) (
	SFUNC = serm._threshold_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._reciprocal_rank_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.reciprocal_rank(float8, float8, float8, text) IS
	'one over the rank of the first relevant document; ties by doc_id, as trec_eval';
CREATE OR REPLACE AGGREGATE serm.err(grade float8, score float8, k integer, max_grade float8) (
	SFUNC = serm._cascade_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._err_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.err(float8, float8, integer, float8) IS
	'expected reciprocal rank at cutoff k on a scale of grades up to max_grade';
CREATE OR REPLACE AGGREGATE serm.err(grade float8, score float8, k integer, max_grade float8, doc_id text) (
	SFUNC = serm._cascade_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._err_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.err(float8, float8, integer, float8, text) IS
	'expected reciprocal rank at cutoff k; ties by doc_id, as trec_eval';
CREATE OR REPLACE AGGREGATE serm.pair_accuracy(grade float8, score float8) (
	SFUNC = serm._gain_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._pair_accuracy_final,
	COMBINEFUNC = serm._rank_combine, SERIALFUNC = serm._rank_serialize,
	DESERIALFUNC = serm._rank_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.pair_accuracy(float8, float8) IS
	'share of the document pairs of different grade that the scores order rightly, ties half';

-- Labels.
CREATE OR REPLACE FUNCTION serm._label_accum(internal, integer, integer) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_label_accum';
COMMENT ON FUNCTION serm._label_accum(internal, integer, integer) IS
	'internal: add a pair of labels to the state of accuracy or cohen_kappa';
CREATE OR REPLACE FUNCTION serm._label_accum(internal, integer, integer, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_label_accum';
COMMENT ON FUNCTION serm._label_accum(internal, integer, integer, text) IS
	'internal: add a pair of labels to the state of a weighted cohen_kappa';
CREATE OR REPLACE FUNCTION serm._label_combine(internal, internal) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_label_combine';
COMMENT ON FUNCTION serm._label_combine(internal, internal) IS
	'internal: join two states of accuracy or cohen_kappa';
CREATE OR REPLACE FUNCTION serm._label_serialize(internal) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_label_serialize';
COMMENT ON FUNCTION serm._label_serialize(internal) IS
	'internal: the state of accuracy or cohen_kappa as bytes';
CREATE OR REPLACE FUNCTION serm._label_deserialize(bytea, internal) RETURNS internal
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_label_deserialize';
COMMENT ON FUNCTION serm._label_deserialize(bytea, internal) IS
	'internal: the state of accuracy or cohen_kappa from bytes';
CREATE OR REPLACE FUNCTION serm._accuracy_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_accuracy_final';
COMMENT ON FUNCTION serm._accuracy_final(internal) IS 'internal: the result of accuracy';
CREATE OR REPLACE FUNCTION serm._kappa_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_kappa_final';
COMMENT ON FUNCTION serm._kappa_final(internal) IS 'internal: the result of cohen_kappa';
CREATE OR REPLACE FUNCTION serm._rating_accum(internal, text, text, integer) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rating_accum';
COMMENT ON FUNCTION serm._rating_accum(internal, text, text, integer) IS
	'internal: add a rating to the state of krippendorff_alpha';
CREATE OR REPLACE FUNCTION serm._rating_accum(internal, text, text, integer, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rating_accum';
COMMENT ON FUNCTION serm._rating_accum(internal, text, text, integer, text) IS
	'internal: add a rating to the state of krippendorff_alpha with a metric';
CREATE OR REPLACE FUNCTION serm._rating_combine(internal, internal) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rating_combine';
COMMENT ON FUNCTION serm._rating_combine(internal, internal) IS
	'internal: join two states of krippendorff_alpha';
CREATE OR REPLACE FUNCTION serm._rating_serialize(internal) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rating_serialize';
COMMENT ON FUNCTION serm._rating_serialize(internal) IS
	'internal: the state of krippendorff_alpha as bytes';
CREATE OR REPLACE FUNCTION serm._rating_deserialize(bytea, internal) RETURNS internal
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_rating_deserialize';
COMMENT ON FUNCTION serm._rating_deserialize(bytea, internal) IS
	'internal: the state of krippendorff_alpha from bytes';
CREATE OR REPLACE FUNCTION serm._alpha_final(internal) RETURNS float8
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_alpha_final';
COMMENT ON FUNCTION serm._alpha_final(internal) IS 'internal: the result of krippendorff_alpha';

CREATE OR REPLACE AGGREGATE serm.accuracy(actual integer, predicted integer) (
	SFUNC = serm._label_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._accuracy_final,
	COMBINEFUNC = serm._label_combine, SERIALFUNC = serm._label_serialize,
	DESERIALFUNC = serm._label_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.accuracy(integer, integer) IS 'share of the rows in which both labels are equal';
CREATE OR REPLACE AGGREGATE serm.cohen_kappa(a integer, b integer) (
	SFUNC = serm._label_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._kappa_final,
	COMBINEFUNC = serm._label_combine, SERIALFUNC = serm._label_serialize,
	DESERIALFUNC = serm._label_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.cohen_kappa(integer, integer) IS 'agreement of two raters beyond chance';
CREATE OR REPLACE AGGREGATE serm.cohen_kappa(a integer, b integer, weights text) (
	SFUNC = serm._label_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._kappa_final,
	COMBINEFUNC = serm._label_combine, SERIALFUNC = serm._label_serialize,
	DESERIALFUNC = serm._label_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.cohen_kappa(integer, integer, text) IS
	'agreement of two raters beyond chance, disagreement weighted none, linear or quadratic';
CREATE OR REPLACE AGGREGATE serm.krippendorff_alpha(unit text, rater text, value integer) (
	SFUNC = serm._rating_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._alpha_final,
	COMBINEFUNC = serm._rating_combine, SERIALFUNC = serm._rating_serialize,
	DESERIALFUNC = serm._rating_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.krippendorff_alpha(text, text, integer) IS
	'agreement of any number of raters beyond chance, ordinal metric';
CREATE OR REPLACE AGGREGATE serm.krippendorff_alpha(unit text, rater text, value integer, metric text) (
	SFUNC = serm._rating_accum, STYPE = internal, SSPACE = 512, FINALFUNC = serm._alpha_final,
	COMBINEFUNC = serm._rating_combine, SERIALFUNC = serm._rating_serialize,
	DESERIALFUNC = serm._rating_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.krippendorff_alpha(text, text, integer, text) IS
	'agreement of any number of raters beyond chance, metric nominal, ordinal or interval';
