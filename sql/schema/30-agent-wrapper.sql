CREATE FUNCTION serm._agent_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'serm_agent_validator';
COMMENT ON FUNCTION serm._agent_validator(text[], oid) IS 'check the options of servers and user mappings of wrapper serm_agent';

-- No handler: these servers are asked for grades, not for tables.
CREATE FOREIGN DATA WRAPPER serm_agent VALIDATOR serm._agent_validator NO HANDLER;
COMMENT ON FOREIGN DATA WRAPPER serm_agent IS 'agents that grade pairs: OpenAI-compatible chat completion endpoints';
