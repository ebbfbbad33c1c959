-- A small shop: the click model is asked from 8 impressions of a pair instead of 20.
CREATE TABLE shop.mined AS
	SELECT * FROM serm.mine('products', budget => 300, options => '{"min_impressions": 8}');

SELECT agent, count(*) AS pairs FROM shop.mined, unnest(agents) AS agent GROUP BY agent ORDER BY agent;

\echo 'The first three:'
SELECT query, left(split_part(doc, E'\n', 1), 42) AS title, left(reason, 100) || '...' AS reason
	FROM shop.mined ORDER BY priority DESC, query, doc_id LIMIT 3;
