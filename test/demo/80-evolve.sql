CREATE SERVER judge_http FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint :'endpoint', model 'mock', paths '3');
CREATE USER MAPPING FOR CURRENT_USER SERVER judge_http OPTIONS (api_key 'demo');
SELECT serm.add_agent('products', 'shop.lenient_judge(text, text)'::regprocedure);
SELECT serm.add_agent('products', 'shop.strict_judge(text, text)'::regprocedure);
SELECT serm.add_agent('products', 'judge_http'::name);

-- The first round sees the log until the season's first week is over, the second all of it.
CALL serm.evolve('products', '{"budget": 400, "until": "2026-04-06 00:00:00+00", "mine": {"min_impressions": 8}}');
CALL serm.evolve('products', '{"budget": 400, "until": "2026-04-13 00:00:00+00", "mine": {"min_impressions": 8}}');
