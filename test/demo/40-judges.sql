-- Two judges in SQL. Each sees the truth through its own glasses: a level of its own (the systematic error) and slips
-- (the random one). Both errors are hashed from the pair, so a judge repeats itself as a careful person would.

CREATE FUNCTION shop.true_grade(query text, doc text) RETURNS integer
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	BEGIN ATOMIC
		SELECT t.grade FROM shop.truth t JOIN shop.query q ON q.query_id = t.query_id
			JOIN shop.product p ON p.doc_id = t.doc_id
			WHERE q.query = true_grade.query AND md5(p.doc) = md5(true_grade.doc) ORDER BY t.query_id LIMIT 1;
	END;
CREATE INDEX ON shop.query (query);
CREATE INDEX ON shop.product (md5(doc));
CREATE INDEX ON shop.truth (doc_id);

-- Lenient: where there is something to like it gives one grade more four times in ten, elsewhere one time in ten; one time
-- in twenty it names any grade.
CREATE FUNCTION shop.lenient_judge(query text, doc text, OUT grade integer, OUT rationale text)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	grade := shop.true_grade(query, doc);
	IF shop.noise('lenient slip ' || query || doc) < 0.05 THEN
		grade := floor(4 * shop.noise('lenient which ' || query || doc));
	ELSIF shop.noise('lenient ' || query || doc) < (CASE WHEN grade > 0 THEN 0.4 ELSE 0.1 END) THEN
		grade := LEAST(3, grade + 1);
	END IF;
	rationale := 'it could serve: ' || split_part(doc, E'\n', 1);
END $$;

-- Strict: four times in ten it gives one grade less; it slips as often.
CREATE FUNCTION shop.strict_judge(query text, doc text, OUT grade integer, OUT rationale text)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	grade := shop.true_grade(query, doc);
	IF shop.noise('strict slip ' || query || doc) < 0.05 THEN
		grade := floor(4 * shop.noise('strict which ' || query || doc));
	ELSIF shop.noise('strict ' || query || doc) < 0.40 THEN
		grade := GREATEST(0, grade - 1);
	END IF;
	rationale := 'read to the letter: ' || split_part(doc, E'\n', 1);
END $$;
