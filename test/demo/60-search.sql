-- A query that nobody graded, where the shop sells mattresses; else any one of the set.
SELECT coalesce((SELECT 'double mattress cover' FROM shop.query WHERE query = 'mattress cover'),
	(SELECT query FROM shop.query WHERE segment <> 'season' ORDER BY shop.noise('show ' || query) LIMIT 1)) AS asked \gset
\echo 'Query:' :asked
SELECT round(serm.score(:'asked', doc)::numeric, 2) AS score, left(title, 84) AS title
	FROM shop.product
	WHERE to_tsvector('english', doc) @@ replace(plainto_tsquery('english', :'asked')::text, '&', '|')::tsquery
	ORDER BY serm.score(:'asked', doc) DESC, doc_id LIMIT 5;
