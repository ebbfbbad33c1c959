-- The one table. Rankings are measured on every pair of the truth whose query belongs to the test split: no version was
-- trained on any of these queries, and the judges' errors do not touch the truth.

-- ts_rank_cd knows no grades: it is given the cut points that reproduce the shares of the shop's own grades.
CREATE TEMPORARY TABLE cut AS
	SELECT g AS grade, percentile_disc((SELECT avg((grade < g)::int) FROM shop.labelled))
		WITHIN GROUP (ORDER BY shop.first_stage(query, title, body)) AS least
	FROM shop.labelled JOIN shop.query USING (query_id) JOIN shop.product USING (doc_id), generate_series(1, 3) g
	GROUP BY g;

CREATE TEMPORARY TABLE scored AS
	SELECT 'ts_rank_cd' AS system, query_id, doc_id, grade, season, first_stage::double precision AS score,
		(SELECT count(*) FROM cut WHERE first_stage >= least AND least > 0)::int AS predicted
	FROM shop.tested
	UNION ALL
	SELECT 'first', query_id, doc_id, grade, season, first_score, first_grade FROM shop.tested
	UNION ALL
	SELECT 'evolved', query_id, doc_id, t.grade, season, p.score, shop.likeliest(p.probs)
	FROM shop.tested t, LATERAL serm.predict(query, doc, 'products') p;

CREATE TEMPORARY TABLE listed AS
	SELECT system, query_id, season, serm.ndcg(grade, score, 1, 'linear', doc_id) AS ndcg1,
		serm.ndcg(grade, score, 4, 'linear', doc_id) AS ndcg4, serm.ndcg(grade, score, 10, 'linear', doc_id) AS ndcg10
	FROM scored GROUP BY system, query_id, season HAVING max(grade) > 0;

CREATE TEMPORARY TABLE report (line serial, what text, a text, b text, c text);

INSERT INTO report (what, a, b, c)
	SELECT what, max(value) FILTER (WHERE system = 'ts_rank_cd'), max(value) FILTER (WHERE system = 'first'),
		max(value) FILTER (WHERE system = 'evolved')
	FROM (
		SELECT system, what, to_char(value, '0.0000') AS value, place FROM (
			SELECT system, avg(ndcg1) AS n1, avg(ndcg4) AS n4, avg(ndcg10) AS n10,
				avg(ndcg4) FILTER (WHERE season) AS s4, avg(ndcg10) FILTER (WHERE season) AS s10
			FROM listed GROUP BY system) m,
			LATERAL (VALUES (1, 'NDCG@1', n1), (2, 'NDCG@4', n4), (3, 'NDCG@10', n10),
				(5, 'NDCG@4, new season', s4), (6, 'NDCG@10, new season', s10)) v (place, what, value)
		UNION ALL
		SELECT system, 'accuracy of the grade', to_char(serm.accuracy(grade, predicted), '0.0000'), 4
			FROM scored GROUP BY system) x
	GROUP BY what, place ORDER BY place;

-- How sure that is: the mean of the differences per query, and 1.96 standard errors of it.
INSERT INTO report (what, a, b, c)
	SELECT what, '', '', format('%s +-%s', to_char(avg(difference), 'SG0.0000'),
			to_char(1.96 * stddev(difference) / sqrt(count(*)), 'FM0.0000'))
	FROM (
		SELECT e.query_id, v.* FROM listed e JOIN listed f USING (query_id),
			LATERAL (VALUES (1, 'NDCG@4, evolved - first', e.ndcg4 - f.ndcg4), (2, 'NDCG@10, evolved - first', e.ndcg10 - f.ndcg10))
				v (place, what, difference)
		WHERE e.system = 'evolved' AND f.system = 'first'
	) d
	GROUP BY place, what ORDER BY place;

INSERT INTO report (what, a, b, c) VALUES ('', '', '', ''), ('', 'round 1', 'round 2', 'both');

