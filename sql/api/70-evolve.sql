-- The round, and the clock that starts it.

CREATE OR REPLACE PROCEDURE serm.evolve(model text DEFAULT NULL, options jsonb DEFAULT '{}')
LANGUAGE c AS 'MODULE_PATHNAME', 'serm_evolve';
COMMENT ON PROCEDURE serm.evolve(text, jsonb) IS 'run one round: mine, annotate, train, and promote the new version if it passes the gate; goes on with an unfinished round';

CREATE OR REPLACE FUNCTION serm.schedule(model text, cron text, options jsonb DEFAULT '{}')
RETURNS bigint VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_schedule';
COMMENT ON FUNCTION serm.schedule(text, text, jsonb) IS 'have pg_cron run a round of a model at the times of a cron expression; returns the number of the job';

CREATE OR REPLACE FUNCTION serm.unschedule(model text)
RETURNS boolean VOLATILE STRICT PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'serm_unschedule';
COMMENT ON FUNCTION serm.unschedule(text) IS 'remove the schedule of a model; false when there was none';
