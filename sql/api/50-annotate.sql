-- --- agents
CREATE OR REPLACE FUNCTION serm.add_agent(model text, server name, options jsonb DEFAULT '{}') RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_add_agent_server';
COMMENT ON FUNCTION serm.add_agent(text, name, jsonb) IS 'let a server of foreign-data wrapper serm_agent grade samples of a model';

CREATE OR REPLACE FUNCTION serm.add_agent(model text, judge regprocedure, options jsonb DEFAULT '{}') RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_add_agent_judge';
COMMENT ON FUNCTION serm.add_agent(text, regprocedure, jsonb) IS 'let a function f(query text, doc text) that returns a grade, or a grade and a rationale, grade samples of a model';

CREATE OR REPLACE FUNCTION serm.remove_agent(model text, agent text) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_remove_agent';
COMMENT ON FUNCTION serm.remove_agent(text, text) IS 'take an agent and its open tasks from a model; its votes stay';

CREATE OR REPLACE FUNCTION serm.resume_agent(model text, agent text, min_reliability real DEFAULT -1) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_resume_agent';
COMMENT ON FUNCTION serm.resume_agent(text, text, real) IS 'ask an agent again that was suspended, and suspend it from now on only below this reliability; -1 is never';

-- --- annotating
CREATE OR REPLACE PROCEDURE serm.annotate(model text DEFAULT NULL, wait boolean DEFAULT true, options jsonb DEFAULT '{}')
	LANGUAGE c AS 'MODULE_PATHNAME', 'serm_annotate';
COMMENT ON PROCEDURE serm.annotate(text, boolean, jsonb) IS 'have the agents of a model grade its waiting samples, and turn their agreement into judgments';

