-- Models, versions and judgments.

CREATE OR REPLACE FUNCTION serm.create_model(name text, kind text DEFAULT 'interaction',
	grades text[] DEFAULT '{bad,fair,good,excellent}', log regclass DEFAULT NULL, documents regclass DEFAULT NULL,
	options jsonb DEFAULT '{}')
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_create_model';
COMMENT ON FUNCTION serm.create_model(text, text, text[], regclass, regclass, jsonb) IS 'create a relevance model: its grades from worst to best, its search log and its documents';

CREATE OR REPLACE FUNCTION serm.alter_model(name text, options jsonb DEFAULT '{}', log regclass DEFAULT NULL,
	documents regclass DEFAULT NULL) RETURNS jsonb
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_alter_model';
COMMENT ON FUNCTION serm.alter_model(text, jsonb, regclass, regclass) IS 'change options, log or documents of a model; what is not given stays; returns its options';

CREATE OR REPLACE FUNCTION serm.import_model(name text, directory text, options jsonb DEFAULT '{}', grades text[] DEFAULT NULL,
	log regclass DEFAULT NULL, documents regclass DEFAULT NULL)
RETURNS integer VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_import_directory';
COMMENT ON FUNCTION serm.import_model(text, text, jsonb, text[], regclass, regclass) IS 'create a cross-encoder from a directory of the server in the form of Hugging Face, and return its version';

-- The other arguments stand where the directory has them, so that literals without a type mean a directory.
CREATE OR REPLACE FUNCTION serm.import_model(name text, files text[], options jsonb DEFAULT '{}', grades text[] DEFAULT NULL,
	log regclass DEFAULT NULL, documents regclass DEFAULT NULL, contents bytea[] DEFAULT NULL)
RETURNS integer VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_import_files';
COMMENT ON FUNCTION serm.import_model(text, text[], jsonb, text[], regclass, regclass, bytea[]) IS 'the same from the names and the contents of the files';

CREATE OR REPLACE FUNCTION serm.drop_model(name text)
RETURNS void VOLATILE STRICT PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_drop_model';
COMMENT ON FUNCTION serm.drop_model(text) IS 'remove a model with its versions, weights, judgments, rounds and votes';

CREATE OR REPLACE FUNCTION serm.promote(model text, version integer, reason text DEFAULT NULL)
RETURNS integer VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_promote';
COMMENT ON FUNCTION serm.promote(text, integer, text) IS 'make a version the one that scores, and return it';

CREATE OR REPLACE FUNCTION serm.rollback(model text, version integer DEFAULT NULL, reason text DEFAULT NULL)
RETURNS integer VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_rollback';
COMMENT ON FUNCTION serm.rollback(text, integer, text) IS 'return to the version that was active before, or to the one named, and return it';

CREATE OR REPLACE FUNCTION serm.split_of(query text, test_share real DEFAULT 0.2)
RETURNS text IMMUTABLE STRICT PARALLEL SAFE COST 10 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_split_of';
COMMENT ON FUNCTION serm.split_of(text, real) IS 'the split that a query belongs to for ever, by the hash of its normalised words: train or test';

-- Every session, on standbys too, learns of a promotion at its next statement; also where rows come by logical replication.
CREATE OR REPLACE FUNCTION serm._model_changed()
RETURNS trigger VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_model_changed';
COMMENT ON FUNCTION serm._model_changed() IS 'trigger of serm.model: tell all sessions that a model changed';
CREATE OR REPLACE TRIGGER model_changed AFTER INSERT OR UPDATE OR DELETE ON serm.model
	FOR EACH ROW EXECUTE FUNCTION serm._model_changed();
ALTER TABLE serm.model ENABLE ALWAYS TRIGGER model_changed;
CREATE OR REPLACE TRIGGER model_truncated AFTER TRUNCATE ON serm.model
	FOR EACH STATEMENT EXECUTE FUNCTION serm._model_changed();
ALTER TABLE serm.model ENABLE ALWAYS TRIGGER model_truncated;

CREATE OR REPLACE FUNCTION serm._check_judgment()
RETURNS trigger VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_check_judgment';
COMMENT ON FUNCTION serm._check_judgment() IS 'trigger of serm.judgment: query, grade and target must fit the model';
CREATE OR REPLACE TRIGGER judgment_checked BEFORE INSERT ON serm.judgment
	FOR EACH ROW EXECUTE FUNCTION serm._check_judgment();

CREATE OR REPLACE FUNCTION serm._refuse_update()
RETURNS trigger VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_refuse_update';
COMMENT ON FUNCTION serm._refuse_update() IS 'trigger of tables whose rows never change: refuse the update';
CREATE OR REPLACE TRIGGER judgment_kept BEFORE UPDATE ON serm.judgment
	FOR EACH ROW EXECUTE FUNCTION serm._refuse_update();
CREATE OR REPLACE TRIGGER deployment_kept BEFORE UPDATE ON serm.deployment
	FOR EACH ROW EXECUTE FUNCTION serm._refuse_update();
CREATE OR REPLACE TRIGGER tensor_kept BEFORE UPDATE ON serm.tensor
	FOR EACH ROW EXECUTE FUNCTION serm._refuse_update();
CREATE OR REPLACE TRIGGER version_kept BEFORE UPDATE OF model, version, parent, seed, checksum, config, created ON serm.version
	FOR EACH ROW EXECUTE FUNCTION serm._refuse_update();

CREATE OR REPLACE VIEW serm.current_judgment WITH (security_invoker = true) AS
	-- A text that equals the id of another document is another pair.
	SELECT DISTINCT ON (j.model, j.query, coalesce(j.doc_id, j.doc), j.doc_id IS NULL)
		j.id, j.model, j.query, j.doc_id, j.doc, j.grade, j.target, j.source, j.judge, j.weight, j.rationale, j.round, j.at
	FROM serm.judgment AS j
	ORDER BY j.model, j.query, coalesce(j.doc_id, j.doc), j.doc_id IS NULL,
		array_position(ARRAY['human', 'import', 'agents', 'clicks'], j.source), j.at DESC, j.id DESC;
COMMENT ON VIEW serm.current_judgment IS 'the judgment that counts for each pair: human before import before agents before clicks, then the newest';

CREATE OR REPLACE VIEW serm.versions WITH (security_invoker = true) AS
	SELECT v.model, v.version, v.status, v.version = m.active IS TRUE AS active, v.parent, v.created, v.seed,
		(v.counts->>'judgments')::bigint AS judgments, v.metrics, v.counts, v.config, v.checksum,
		(SELECT sum(octet_length(t.data)) FROM serm.tensor AS t WHERE t.model = v.model AND t.version = v.version) AS bytes
	FROM serm.version AS v JOIN serm.model AS m ON m.name = v.model;
COMMENT ON VIEW serm.versions IS 'the versions of all models: status, what they were trained on, metrics, and the size of their weights';
