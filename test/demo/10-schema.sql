-- The shop of the demo: what any shop has (products and a search log), and the truth that only its simulation knows.

CREATE SCHEMA shop;

CREATE TABLE shop.product (
	doc_id text PRIMARY KEY,
	title text NOT NULL,
	body text NOT NULL,
	-- The first line of a document is its title, the rest its body.
	doc text NOT NULL GENERATED ALWAYS AS (title || E'\n' || body) STORED
);

CREATE TABLE shop.search_log (
	query text NOT NULL,
	doc_id text NOT NULL,
	shown_at timestamptz NOT NULL,
	position integer NOT NULL,
	clicked boolean NOT NULL,
	dwell_ms integer,
	session_id text NOT NULL
);

-- Hidden from the model: every grade, and which queries belong to the new season.
CREATE TABLE shop.query (
	query_id text PRIMARY KEY,
	query text NOT NULL,
	segment text NOT NULL,
	sessions integer NOT NULL
);
CREATE TABLE shop.truth (
	query_id text NOT NULL REFERENCES shop.query,
	doc_id text NOT NULL REFERENCES shop.product,
	grade integer NOT NULL,
	PRIMARY KEY (query_id, doc_id)
);
-- What the shop's people had graded before the season began.
CREATE TABLE shop.labelled (
	query_id text NOT NULL REFERENCES shop.query,
	doc_id text NOT NULL REFERENCES shop.product,
	grade integer NOT NULL,
	PRIMARY KEY (query_id, doc_id)
);

-- A number in [0, 1) that depends on the key alone: seeded randomness which is the same on every machine.
CREATE FUNCTION shop.noise(key text) RETURNS double precision
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN (('x' || pg_catalog.substr(pg_catalog.md5(key), 1, 8))::bit(32)::bigint) / 4294967296.0;

-- The first stage of the shop, and the baseline of the table: any word may match, the title counts most.
CREATE FUNCTION shop.first_stage(query text, title text, body text) RETURNS real
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN ts_rank_cd(setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', body), 'D'),
		replace(plainto_tsquery('english', query)::text, '&', '|')::tsquery);
