-- Six weeks of searches, simulated from the truth by a position-based click model.
--
-- A session asks one query and is shown ten documents: the first stage with some noise, for shops change and
-- customers differ. A document at position k is examined with probability k^-0.75, the decay of a real log of result
-- pages of ten. An examined document of grade 0, 1, 2, 3 is clicked with probability 0.03, 0.10, 0.35, 0.70. A click
-- is followed by a dwell time that is log-normal around 6, 14, 40, 75 seconds with a spread of 0.8. Queries of the new
-- season are asked in the last two weeks only. All randomness is hashed: the same data gives the same log.

CREATE TEMPORARY TABLE candidate AS
	SELECT q.query_id, q.query, t.doc_id, t.grade, s.score / GREATEST(max(s.score) OVER (PARTITION BY q.query_id), 1e-6) AS score
	FROM shop.query q JOIN shop.truth t USING (query_id) JOIN shop.product p USING (doc_id),
		LATERAL (SELECT shop.first_stage(q.query, p.title, p.body) AS score) s;

INSERT INTO shop.search_log
	WITH session AS (
		SELECT q.query_id, left(md5(q.query_id || ' ' || n), 8) AS session_id,
			timestamptz '2026-03-02 00:00:00+00' + interval '1 second' * floor(86400 *
				CASE WHEN q.segment = 'season' THEN 28 + 14 * shop.noise(q.query_id || ' at ' || n)
					ELSE 42 * shop.noise(q.query_id || ' at ' || n) END) AS shown_at
		FROM shop.query q, generate_series(1, q.sessions) n
	), page AS (
		SELECT c.*, s.session_id, s.shown_at, row_number() OVER (PARTITION BY s.query_id, s.session_id
			ORDER BY c.score + 0.6 * shop.noise(s.session_id || c.doc_id) DESC, c.doc_id) AS position
		FROM session s JOIN candidate c USING (query_id)
	), seen AS (
		SELECT *, shop.noise('click ' || session_id || doc_id) <
			power(position, -0.75) * ('{0.03,0.10,0.35,0.70}'::double precision[])[grade + 1] AS clicked
		FROM page WHERE position <= 10
	)
	SELECT query, doc_id, shown_at, position, clicked,
		CASE WHEN clicked THEN (1000 * ('{6,14,40,75}'::double precision[])[grade + 1] * exp(0.8 *
			sqrt(-2 * ln(1 - shop.noise('dwell ' || session_id || doc_id)))
			* cos(2 * pi() * shop.noise('again ' || session_id || doc_id))))::integer END,
		session_id
	FROM seen ORDER BY shown_at, session_id, position;
ANALYZE shop.search_log;
