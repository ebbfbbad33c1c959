CREATE SERVER judge_http FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint :'endpoint', model 'mock', paths '3');
CREATE USER MAPPING FOR CURRENT_USER SERVER judge_http OPTIONS (api_key 'demo');
SELECT serm.add_agent('products', 'shop.lenient_judge(text, text)'::regprocedure);
SELECT serm.add_agent('products', 'shop.strict_judge(text, text)'::regprocedure);
SELECT serm.add_agent('products', 'judge_http'::name);

CALL serm.evolve('products');
CALL serm.evolve('products');
