-- A model of the shop: where its log and its documents are, the grades its people gave, and a first version.
CREATE EXTENSION serm;
CREATE VIEW shop.document AS SELECT doc_id, doc FROM shop.product;

SELECT serm.create_model('products', log => 'shop.search_log', documents => 'shop.document');
INSERT INTO serm.judgment (model, query, doc_id, grade, source, judge)
	SELECT 'products', query, doc_id, grade, 'human', 'shop' FROM shop.labelled JOIN shop.query USING (query_id);
CALL serm.train('products');

\echo 'In the shop:'
SELECT (SELECT count(*) FROM shop.product) AS documents, (SELECT count(*) FROM shop.query) AS queries,
	(SELECT count(*) FROM shop.labelled) AS graded, (SELECT count(*) FROM shop.search_log) AS impressions,
	(SELECT count(*) FROM shop.search_log WHERE clicked) AS clicks;
