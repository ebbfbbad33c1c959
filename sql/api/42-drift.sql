-- Shifts of streams. The aggregates merge exactly: parallel plans, partitions and shards give the bits of one pass.

CREATE OR REPLACE FUNCTION serm._shift_accum_value(internal, float8, boolean, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_accum_value';
COMMENT ON FUNCTION serm._shift_accum_value(internal, float8, boolean, text) IS 'internal: add a value to the sample of a stream';

CREATE OR REPLACE FUNCTION serm._shift_accum_item(internal, text, boolean, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_accum_item';
COMMENT ON FUNCTION serm._shift_accum_item(internal, text, boolean, text) IS 'internal: add an item to the sample of a stream';

CREATE OR REPLACE FUNCTION serm._shift_accum_outcome(internal, float8, float8, boolean, text) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_accum_outcome';
COMMENT ON FUNCTION serm._shift_accum_outcome(internal, float8, float8, boolean, text) IS 'internal: add a value with its outcome to the sample of a stream';

CREATE OR REPLACE FUNCTION serm._shift_combine(internal, internal) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_combine';
COMMENT ON FUNCTION serm._shift_combine(internal, internal) IS 'internal: join two samples of a stream';

CREATE OR REPLACE FUNCTION serm._shift_serialize(internal) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_serialize';
COMMENT ON FUNCTION serm._shift_serialize(internal) IS 'internal: a sample of a stream as bytes';

CREATE OR REPLACE FUNCTION serm._shift_deserialize(bytea, internal) RETURNS internal
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_deserialize';
COMMENT ON FUNCTION serm._shift_deserialize(bytea, internal) IS 'internal: a sample of a stream from bytes';

CREATE OR REPLACE FUNCTION serm._shift_final_ks(internal) RETURNS serm.shift
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_final_ks';
COMMENT ON FUNCTION serm._shift_final_ks(internal) IS 'internal: the ks shift of a sample';

CREATE OR REPLACE FUNCTION serm._shift_final_psi(internal) RETURNS serm.shift
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_final_psi';
COMMENT ON FUNCTION serm._shift_final_psi(internal) IS 'internal: the psi shift of a sample';

CREATE OR REPLACE FUNCTION serm._shift_final_js(internal) RETURNS serm.shift
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_final_js';
COMMENT ON FUNCTION serm._shift_final_js(internal) IS 'internal: the js shift of a sample';

CREATE OR REPLACE FUNCTION serm._shift_final_novelty(internal) RETURNS serm.shift
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_final_novelty';
COMMENT ON FUNCTION serm._shift_final_novelty(internal) IS 'internal: the novelty shift of a sample';

CREATE OR REPLACE FUNCTION serm._shift_final_calibration(internal) RETURNS serm.shift
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_shift_final_calibration';
COMMENT ON FUNCTION serm._shift_final_calibration(internal) IS 'internal: the calibration shift of a sample';

CREATE OR REPLACE AGGREGATE serm.ks_shift(value float8, recent boolean, unit text) (
	SFUNC = serm._shift_accum_value, STYPE = internal, SSPACE = 65536, FINALFUNC = serm._shift_final_ks,
	COMBINEFUNC = serm._shift_combine, SERIALFUNC = serm._shift_serialize,
	DESERIALFUNC = serm._shift_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.ks_shift(float8, boolean, text) IS
	'Kolmogorov-Smirnov distance between the values of both parts of a stream, permuted by unit';

CREATE OR REPLACE AGGREGATE serm.psi_shift(value float8, recent boolean, unit text) (
	SFUNC = serm._shift_accum_value, STYPE = internal, SSPACE = 65536, FINALFUNC = serm._shift_final_psi,
	COMBINEFUNC = serm._shift_combine, SERIALFUNC = serm._shift_serialize,
	DESERIALFUNC = serm._shift_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.psi_shift(float8, boolean, text) IS
	'population stability index of the values over tenths of both parts together, permuted by unit';

CREATE OR REPLACE AGGREGATE serm.js_shift(item text, recent boolean, unit text) (
	SFUNC = serm._shift_accum_item, STYPE = internal, SSPACE = 65536, FINALFUNC = serm._shift_final_js,
	COMBINEFUNC = serm._shift_combine, SERIALFUNC = serm._shift_serialize,
	DESERIALFUNC = serm._shift_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.js_shift(text, boolean, text) IS
	'Jensen-Shannon divergence, in bits, of the hashed items of both parts of a stream, permuted by unit';

CREATE OR REPLACE AGGREGATE serm.novelty_shift(item text, recent boolean, unit text) (
	SFUNC = serm._shift_accum_item, STYPE = internal, SSPACE = 65536, FINALFUNC = serm._shift_final_novelty,
	COMBINEFUNC = serm._shift_combine, SERIALFUNC = serm._shift_serialize,
	DESERIALFUNC = serm._shift_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.novelty_shift(text, boolean, text) IS
	'share of the recent items that the reference does not have, permuted by unit';

CREATE OR REPLACE AGGREGATE serm.calibration_shift(value float8, outcome float8, recent boolean, unit text) (
	SFUNC = serm._shift_accum_outcome, STYPE = internal, SSPACE = 65536, FINALFUNC = serm._shift_final_calibration,
	COMBINEFUNC = serm._shift_combine, SERIALFUNC = serm._shift_serialize,
	DESERIALFUNC = serm._shift_deserialize, PARALLEL = SAFE);
COMMENT ON AGGREGATE serm.calibration_shift(float8, float8, boolean, text) IS
	'mean change of the outcome at equal value, over tenths of the values, permuted by unit';

CREATE OR REPLACE FUNCTION serm.drift(model text, reference tstzrange, recent tstzrange, options jsonb DEFAULT '{}')
RETURNS TABLE (signal text, segment text, statistic float8, effect float8, p_value float8, drifted boolean)
STABLE PARALLEL RESTRICTED COST 100000 ROWS 20 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_drift';
COMMENT ON FUNCTION serm.drift(text, tstzrange, tstzrange, jsonb) IS 'what changed in the search log between two windows: queries, scores, clicks and what scores say of clicks, as a whole (segment null) and by segment';

CREATE OR REPLACE FUNCTION serm.drift_terms(model text, reference tstzrange, recent tstzrange, count integer DEFAULT 20)
RETURNS TABLE (term text, reference_pages bigint, recent_pages bigint, z float8)
STABLE PARALLEL RESTRICTED COST 100000 ROWS 20 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_drift_terms';
COMMENT ON FUNCTION serm.drift_terms(text, tstzrange, tstzrange, integer) IS 'the query words that emerge most: log-odds of their share of pages against the reference, in standard errors';
