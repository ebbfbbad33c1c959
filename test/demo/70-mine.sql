CREATE TABLE shop.mined AS SELECT * FROM serm.mine('products', budget => 300);

SELECT agent, count(*) AS pairs FROM shop.mined, unnest(agents) AS agent GROUP BY agent ORDER BY agent;

\echo 'The first three:'
SELECT query, left(split_part(doc, E'\n', 1), 44) AS title, array_to_string(agents, ', ') AS agents, reason
	FROM shop.mined ORDER BY priority DESC, query, doc_id LIMIT 3;