CREATE OR REPLACE FUNCTION serm.add_prompt(model text DEFAULT NULL, instructions text DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS integer
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_add_prompt';
COMMENT ON FUNCTION serm.add_prompt(text, text, jsonb) IS 'a new version of what agents of a model are told: instructions, and examples drawn from what people have graded; returns its number';

-- Partners of a sample for one question: documents of its query that people have graded and other samples of its round in turn, so that
-- all documents of a query are connected. Two paths of a pair show the same two in both orders; a list is shuffled.
CREATE OR REPLACE FUNCTION serm._compared(sample bigint, path integer, documents integer) RETURNS bigint[]
	LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
BEGIN ATOMIC
	WITH own AS (
		SELECT s.id, s.model, s.round, s.query, coalesce((m.options ->> 'test_share')::real, 0.2::real) AS test_share
		  FROM serm.sample AS s JOIN serm.model AS m ON m.name = s.model WHERE s.id = _compared.sample
	), peer AS (
		SELECT p.id, row_number() OVER (ORDER BY p.id < o.id, p.id) AS place, 1 AS kind
		  FROM own AS o JOIN serm.sample AS p ON p.model = o.model AND p.round = o.round AND md5(p.query) = md5(o.query) AND p.id <> o.id
	), graded AS (
		SELECT DISTINCT ON (coalesce(j.doc_id, j.doc)) j.id, j.doc_id
		  FROM own AS o JOIN serm.judgment AS j ON j.model = o.model AND md5(j.query) = md5(o.query)
		 WHERE j.source IN ('human', 'import') AND j.doc IS NOT NULL AND serm.split_of(o.query, o.test_share) = 'train'
		 ORDER BY coalesce(j.doc_id, j.doc), j.source = 'human' DESC, j.at DESC, j.id DESC
	), known AS (
		SELECT -g.id AS id, row_number() OVER (ORDER BY md5(o.id || ' ' || g.id), g.id) AS place, 0 AS kind
		  FROM own AS o CROSS JOIN graded AS g
		 WHERE NOT EXISTS (SELECT FROM serm.sample AS s WHERE s.model = o.model AND s.round = o.round AND md5(s.query) = md5(o.query)
			AND md5(s.doc_id) = md5(g.doc_id))
	), candidate AS (
		SELECT c.id, row_number() OVER (ORDER BY c.place, c.kind) - 1 AS n, count(*) OVER () AS total
		  FROM (SELECT * FROM peer UNION ALL SELECT * FROM known) AS c
	), partner AS (
		SELECT c.id FROM candidate AS c, (SELECT (_compared.documents - 1) *
			CASE WHEN _compared.documents = 2 THEN (_compared.path - 1) / 2 ELSE _compared.path - 1 END AS first) AS q
		 WHERE ((c.n - q.first) % c.total + c.total) % c.total < _compared.documents - 1
	), shown AS (
		SELECT p.id, (_compared.path + _compared.sample) % 2 AS place FROM partner AS p
		UNION ALL SELECT o.id, 0.5 FROM own AS o WHERE EXISTS (SELECT FROM partner)
	)
	SELECT array_agg(s.id ORDER BY CASE WHEN _compared.documents = 2 THEN s.place END,
		md5(_compared.sample || ' ' || _compared.path || ' ' || s.id), s.id) FROM shown AS s;
END;
COMMENT ON FUNCTION serm._compared(bigint, integer, integer) IS 'the documents of one question that compares a sample, in the order in which they are shown: samples, or judgments below 0; NULL when there is nothing to compare with';

CREATE OR REPLACE FUNCTION serm._agent_terms(model text DEFAULT NULL)
	RETURNS TABLE (model_name text, agent text, server name, paths integer, max_tokens integer, requests_per_minute double precision,
		tokens_per_minute double precision, price_prompt double precision, price_completion double precision, documents integer,
		example_bytes bigint, repeats boolean, extra_paths integer, gold_rate double precision, test_share real)
	LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_agent_terms';
COMMENT ON FUNCTION serm._agent_terms(text) IS 'the active agents of a model with the limits and prices of their servers and the size of their questions';

CREATE OR REPLACE FUNCTION serm.estimate_annotation(model text DEFAULT NULL)
	RETURNS TABLE (agent text, samples bigint, requests bigint, tokens bigint, cost numeric, cost_most numeric, seconds double precision)
	LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
	WITH terms AS (SELECT * FROM serm._agent_terms(estimate_annotation.model)),
	one AS (SELECT max(t.model_name) AS model, max(t.gold_rate) AS gold_rate, max(t.test_share) AS test_share FROM terms AS t),
	sampled AS (
		SELECT count(*) FILTER (WHERE s.agents <> '{gold}') AS others, count(*) FILTER (WHERE s.agents = '{gold}') AS gold,
			coalesce(avg(octet_length(s.query)), 0) AS query_bytes, coalesce(avg(octet_length(s.doc)), 0) AS doc_bytes
		  FROM one AS o JOIN serm.sample AS s ON s.model = o.model AND s.state = 'waiting'
	), available AS (
		-- Pairs that people have graded and that could be slipped in.
		SELECT count(*) AS gold FROM one AS o JOIN serm.current_judgment AS j ON j.model = o.model
		 WHERE o.gold_rate > 0 AND j.source IN ('human', 'import') AND j.doc_id IS NOT NULL AND serm.split_of(j.query, o.test_share) = 'train'
		   AND NOT EXISTS (SELECT FROM serm.sample AS s WHERE s.model = o.model AND md5(s.query) = md5(j.query) AND md5(s.doc_id) = md5(j.doc_id))
	), waiting AS (
		SELECT s.others, s.others + s.gold + greatest(0, least(ceil(o.gold_rate * s.others) - s.gold, a.gold))::bigint AS samples,
			s.query_bytes, s.doc_bytes FROM one AS o, sampled AS s, available AS a
	), asked_more AS (
		-- On how many samples agents differ: as on the past ones, and on a quarter before there are any.
		SELECT (count(*) FILTER (WHERE EXISTS (SELECT FROM serm.vote AS v WHERE v.sample = n.id AND v.extra)) + 5) / (count(*) + 20.0) AS share
		  FROM (SELECT s.id FROM one AS o JOIN serm.sample AS s ON s.model = o.model
			 WHERE s.state IN ('agreed', 'disputed', 'settled') AND s.agents <> '{gold}' ORDER BY s.id DESC LIMIT 2000) AS n
	), past AS (
		SELECT v.agent, count(*) AS votes, avg(v.tokens) AS tokens, avg(v.cost) AS cost, avg(v.latency_ms) / 1000.0 AS seconds
		  FROM one AS o JOIN serm.sample AS s ON s.model = o.model JOIN serm.vote AS v ON v.sample = s.id AND NOT v.cached AND v.tokens > 0
		 GROUP BY v.agent HAVING count(*) >= 20
	), sized AS (
		SELECT t.*, w.samples, w.query_bytes + t.example_bytes + t.documents
				* least(w.doc_bytes, CASE WHEN t.documents > 2 THEN 40000 / t.documents ELSE 16000 END) AS bytes,
			round(w.samples * t.paths + CASE WHEN t.repeats THEN 0 ELSE w.others * t.extra_paths * x.share END)::bigint AS requests,
			w.samples * t.paths + CASE WHEN t.repeats THEN 0 ELSE w.others * t.extra_paths END AS requests_most
		  FROM terms AS t, waiting AS w, asked_more AS x
	), each AS (
		-- Before there are answers: a token is four bytes, the frame of a prompt takes 350, an answer 60.
		SELECT z.*, p.seconds, coalesce(p.tokens, z.bytes / 4 + 410) AS tokens,
			CASE WHEN z.server IS NULL THEN 0 ELSE coalesce(p.cost, ((z.bytes / 4 + 350) * z.price_prompt::numeric
				+ 60 * z.price_completion::numeric) / 1000000) END AS cost,
			CASE WHEN z.server IS NULL THEN 0 ELSE ((z.bytes * 1.1 + 3000) * z.price_prompt::numeric
				+ z.max_tokens * z.price_completion::numeric) / 1000000 END AS cost_most
		  FROM sized AS z LEFT JOIN past AS p ON p.agent = z.agent
	)
	SELECT e.agent, e.samples, e.requests, CASE WHEN e.server IS NULL THEN 0 ELSE ceil(e.requests * e.tokens) END::bigint,
		round(e.requests * e.cost, 6), round(e.requests_most * e.cost_most, 6),
		greatest(e.requests * 60 / nullif(e.requests_per_minute, 0), e.requests * e.tokens::double precision * 60 / nullif(e.tokens_per_minute, 0),
			e.requests * e.seconds::double precision / current_setting('serm.annotate_concurrency')::integer)
	  FROM each AS e ORDER BY e.agent;
END;
COMMENT ON FUNCTION serm.estimate_annotation(text) IS 'what grading the waiting samples of a model would take, with gold and extra paths: requests, tokens, cost, the most it may cost, and seconds';

CREATE OR REPLACE FUNCTION serm.settle(sample bigint, grade real, rationale text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_settle';
COMMENT ON FUNCTION serm.settle(bigint, real, text) IS 'give a sample the grade that a person decided on; returns the id of the judgment';

-- --- what a worker does, for tests that play two workers
CREATE OR REPLACE FUNCTION serm._claim(task_limit integer DEFAULT 1, lease_ms integer DEFAULT 60000)
	RETURNS TABLE (task bigint, sample bigint, agent text, path integer, attempt integer, token bigint)
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_claim';
COMMENT ON FUNCTION serm._claim(integer, integer) IS 'lease due tasks of servers that the current role asked for, as its worker does';

CREATE OR REPLACE FUNCTION serm._finish(task bigint, token bigint, grade integer, error text DEFAULT NULL) RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_finish';
COMMENT ON FUNCTION serm._finish(bigint, bigint, integer, text) IS 'store the vote of a leased task and close it; false when the lease was lost';

-- --- what is going on
CREATE OR REPLACE FUNCTION serm._monotonic_ms() RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'serm_monotonic_ms';
COMMENT ON FUNCTION serm._monotonic_ms() IS 'milliseconds of the machine''s monotonic clock, the clock of serm._server';

CREATE OR REPLACE VIEW serm.stat_server WITH (security_invoker = true) AS
	SELECT s.server,
		CASE WHEN s.openings > 0 THEN 'failing' WHEN s.rests_until_ms > n.ms THEN 'resting' ELSE 'asking' END AS state,
		greatest(0, s.rests_until_ms - n.ms) / 1000.0 AS rests_s, s.failures, s.refusals,
		CASE WHEN s.failing_since_ms > 0 THEN greatest(0, n.ms - s.failing_since_ms) / 1000.0 END AS failing_s,
		(SELECT max(t.last_error) FROM serm.task t JOIN serm.agent a ON a.model = t.model AND a.name = t.agent
		  WHERE a.server = s.server) AS last_error
	  FROM serm._server s CROSS JOIN (SELECT serm._monotonic_ms() AS ms) n;
COMMENT ON VIEW serm.stat_server IS 'servers of agents that are limited, resting or failing, for how long, and what they last did wrong';

CREATE OR REPLACE VIEW serm.annotation_progress WITH (security_invoker = true) AS
	SELECT m.name AS model,
		coalesce(s.waiting, 0) AS waiting, coalesce(s.running, 0) AS running, coalesce(s.done, 0) AS done,
		coalesce(s.disputed, 0) AS disputed, coalesce(s.failed, 0) AS failed,
		(SELECT count(*) FROM serm.task t WHERE t.model = m.name) AS tasks,
		coalesce(v.votes, 0) AS votes, coalesce(v.errors, 0) AS errors, coalesce(v.tokens, 0) AS tokens
	  FROM serm.model m
	  LEFT JOIN (SELECT model, count(*) FILTER (WHERE state = 'waiting') AS waiting,
			count(*) FILTER (WHERE state = 'annotating') AS running,
			count(*) FILTER (WHERE state IN ('agreed', 'settled')) AS done,
			count(*) FILTER (WHERE state = 'disputed') AS disputed, count(*) FILTER (WHERE state = 'failed') AS failed
		  FROM serm.sample GROUP BY model) s ON s.model = m.name
	  LEFT JOIN (SELECT s.model, count(*) AS votes, count(v.error) AS errors, sum(v.tokens) AS tokens
		  FROM serm.vote v JOIN serm.sample s ON s.id = v.sample GROUP BY s.model) v ON v.model = m.name;
COMMENT ON VIEW serm.annotation_progress IS 'per model: samples by state, open tasks, votes, failed votes and tokens';

-- The value of an answer is how far the grade that stands is expected to be off, squared: the variance of what the agents'
-- judgment believes, or without one of their votes and one vote for every grade alike; times the pair's own priority.
CREATE OR REPLACE VIEW serm.review_queue WITH (security_invoker = true) AS
	SELECT s.id AS sample, s.model, s.round, s.query, s.doc_id, s.doc, s.state, s.priority,
		(SELECT jsonb_object_agg(v.agent, v.answers)
		  FROM (SELECT agent, jsonb_agg(coalesce(grade::text, 'error') ORDER BY path) AS answers
			  FROM serm.vote WHERE sample = s.id GROUP BY agent) v) AS votes,
		(SELECT string_agg(v.agent || ': ' || v.rationale, E'\n' ORDER BY v.agent)
		  FROM (SELECT DISTINCT ON (agent) agent, rationale FROM serm.vote
			 WHERE sample = s.id AND rationale IS NOT NULL ORDER BY agent, path) v) AS rationales,
		s.reason,
		(1 + greatest(s.priority, 0)) * coalesce(believed.variance, voted.variance) AS value
	  FROM serm.sample s JOIN serm.model m ON m.name = s.model
	  LEFT JOIN LATERAL (SELECT sum(t.p * (t.y - 1) ^ 2) - sum(t.p * (t.y - 1)) ^ 2 AS variance
		  FROM unnest((SELECT j.target FROM serm.judgment j WHERE j.model = s.model AND j.source = 'agents'
				AND md5(j.query) = md5(s.query) AND md5(coalesce(j.doc_id, j.doc)) = md5(s.doc_id)
			 ORDER BY j.id DESC LIMIT 1)) WITH ORDINALITY AS t(p, y)) believed ON true
	  CROSS JOIN LATERAL (SELECT (count(v.grade) * coalesce(var_pop(v.grade), 0) + (cardinality(m.grades) ^ 2 - 1) / 12)
			/ (count(v.grade) + 1) AS variance FROM serm.vote v WHERE v.sample = s.id) voted
	 WHERE s.state IN ('disputed', 'failed') AND s.agents <> '{gold}'
	 ORDER BY value DESC, s.id;
COMMENT ON VIEW serm.review_queue IS 'samples that the agents could not settle, those first whose answer is worth most: serm.settle(sample, grade) closes one';

CREATE OR REPLACE VIEW serm.stat_agent WITH (security_invoker = true) AS
	WITH tally AS (
		SELECT s.model, v.sample, v.agent, v.grade, count(*) AS n,
			sum(count(*)) OVER (PARTITION BY v.sample, v.agent) AS paths
		  FROM serm.vote v JOIN serm.sample s ON s.id = v.sample GROUP BY s.model, v.sample, v.agent, v.grade
	), tallied AS (
		SELECT model, sample, agent, max(paths) AS paths,
			array_agg(n ORDER BY n DESC) FILTER (WHERE grade IS NOT NULL) AS n
		  FROM tally GROUP BY model, sample, agent
	), share AS (
		SELECT a.model, a.name, a.active, coalesce((a.options ->> 'min_share')::double precision,
			(SELECT o.option_value::double precision
			  FROM pg_foreign_server f, pg_options_to_table(f.srvoptions) o
			 WHERE f.srvname = a.server AND o.option_name = 'min_share'), 0.6) AS minimum
		  FROM serm.agent a
	), abstention AS (
		SELECT l.model, l.agent, count(*) FILTER (WHERE coalesce(l.n[1] / l.paths + 1e-9 < coalesce(h.minimum, 0.6)
			OR l.n[1] = l.n[2], l.n IS NULL)) AS abstentions
		  FROM tallied l LEFT JOIN share h ON h.model = l.model AND h.name = l.agent GROUP BY l.model, l.agent
	)
	SELECT s.model, v.agent, coalesce(h.active, false) AS active,
		count(*) AS votes, count(v.error) AS errors, b.abstentions,
		sum(v.tokens) AS tokens, avg(v.latency_ms)::double precision AS mean_latency_ms,
		avg((v.grade = round(s.grade))::integer) FILTER (WHERE v.grade IS NOT NULL AND s.grade IS NOT NULL)::double precision
			AS agreement,
		avg(v.grade - s.grade) FILTER (WHERE s.grade IS NOT NULL)::double precision AS bias,
		count(v.canary) AS canaries, count(*) FILTER (WHERE v.canary) AS obeyed
	  FROM serm.vote v JOIN serm.sample s ON s.id = v.sample
	  JOIN abstention b ON b.model = s.model AND b.agent = v.agent
	  LEFT JOIN share h ON h.model = s.model AND h.name = v.agent
	 GROUP BY s.model, v.agent, h.active, b.abstentions;
COMMENT ON VIEW serm.stat_agent IS 'per agent: votes, failed votes, samples without a grade of its own, tokens, mean latency, share of votes equal to the final grade and mean difference from it, and the canaries that it was shown and obeyed';

-- --- how agents agree, with people and with each other

-- What each agent says of each sample: the grade of most of its paths.
CREATE OR REPLACE VIEW serm._label WITH (security_invoker = true) AS
	SELECT s.model, v.sample, v.agent, v.prompt, v.at, v.grade, s.grade AS settled, s.agents AS segments,
		(SELECT round(j.grade)::integer FROM serm.judgment j WHERE j.model = s.model AND j.source IN ('human', 'import')
			AND md5(j.query) = md5(s.query) AND md5(coalesce(j.doc_id, j.doc)) = md5(s.doc_id)
		 ORDER BY j.source = 'human' DESC, j.at DESC, j.id DESC LIMIT 1) AS gold
	  FROM (SELECT w.sample, w.agent, min(w.prompt) AS prompt, min(w.at) AS at,
			mode() WITHIN GROUP (ORDER BY w.grade)::integer AS grade
		  FROM serm.vote w WHERE w.grade IS NOT NULL GROUP BY w.sample, w.agent) v
	  JOIN serm.sample s ON s.id = v.sample;
COMMENT ON VIEW serm._label IS 'what each agent says of each sample, what people say of it, and what became of it';

CREATE OR REPLACE VIEW serm.agent_confusion WITH (security_invoker = true) AS
	SELECT l.model, l.agent, l.prompt, l.gold, l.grade, count(*) AS pairs,
		count(*)::double precision / sum(count(*)) OVER (PARTITION BY l.model, l.agent, l.prompt, l.gold)::double precision AS share
	  FROM serm._label l WHERE l.gold IS NOT NULL GROUP BY l.model, l.agent, l.prompt, l.gold, l.grade;
COMMENT ON VIEW serm.agent_confusion IS 'how often an agent says a grade where people say another: pairs, and their share of those that people gave the same grade';

CREATE OR REPLACE VIEW serm.agent_agreement WITH (security_invoker = true) AS
	WITH part AS (
		SELECT l.*, NULL::text AS segment, NULL::date AS week FROM serm._label l
		UNION ALL SELECT l.*, g.segment, NULL FROM serm._label l, unnest(l.segments) AS g(segment)
		UNION ALL SELECT l.*, NULL, date_trunc('week', l.at)::date FROM serm._label l
	)
	SELECT p.model, p.agent, p.prompt, p.segment, p.week, count(*) AS labels, count(p.gold) AS gold,
		serm.cohen_kappa(p.grade, p.gold, 'quadratic') AS gold_kappa,
		serm.cohen_kappa(p.grade, round(p.settled)::integer, 'quadratic') FILTER (WHERE p.gold IS NULL) AS settled_kappa,
		avg(p.grade - p.gold)::double precision AS gold_bias
	  FROM part p GROUP BY p.model, p.agent, p.prompt, p.segment, p.week;
COMMENT ON VIEW serm.agent_agreement IS 'quadratic kappa of an agent against people and against the settled grades: over all, per segment (the mining agent that chose the pair), and per week';

CREATE OR REPLACE VIEW serm.agent_pairs WITH (security_invoker = true) AS
	SELECT a.model, a.agent, b.agent AS other, count(*) AS pairs, serm.cohen_kappa(a.grade, b.grade, 'quadratic') AS kappa,
		count(a.gold) AS gold, corr(a.grade - a.gold, b.grade - b.gold) AS error_correlation
	  FROM serm._label a JOIN serm._label b ON b.sample = a.sample AND b.agent > a.agent
	 GROUP BY a.model, a.agent, b.agent;
COMMENT ON VIEW serm.agent_pairs IS 'two agents against each other: quadratic kappa, and the correlation of their errors on pairs that people graded: agreement is worth nothing where that is high';
