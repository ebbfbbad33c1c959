CREATE OR REPLACE FUNCTION serm.grant_access(role regrole, level text) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_grant_access';
COMMENT ON FUNCTION serm.grant_access(regrole, text) IS 'give a role the rights of a level: score, analyse or operate';

-- PUBLIC gets the pure functions, of metrics and of serm.doc, and the sight of the schema, nothing that reads a table.
REVOKE ALL ON ALL ROUTINES IN SCHEMA serm FROM PUBLIC;
GRANT USAGE ON SCHEMA serm TO PUBLIC;
GRANT EXECUTE ON FUNCTION
	serm.dcg(float8, float8),
	serm.dcg(float8, float8, integer),
	serm.dcg(float8, float8, integer, text),
	serm.dcg(float8, float8, integer, text, text),
	serm.ndcg(float8, float8),
	serm.ndcg(float8, float8, integer),
	serm.ndcg(float8, float8, integer, text),
	serm.ndcg(float8, float8, integer, text, text),
	serm.precision_at(float8, float8, integer),
	serm.precision_at(float8, float8, integer, float8),
	serm.precision_at(float8, float8, integer, float8, text),
	serm.recall_at(float8, float8, integer),
	serm.recall_at(float8, float8, integer, float8),
	serm.recall_at(float8, float8, integer, float8, text),
	serm.average_precision(float8, float8),
	serm.average_precision(float8, float8, float8),
	serm.average_precision(float8, float8, float8, text),
	serm.reciprocal_rank(float8, float8),
	serm.reciprocal_rank(float8, float8, float8),
	serm.reciprocal_rank(float8, float8, float8, text),
	serm.err(float8, float8, integer, float8),
	serm.err(float8, float8, integer, float8, text),
	serm.pair_accuracy(float8, float8),
	serm.accuracy(integer, integer),
	serm.cohen_kappa(integer, integer),
	serm.cohen_kappa(integer, integer, text),
	serm.krippendorff_alpha(text, text, integer),
	serm.krippendorff_alpha(text, text, integer, text),
	serm.encode(text),
	serm._doc_eq(serm.doc, serm.doc),
	serm._doc_lt(serm.doc, serm.doc),
	serm._doc_le(serm.doc, serm.doc),
	serm._doc_ge(serm.doc, serm.doc),
	serm._doc_gt(serm.doc, serm.doc),
	serm._doc_cmp(serm.doc, serm.doc),
	serm._doc_ne(serm.doc, serm.doc),
	serm._doc_hash(serm.doc),
	serm._doc_hash_extended(serm.doc, bigint) TO PUBLIC;
