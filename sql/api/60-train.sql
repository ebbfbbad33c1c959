-- Training and evaluating. A procedure cannot be STRICT: NULL means the default there.

CREATE OR REPLACE PROCEDURE serm.train(model text DEFAULT NULL, options jsonb DEFAULT '{}')
LANGUAGE c AS 'MODULE_PATHNAME', 'serm_train';
COMMENT ON PROCEDURE serm.train(text, jsonb) IS 'train a new version on the judgments of the train split; the first one is promoted, later ones wait as candidates';

CREATE OR REPLACE PROCEDURE serm.pretrain(model text DEFAULT NULL, options jsonb DEFAULT '{}')
LANGUAGE c AS 'MODULE_PATHNAME', 'serm_pretrain_model';
COMMENT ON PROCEDURE serm.pretrain(text, jsonb) IS 'make a version without judgments, from the documents and the search log alone: generation 0';

CREATE OR REPLACE PROCEDURE serm.merge_versions(model text, versions integer[], weights real[] DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'serm_merge_versions';
COMMENT ON PROCEDURE serm.merge_versions(text, integer[], real[]) IS 'make a candidate version out of versions that continue a common one, by their weighted parameter deltas; without weights their mean';

CREATE OR REPLACE FUNCTION serm.evaluate(model text DEFAULT NULL, version integer DEFAULT NULL, split text DEFAULT 'test')
RETURNS TABLE (metric text, value float8, low float8, high float8, n bigint)
STABLE PARALLEL RESTRICTED COST 10000 ROWS 14 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_evaluate_version';
COMMENT ON FUNCTION serm.evaluate(text, integer, text) IS 'how good a version is on the judgments of a split, with 95 % bootstrap intervals over queries; without a version the active one';

CREATE OR REPLACE FUNCTION serm.check_version(model text, version integer)
RETURNS boolean STABLE STRICT PARALLEL RESTRICTED COST 10000 LANGUAGE c AS 'MODULE_PATHNAME', 'serm_check_version';
COMMENT ON FUNCTION serm.check_version(text, integer) IS 'whether the stored weights give, bit for bit, the scores that the model gave when it was trained; NULL when the texts it was checked on have changed';

CREATE OR REPLACE PROCEDURE serm.distill(student text, teacher text, options jsonb DEFAULT '{}')
LANGUAGE c AS 'MODULE_PATHNAME', 'serm_distill';
COMMENT ON PROCEDURE serm.distill(text, text, jsonb) IS 'train a new version of a model on what another model says of its judged pairs and of pairs of its search log, beside its judgments';
