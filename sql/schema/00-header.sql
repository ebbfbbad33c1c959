-- serm: tables and types, run once at CREATE EXTENSION.
\echo Use "CREATE EXTENSION serm" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

-- A plain CREATE: a schema of this name that exists already makes the install fail instead of being adopted.
CREATE SCHEMA serm;
COMMENT ON SCHEMA serm IS 'search relevance that learns by itself';
