CREATE TYPE serm.prediction AS (
	score real,
	grade text,
	probs real[],
	entropy real,
	disagreement real,
	version integer
);
COMMENT ON TYPE serm.prediction IS 'what a model says of a pair: expected grade, most fitting grade name, probabilities of the grades, entropy in nats, largest difference between heads, version';

CREATE TYPE serm.shift AS (
	statistic float8,
	effect float8,
	p_value float8,
	reference_units integer,
	recent_units integer
);
COMMENT ON TYPE serm.shift IS 'a change between two parts of a stream: the statistic, what it exceeds shuffled streams by, its p-value by permutation, and the units compared';

CREATE TYPE serm.doc;

CREATE FUNCTION serm._doc_in(cstring) RETURNS serm.doc
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_in';
COMMENT ON FUNCTION serm._doc_in(cstring) IS 'I/O';

CREATE FUNCTION serm._doc_out(serm.doc) RETURNS cstring
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_out';
COMMENT ON FUNCTION serm._doc_out(serm.doc) IS 'I/O';

CREATE FUNCTION serm._doc_recv(internal) RETURNS serm.doc
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_recv';
COMMENT ON FUNCTION serm._doc_recv(internal) IS 'I/O';

CREATE FUNCTION serm._doc_send(serm.doc) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_send';
COMMENT ON FUNCTION serm._doc_send(serm.doc) IS 'I/O';

CREATE TYPE serm.doc (
	INPUT = serm._doc_in,
	OUTPUT = serm._doc_out,
	RECEIVE = serm._doc_recv,
	SEND = serm._doc_send,
	INTERNALLENGTH = variable,
	STORAGE = extended
);
COMMENT ON TYPE serm.doc IS 'a document as serm.encode parsed it: scoring it needs no parsing, and gives the bits of its text';

CREATE FUNCTION serm._doc_eq(serm.doc, serm.doc) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_eq';
COMMENT ON FUNCTION serm._doc_eq(serm.doc, serm.doc) IS 'implementation of = operator';

CREATE FUNCTION serm._doc_ne(serm.doc, serm.doc) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_ne';
COMMENT ON FUNCTION serm._doc_ne(serm.doc, serm.doc) IS 'implementation of <> operator';

CREATE FUNCTION serm._doc_lt(serm.doc, serm.doc) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_lt';
COMMENT ON FUNCTION serm._doc_lt(serm.doc, serm.doc) IS 'implementation of < operator';

CREATE FUNCTION serm._doc_le(serm.doc, serm.doc) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_le';
COMMENT ON FUNCTION serm._doc_le(serm.doc, serm.doc) IS 'implementation of <= operator';

CREATE FUNCTION serm._doc_ge(serm.doc, serm.doc) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_ge';
COMMENT ON FUNCTION serm._doc_ge(serm.doc, serm.doc) IS 'implementation of >= operator';

CREATE FUNCTION serm._doc_gt(serm.doc, serm.doc) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_gt';
COMMENT ON FUNCTION serm._doc_gt(serm.doc, serm.doc) IS 'implementation of > operator';

CREATE FUNCTION serm._doc_cmp(serm.doc, serm.doc) RETURNS integer
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_cmp';
COMMENT ON FUNCTION serm._doc_cmp(serm.doc, serm.doc) IS 'less-equal-greater';

CREATE FUNCTION serm._doc_hash(serm.doc) RETURNS integer
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_hash';
COMMENT ON FUNCTION serm._doc_hash(serm.doc) IS 'hash';

CREATE FUNCTION serm._doc_hash_extended(serm.doc, bigint) RETURNS bigint
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_doc_hash_extended';
COMMENT ON FUNCTION serm._doc_hash_extended(serm.doc, bigint) IS 'hash';

CREATE OPERATOR serm.= (
	LEFTARG = serm.doc, RIGHTARG = serm.doc, FUNCTION = serm._doc_eq,
	COMMUTATOR = OPERATOR(serm.=), NEGATOR = OPERATOR(serm.<>),
	RESTRICT = pg_catalog.eqsel, JOIN = pg_catalog.eqjoinsel, HASHES, MERGES
);
CREATE OPERATOR serm.<> (
	LEFTARG = serm.doc, RIGHTARG = serm.doc, FUNCTION = serm._doc_ne,
	COMMUTATOR = OPERATOR(serm.<>), NEGATOR = OPERATOR(serm.=),
	RESTRICT = pg_catalog.neqsel, JOIN = pg_catalog.neqjoinsel
);
CREATE OPERATOR serm.< (
	LEFTARG = serm.doc, RIGHTARG = serm.doc, FUNCTION = serm._doc_lt,
	COMMUTATOR = OPERATOR(serm.>), NEGATOR = OPERATOR(serm.>=),
	RESTRICT = pg_catalog.scalarltsel, JOIN = pg_catalog.scalarltjoinsel
);
CREATE OPERATOR serm.<= (
	LEFTARG = serm.doc, RIGHTARG = serm.doc, FUNCTION = serm._doc_le,
	COMMUTATOR = OPERATOR(serm.>=), NEGATOR = OPERATOR(serm.>),
	RESTRICT = pg_catalog.scalarlesel, JOIN = pg_catalog.scalarlejoinsel
);
CREATE OPERATOR serm.>= (
	LEFTARG = serm.doc, RIGHTARG = serm.doc, FUNCTION = serm._doc_ge,
	COMMUTATOR = OPERATOR(serm.<=), NEGATOR = OPERATOR(serm.<),
	RESTRICT = pg_catalog.scalargesel, JOIN = pg_catalog.scalargejoinsel
);
CREATE OPERATOR serm.> (
	LEFTARG = serm.doc, RIGHTARG = serm.doc, FUNCTION = serm._doc_gt,
	COMMUTATOR = OPERATOR(serm.<), NEGATOR = OPERATOR(serm.<=),
	RESTRICT = pg_catalog.scalargtsel, JOIN = pg_catalog.scalargtjoinsel
);
COMMENT ON OPERATOR serm.= (serm.doc, serm.doc) IS 'the same words';
COMMENT ON OPERATOR serm.<> (serm.doc, serm.doc) IS 'other words';
COMMENT ON OPERATOR serm.< (serm.doc, serm.doc) IS 'before, in the order of the bytes';
COMMENT ON OPERATOR serm.<= (serm.doc, serm.doc) IS 'not behind, in the order of the bytes';
COMMENT ON OPERATOR serm.>= (serm.doc, serm.doc) IS 'not before, in the order of the bytes';
COMMENT ON OPERATOR serm.> (serm.doc, serm.doc) IS 'behind, in the order of the bytes';

CREATE OPERATOR CLASS serm.doc_ops DEFAULT FOR TYPE serm.doc USING hash AS
	OPERATOR 1 serm.=,
	FUNCTION 1 serm._doc_hash(serm.doc),
	FUNCTION 2 serm._doc_hash_extended(serm.doc, bigint);
COMMENT ON OPERATOR CLASS serm.doc_ops USING hash IS 'equality of encoded documents';

CREATE OPERATOR CLASS serm.doc_ops DEFAULT FOR TYPE serm.doc USING btree AS
	OPERATOR 1 serm.<,
	OPERATOR 2 serm.<=,
	OPERATOR 3 serm.=,
	OPERATOR 4 serm.>=,
	OPERATOR 5 serm.>,
	FUNCTION 1 serm._doc_cmp(serm.doc, serm.doc),
	FUNCTION 4 pg_catalog.btequalimage(oid);
COMMENT ON OPERATOR CLASS serm.doc_ops USING btree IS 'an order of encoded documents, for DISTINCT and sorting';
