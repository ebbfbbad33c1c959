-- What pg_dump takes along: everything but the queue and the progress. One statement each: all update one catalog row.
SELECT pg_catalog.pg_extension_config_dump('serm.model', '');
SELECT pg_catalog.pg_extension_config_dump('serm.version', '');
SELECT pg_catalog.pg_extension_config_dump('serm.tensor', '');
SELECT pg_catalog.pg_extension_config_dump('serm.deployment', '');
SELECT pg_catalog.pg_extension_config_dump('serm.judgment', '');
SELECT pg_catalog.pg_extension_config_dump('serm.round', '');
SELECT pg_catalog.pg_extension_config_dump('serm.sample', '');
SELECT pg_catalog.pg_extension_config_dump('serm.agent', '');
SELECT pg_catalog.pg_extension_config_dump('serm.reliability', '');
SELECT pg_catalog.pg_extension_config_dump('serm.prompt', '');
SELECT pg_catalog.pg_extension_config_dump('serm.vote', '');
SELECT pg_catalog.pg_extension_config_dump('serm.spending', '');
SELECT pg_catalog.pg_extension_config_dump('serm.deployment_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('serm.judgment_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('serm.sample_id_seq', '');
