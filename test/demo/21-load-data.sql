-- A directory with docs.tsv.gz (doc_id, title, text), queries.tsv.gz (query_id, query) and qrels.tsv.gz (query_id,
-- doc_id, grade). A quarter of the queries play the new season: searched in the last two weeks only, and not labelled.
CREATE TEMPORARY TABLE raw_query (query_id text, query text);
CREATE TEMPORARY TABLE raw_grade (query_id text, doc_id text, grade double precision);
\copy shop.product (doc_id, title, body) FROM PROGRAM 'gzip -dc "$SERM_DEMO_DATA/docs.tsv.gz" | sed "s/\\\\/\\\\\\\\/g"'
\copy raw_query FROM PROGRAM 'gzip -dc "$SERM_DEMO_DATA/queries.tsv.gz" | sed "s/\\\\/\\\\\\\\/g"'
\copy raw_grade FROM PROGRAM 'gzip -dc "$SERM_DEMO_DATA/qrels.tsv.gz"'

-- At most 2,000 queries and about 40,000 impressions, so that the demo stays a demo.
INSERT INTO shop.query
	SELECT query_id, query, CASE WHEN shop.noise('season ' || query) < 0.25 THEN 'season' ELSE 'head' END,
		GREATEST(3, LEAST(24, 4000 / LEAST(2000, (SELECT count(*) FROM raw_query))))
	FROM raw_query ORDER BY shop.noise('query ' || query) LIMIT 2000;

-- Whatever the scale of the set is, its grades become 0 to 3.
INSERT INTO shop.truth
	SELECT query_id, doc_id,
		round(3 * (avg(grade) - (SELECT min(grade) FROM raw_grade))
			/ (SELECT max(grade) - min(grade) FROM raw_grade))::integer
	FROM raw_grade JOIN shop.query USING (query_id) JOIN shop.product USING (doc_id)
	GROUP BY query_id, doc_id;
INSERT INTO shop.labelled
	SELECT t.* FROM shop.truth t JOIN shop.query q USING (query_id)
	WHERE q.segment <> 'season' AND shop.noise('label ' || query_id || ' ' || doc_id) < 0.4;
ANALYZE shop.product, shop.query, shop.truth;
