-- The bundled sample, its search log included.
\copy shop.product (doc_id, title, body) FROM PROGRAM 'cat "$SERM_DEMO_DATA/products.tsv"'
\copy shop.query FROM PROGRAM 'cat "$SERM_DEMO_DATA/queries.tsv"'
\copy shop.truth FROM PROGRAM 'cat "$SERM_DEMO_DATA/truth.tsv"'
\copy shop.labelled FROM PROGRAM 'cat "$SERM_DEMO_DATA/judgments.tsv"'
ANALYZE shop.product, shop.query, shop.truth;
\copy shop.search_log FROM PROGRAM 'cat "$SERM_DEMO_DATA/search_log.tsv"'
ANALYZE shop.search_log;
