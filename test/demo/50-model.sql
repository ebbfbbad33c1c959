-- A model of the shop: where its log and its documents are, the grades its people gave, and a first version.
CREATE EXTENSION serm;
CREATE VIEW shop.document AS SELECT doc_id, doc FROM shop.product;

SELECT serm.create_model('products', log => 'shop.search_log', documents => 'shop.document',
	options => '{"rule": "quorum"}') \g /dev/null
INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge)
	SELECT 'products', query, doc_id, grade, 'human', 'shop' FROM shop.labelled JOIN shop.query USING (query_id);
CALL serm.train('products', jsonb_build_object('seed', :seed));

\echo 'In the shop:'
SELECT (SELECT count(*) FROM shop.product) AS documents, (SELECT count(*) FROM shop.query) AS queries,
	(SELECT count(*) FROM shop.labelled) AS graded, (SELECT count(*) FROM shop.search_log) AS impressions,
	(SELECT count(*) FROM shop.search_log WHERE clicked) AS clicks;

-- The number of the grade that is likeliest.
CREATE FUNCTION shop.likeliest(probs real[]) RETURNS integer
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN (SELECT (n - 1)::int FROM unnest(probs) WITH ORDINALITY AS g (p, n) ORDER BY p DESC, n LIMIT 1);

-- For the table at the end: what the first version says of every pair whose query is held out for testing.
CREATE TABLE shop.tested AS
	SELECT t.query_id, t.doc_id, t.grade, q.query, q.segment = 'season' AS season, p.doc,
		shop.first_stage(q.query, p.title, p.body) AS first_stage, f.score AS first_score,
		shop.likeliest(f.probs) AS first_grade
	FROM shop.truth t JOIN shop.query q USING (query_id) JOIN shop.product p USING (doc_id),
		LATERAL serm.predict(q.query, p.doc, 'products') f
	WHERE serm.split_of(q.query) = 'test';
