CREATE SERVER judge_http FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint :'endpoint', model 'mock', paths '3');
CREATE USER MAPPING FOR CURRENT_USER SERVER judge_http OPTIONS (api_key 'demo');
SELECT serm.add_agent('products', 'shop.lenient_judge(text, text)'::regprocedure) \g /dev/null
SELECT serm.add_agent('products', 'shop.strict_judge(text, text)'::regprocedure) \g /dev/null
SELECT serm.add_agent('products', 'judge_http'::name) \g /dev/null

-- The first round sees the log until the season's first week is over, the second all of it. Some forty test queries cannot
-- tell half a point of NDCG from noise: this shop lets the gate accept a risk of five points.
CALL serm.evolve('products', '{"budget": 1000, "until": "2026-04-06 00:00:00+00", "mine": {"min_impressions": 8},
	"gate": {"margin": 0.05}}'::jsonb || jsonb_build_object('train', jsonb_build_object('seed', :seed)));
CALL serm.evolve('products', '{"budget": 1000, "until": "2026-04-13 00:00:00+00", "mine": {"min_impressions": 8},
	"gate": {"margin": 0.05}}'::jsonb || jsonb_build_object('train', jsonb_build_object('seed', :seed)));
