-- What is going on, and what came of it.

-- A row whose process is gone, idle, or busy with a later statement was left behind by an error. Of other roles' sessions
-- one sees no state, but whether they are in a transaction.
CREATE OR REPLACE VIEW serm.progress WITH (security_invoker = true) AS
	SELECT p.pid, p.model, p.phase, p.step, p.steps, p.loss, p.per_second, p.started, p.updated, p.seconds_left
	FROM serm._progress AS p JOIN pg_catalog.pg_stat_activity AS a ON a.pid = p.pid
	WHERE coalesce(a.state = 'active' AND a.query_start <= p.started,
		EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE l.pid = p.pid AND l.locktype = 'virtualxid'));
COMMENT ON VIEW serm.progress IS 'what running procedures are doing: phase, step, loss, speed, and the seconds left of the phase where they are known';

CREATE OR REPLACE VIEW serm.stat_model WITH (security_invoker = true) AS
	SELECT m.name AS model, m.active AS version,
		(SELECT max(d.at) FROM serm.deployment AS d WHERE d.model = m.name) AS deployed,
		(SELECT count(*) FROM serm.version AS v WHERE v.model = m.name) AS versions,
		(SELECT count(*) FROM serm.judgment AS j WHERE j.model = m.name) AS judgments,
		(SELECT count(*) FROM serm.sample AS s WHERE s.model = m.name AND s.state = 'disputed') AS disputed,
		(SELECT count(*) FROM serm.round AS r WHERE r.model = m.name AND r.finished IS NOT NULL) AS rounds,
		(SELECT count(*) FROM serm.round AS r WHERE r.model = m.name AND r.phase = 'promoted') AS promotions,
		l.round AS last_round, l.phase AS last_phase, l.reason AS last_reason, l.finished AS last_finished,
		v.metrics
	FROM serm.model AS m
	LEFT JOIN serm.version AS v ON v.model = m.name AND v.version = m.active
	LEFT JOIN LATERAL (SELECT r.round, r.phase, r.reason, r.finished FROM serm.round AS r
		WHERE r.model = m.name ORDER BY r.round DESC LIMIT 1) AS l ON true;
COMMENT ON VIEW serm.stat_model IS 'one row per model: its active version with test metrics, how much it learned from, and its last round';
