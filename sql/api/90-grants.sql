CREATE OR REPLACE FUNCTION serm.grant_access(role regrole, level text) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_grant_access';
COMMENT ON FUNCTION serm.grant_access(regrole, text) IS 'give a role the rights of a level: score, analyse or operate';

-- PUBLIC gets the pure metric functions and the sight of the schema, nothing that reads a table.
REVOKE ALL ON ALL ROUTINES IN SCHEMA serm FROM PUBLIC;
GRANT USAGE ON SCHEMA serm TO PUBLIC;