-- What each agent mined; a pair may be found by several.
INSERT INTO report (what, a, b, c)
	SELECT 'mined by ' || agent, count(*) FILTER (WHERE round = 1), count(*) FILTER (WHERE round = 2), count(*)
	FROM serm.sample, unnest(agents) AS agent WHERE model = 'products' GROUP BY agent ORDER BY agent;
INSERT INTO report (what, a, b, c)
	SELECT 'mined pairs', count(*) FILTER (WHERE round = 1), count(*) FILTER (WHERE round = 2), count(*)
	FROM serm.sample WHERE model = 'products';
INSERT INTO report (what, a, b, c)
	SELECT 'pairs ' || state, count(*) FILTER (WHERE round = 1), count(*) FILTER (WHERE round = 2), count(*)
	FROM serm.sample WHERE model = 'products' GROUP BY state ORDER BY state;

-- How the judges agree with each other. A judge's grade is the median of its paths.
CREATE TEMPORARY TABLE judged AS
	SELECT s.round, v.sample, v.agent, percentile_disc(0.5) WITHIN GROUP (ORDER BY v.grade)::int AS grade
	FROM serm.vote v JOIN serm.sample s ON s.id = v.sample
	WHERE s.model = 'products' AND v.grade IS NOT NULL GROUP BY s.round, v.sample, v.agent;
INSERT INTO report (what, a, b, c)
	SELECT 'kappa ' || x.agent || ' / ' || y.agent,
		to_char(serm.cohen_kappa(x.grade, y.grade, 'quadratic') FILTER (WHERE x.round = 1), '0.000'),
		to_char(serm.cohen_kappa(x.grade, y.grade, 'quadratic') FILTER (WHERE x.round = 2), '0.000'),
		to_char(serm.cohen_kappa(x.grade, y.grade, 'quadratic'), '0.000')
	FROM judged x JOIN judged y ON x.sample = y.sample AND x.agent < y.agent
	GROUP BY x.agent, y.agent ORDER BY x.agent, y.agent;
INSERT INTO report (what, a, b, c)
	SELECT 'krippendorff alpha',
		to_char(serm.krippendorff_alpha(sample::text, agent, grade) FILTER (WHERE round = 1), '0.000'),
		to_char(serm.krippendorff_alpha(sample::text, agent, grade) FILTER (WHERE round = 2), '0.000'),
		to_char(serm.krippendorff_alpha(sample::text, agent, grade), '0.000')
	FROM judged;

-- What the gate said, with the numbers it decided by.
INSERT INTO report (what, a, b, c)
	SELECT what, max(value) FILTER (WHERE round = 1), max(value) FILTER (WHERE round = 2), '' FROM (
		SELECT round, 1 AS place, 'gate: decision' AS what, phase AS value FROM serm.round WHERE model = 'products'
		UNION ALL
		SELECT round, place, 'gate: ' || metric || ' ' || system, to_char((metrics -> 'gate' -> metric ->> system)::float8, '0.0000')
			FROM serm.round, (VALUES (2, 'ndcg@4'), (3, 'nll')) m (place, metric), (VALUES ('active'), ('candidate')) s (system)
			WHERE model = 'products'
		UNION ALL
		SELECT round, place, 'gate: ' || metric || ' difference', format('%s [%s, %s]',
				to_char((metrics -> 'gate' -> metric ->> 'difference')::float8, 'SG0.0000'),
				to_char((metrics -> 'gate' -> metric ->> 'low')::float8, 'SG0.0000'),
				to_char((metrics -> 'gate' -> metric ->> 'high')::float8, 'SG0.0000'))
			FROM serm.round, (VALUES (2, 'ndcg@4'), (3, 'nll')) m (place, metric)
			WHERE model = 'products' AND metrics ? 'gate') g
	GROUP BY place, what ORDER BY place, what;

SELECT what AS " ", a AS "ts_rank_cd", b AS "first version", c AS "evolved" FROM report ORDER BY line;
SELECT round, reason AS "what the gate said" FROM serm.round WHERE model = 'products' ORDER BY round;
