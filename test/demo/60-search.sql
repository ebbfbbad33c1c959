SELECT query AS asked FROM shop.query
	ORDER BY query <> 'waterproof mattress protector double', segment = 'season', shop.noise('show ' || query) LIMIT 1 \gset
\echo 'Query:' :asked
SELECT round(serm.score(:'asked', doc)::numeric, 2) AS score, left(title, 84) AS title
	FROM shop.product
	WHERE to_tsvector('english', doc) @@ replace(plainto_tsquery('english', :'asked')::text, '&', '|')::tsquery
	ORDER BY serm.score(:'asked', doc) DESC, doc_id LIMIT 5;
