# What agents are asked: canaries among the data, examples of what people have graded, questions that compare.
use strict;
use warnings;

use IPC::Run qw(start);
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $mock = MockEndpoint->start;
my $port = $mock->port;

my $node = PostgreSQL::Test::Cluster->new('questions');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm'\nserm.launcher_interval = 1\nfsync = off\nserm.annotate_concurrency = 16\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm');
sub sql { return $node->safe_psql('postgres', $_[0]); }

sub add_agent
{
	my ($model, $name, $habit, $server, $agent) = @_;
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/$habit/v1', model 'mock'$server);
		SELECT serm.add_agent('$model', '$name', '" . ($agent || '{}') . "')");
}

# --- canaries: who obeys the data is an error each time, and soon suspended
sql(q{SELECT serm.create_model('canary', options => '{"gold_rate": 0, "rule": "unanimous"}')});
add_agent('canary', 'steady', 'v1', q{, paths '1', canary '1', temperature '0'});
add_agent('canary', 'obedient', 'obedient', q{, paths '1', canary '0.5', temperature '0'});
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'canary', 'blue pillow ' || i, i::text, 'a blue pillow ' || i FROM generate_series(1, 60) i});
my (undef, undef, $warning) = $node->psql('postgres', q{CALL serm.annotate('canary')});
is(sql(q{SELECT count(*) FILTER (WHERE canary), count(*) FILTER (WHERE NOT canary), count(*) FILTER (WHERE canary IS NULL), count(error) FROM serm.vote WHERE agent = 'steady'}),
	'0|60|0|0', 'a steady judge is shown every canary and obeys none');
my ($obeyed) = split(/\|/, sql(q{SELECT count(*), count(error), count(grade) FROM serm.vote WHERE agent = 'obedient' AND canary}));
is(sql(q{SELECT count(*) = count(error) AND count(grade) = 0 AND bool_and(error LIKE '%obeyed an instruction%') FROM serm.vote WHERE agent = 'obedient' AND canary}), 't',
	"an obedient one has $obeyed votes without a grade");
cmp_ok($obeyed, '>', 10, 'about half of them');
is($obeyed, $mock->count('canaries'), 'each where a canary was');
is(sql(q{SELECT count(*) FROM serm.vote WHERE agent = 'obedient' AND canary IS NULL AND error IS NOT NULL}), '0', 'it is not asked again for that, and else it is heard');
is(sql(q{SELECT count(*) FROM serm.vote WHERE agent = 'obedient'}), $mock->count('obedient'), 'one request for each vote');
like(sql(q{SELECT active || ' ' || reason FROM serm.agent WHERE name = 'obedient'}), qr/^false it obeyed \d+ of \d+ canaries/, 'it is suspended, and told why');
is(sql(q{SELECT count(*) FILTER (WHERE state = 'agreed' AND grade <> 3), count(*) FILTER (WHERE state NOT IN ('agreed', 'disputed')) FROM serm.sample WHERE model = 'canary'}),
	'0|0', 'no sample is settled by a vote that obeyed');
is(sql(q{SELECT canaries, obeyed FROM serm.stat_agent WHERE agent = 'steady'}), '60|0', 'statistics count canaries');
sql(q{SELECT serm.resume_agent('canary', 'obedient'); INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('canary', 'q', 'q', 'q'); CALL serm.annotate('canary')});
is(sql(q{SELECT active FROM serm.agent WHERE name = 'obedient'}), 't', 'whoever is resumed for good stays');

# --- examples
sql(q{SELECT serm.create_model('shown', options => '{"gold_rate": 0, "rule": "unanimous"}');
INSERT INTO serm.judgment (model, query, doc_id, doc, grade, source)
	SELECT 'shown', 'query ' || i, 'd' || i, 'document ' || i, least(i % 7, 3), CASE WHEN i % 5 = 0 THEN 'agents' ELSE 'human' END FROM generate_series(1, 200) i});
is(sql(q{SELECT serm.add_prompt('shown', options => '{"examples": 8, "seed": 3}')}), '1', 'a version of the prompt with examples');
is(sql(q{SELECT serm.add_prompt('shown', options => '{"examples": 8, "seed": 3}')}), '2', 'and another');
is(sql(q{SELECT a.examples = b.examples AND jsonb_array_length(a.examples) = 12 FROM serm.prompt a, serm.prompt b WHERE a.version = 1 AND b.version = 2}), 't', 'the same seed draws the same, with spares');
is(sql(q{SELECT string_agg(e ->> 'grade', '' ORDER BY e ->> 'grade') FROM serm.prompt p, jsonb_array_elements(p.examples) e WHERE version = 1 AND NOT (e ->> 'spare')::boolean}), '00112233', 'two of each grade');
is(sql(q{SELECT count(*) FROM serm.prompt p, jsonb_array_elements(p.examples) e LEFT JOIN serm.judgment j ON j.id = (e ->> 'judgment')::bigint
	WHERE j.source IS DISTINCT FROM 'human' OR serm.split_of(e ->> 'query', 0.2) <> 'train'}), '0', 'all by people, none of the test split');
is(sql(q{SELECT serm.add_prompt('shown', options => '{"examples": 8, "seed": 4}')}), '3', 'another seed');
is(sql(q{SELECT count(DISTINCT examples) FROM serm.prompt}), '2', 'draws others');
add_agent('shown', 'student', 'examples', q{, paths '1', canary '0', temperature '0'});
add_agent('shown', 'hurried', 'examples', q{, paths '1', canary '0', temperature '0'}, '{"examples": 3}');
# Two of the samples are examples themselves.
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'shown', e ->> 'query', e ->> 'doc_id', e ->> 'doc'
	FROM serm.prompt p, jsonb_array_elements(p.examples) e WHERE p.version = 3 ORDER BY (e ->> 'spare')::boolean, e ->> 'judgment' LIMIT 6});
sql(q{CALL serm.annotate('shown')});
is(sql(q{SELECT count(*), min(prompt), max(prompt) FROM serm.vote WHERE agent IN ('student', 'hurried') AND grade IS NOT NULL}), '12|3|3', 'the newest version is used');
is($mock->count('examples_8') . ' ' . $mock->count('examples_3') . ' ' . $mock->count('shown_itself'), '6 6 0', 'eight examples, or three, and never the pair itself');
sql(q{SELECT serm.add_prompt('shown', options => '{"examples": 8, "seed": 5}');
	INSERT INTO serm.sample (model, round, query, doc_id, doc) SELECT model, 1, query, doc_id, doc FROM serm.sample WHERE model = 'shown'});
sql(q{CALL serm.annotate('shown')});
is($mock->count('examples'), 24, 'with other examples it is another question');
sql(q{INSERT INTO serm.sample (model, round, query, doc_id, doc) SELECT model, 2, query, doc_id, doc FROM serm.sample WHERE model = 'shown' AND round = 0});
sql(q{CALL serm.annotate('shown')});
is($mock->count('examples'), 24, 'with the same ones it is known');

# --- comparing: fourteen queries of eight documents, four of which people have graded documents of their own
sub compared
{
	my ($model, $habit, $agent, $options) = @_;
	sql("SELECT serm.create_model('$model', options => '{\"gold_rate\": 0, \"rule\": \"weighted\", \"keep\": 1}')");
	add_agent($model, $model, $habit, ", temperature '0', canary '0'$options", $agent);
	sql("INSERT INTO serm.judgment (model, query, doc_id, doc, grade, source)
		SELECT '$model', 'one two three ' || chr(96 + q), 'k' || q || '.' || g, (ARRAY['nothing', 'one', 'one two', 'one two three ' || chr(96 + q)])[g + 1], g, 'human'
		  FROM generate_series(1, 14) q, generate_series(0, 3) g WHERE q % 3 = 0;
		INSERT INTO serm.sample (model, query, doc_id, doc)
		SELECT '$model', 'one two three ' || chr(96 + q), q || '.' || i,
			(ARRAY['nothing at all', 'one of them', 'one and two', 'one two three ' || chr(96 + q)])[i % 4 + 1] || repeat(' more', i / 4)
		  FROM generate_series(1, 14) q, generate_series(0, 7) i;
		CALL serm.annotate('$model')");
}
sub quality { return sql("SELECT corr(s.grade, substr(s.doc_id, strpos(s.doc_id, '.') + 1)::int % 4) FROM serm.sample s WHERE s.model = '$_[0]' AND s.state = 'agreed'"); }
for my $case ([ 'pairs', '{"form": "pair"}', 6, 6 * 112 ], [ 'lists', '{"form": "list", "documents": 5}', 2, 2 * 112 ])
{
	my ($model, $agent, $paths, $requests) = @$case;
	compared($model, 'compares', $agent, ", paths '$paths'");
	my $votes = "serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = '$model'";
	is(sql("SELECT count(*), count(v.places), count(v.grade), count(v.error) FROM $votes"), join('|', ($requests) x 3, 0), "$model: every vote has places and a grade");
	is(sql("SELECT count(*) FROM $votes AND (cardinality(v.compared) NOT IN (2, 5) OR NOT v.sample = ANY (v.compared)
		OR (SELECT count(DISTINCT c) FROM unnest(v.compared) c) <> cardinality(v.compared))"), '0', "$model: a sample is compared with others, each once");
	is(sql("SELECT count(*) FROM $votes AND EXISTS (SELECT FROM unnest(v.compared) c LEFT JOIN serm.sample o ON o.id = c LEFT JOIN serm.judgment j ON j.id = -c
		WHERE coalesce(o.query, j.query) IS DISTINCT FROM s.query)"), '0', "$model: of its own query");
	is(sql("SELECT count(DISTINCT s.query) FROM $votes AND EXISTS (SELECT FROM unnest(v.compared) c WHERE c < 0)"),
		sql("SELECT count(DISTINCT query) FROM serm.judgment j WHERE model = '$model' AND source = 'human' AND serm.split_of(query, 0.2) = 'train'"),
		"$model: with what people have graded, but for the test split");
	is(sql("SELECT count(DISTINCT v.grade) FROM $votes GROUP BY v.sample HAVING count(DISTINCT v.grade) <> 1"), '', "$model: one grade for each sample");
	is(sql("SELECT count(*) FILTER (WHERE state = 'agreed'), count(*) FROM serm.sample WHERE model = '$model'"), '112|112', "$model: all are settled");
	cmp_ok(quality($model), '>', 0.85, "$model: the grades are those of the documents: " . quality($model));
	my $asked = $mock->count('compares');
	sql("INSERT INTO serm.sample (model, round, query, doc_id, doc) SELECT model, 1, query, doc_id, doc FROM serm.sample WHERE model = '$model' ORDER BY id; CALL serm.annotate('$model')");
	cmp_ok(sql("SELECT count(*) FROM $votes AND s.round = 1 AND v.grade IS NOT NULL"), '==', $requests, "$model: the same documents in another round");
	is($mock->count('compares') - $asked + sql("SELECT count(*) FROM $votes AND s.round = 1 AND v.cached"), $requests, "$model: one request or one known answer for each vote");
}
is(sql(q{SELECT count(*) FROM serm.vote a JOIN serm.vote b ON b.sample = a.sample AND b.agent = a.agent AND b.path = a.path + 1
	WHERE a.agent = 'pairs' AND a.path % 2 = 1 AND (a.compared[1], a.compared[2]) IS DISTINCT FROM (b.compared[2], b.compared[1])}), '0', 'two paths show the same two documents in both orders');

# --- a judge that prefers what it sees first says of equals now the one, now the other
compared('biased', 'first', '{"form": "pair"}', q{, paths '6'});
cmp_ok(sql(q{SELECT avg((places[1] = 1)::int) FROM serm.vote WHERE agent = 'biased'}), '>', 0.6, 'it prefers the first');
cmp_ok(quality('biased'), '>', 0.8, 'in both orders that cancels: ' . quality('biased'));

# --- where agents differ those who compare are asked more, too
sql(q{SELECT serm.create_model('more', options => '{"gold_rate": 0, "rule": "unanimous", "extra_paths": 2}')});
add_agent('more', 'more_pairs', 'compares', q{, paths '2', canary '0'}, '{"form": "pair"}');
add_agent('more', 'more_top', 'top', q{, paths '1', canary '0'});
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'more', 'blue pillow', i::text, (ARRAY['a blue pillow', 'a pillow', 'nothing'])[i % 3 + 1] FROM generate_series(1, 6) i;
	CALL serm.annotate('more')});
is(sql(q{SELECT count(*) > 0, count(*) = count(v.places), count(*) = count(v.grade), bool_and(v.path > 2) FROM serm.vote v WHERE v.agent = 'more_pairs' AND v.extra}), 't|t|t|t', 'extra paths compare');
is(sql(q{SELECT count(*) FROM (SELECT FROM serm.vote WHERE agent = 'more_pairs' GROUP BY sample HAVING count(DISTINCT grade) > 1) x}), '0', 'and the grade is that of all comparisons');

# --- alone with its query a document is graded by itself
sql(q{SELECT serm.create_model('alone', options => '{"gold_rate": 0, "rule": "unanimous"}')});
add_agent('alone', 'alone', 'compares', q{, paths '2', canary '0'}, '{"form": "pair"}');
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('alone', 'blue pillow', '1', 'a blue pillow'); CALL serm.annotate('alone')});
is(sql(q{SELECT s.state, s.grade, count(v.places), count(v.compared) FROM serm.sample s JOIN serm.vote v ON v.sample = s.id WHERE s.model = 'alone' GROUP BY s.id}), 'agreed|3|0|0', 'alone');

# --- a crash between the votes and their grades, and in the middle of storing them
sql(q{SELECT serm.create_model('crashed', options => '{"gold_rate": 0, "rule": "unanimous"}')});
add_agent('crashed', 'crashed', 'compares', q{, paths '2', temperature '0', canary '0'}, '{"form": "list", "documents": 3}');
add_agent('crashed', 'beside', 'compares', q{, paths '2', temperature '0', canary '0'}, '{"form": "pair"}');
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'crashed', 'blue pillow ' || i % 20, i::text, (ARRAY['a blue pillow', 'a pillow', 'nothing'])[i % 3 + 1] FROM generate_series(1, 100) i;
	CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END$$;
	CREATE TRIGGER slowly BEFORE UPDATE OR INSERT ON serm.vote FOR EACH ROW EXECUTE FUNCTION slowly()});
for my $delay (700_000, 1_500_000, 2_500_000)
{
	my $call = start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', q{CALL serm.annotate('crashed')} ], '>', '/dev/null', '2>', '/dev/null');
	usleep($delay);
	$node->stop('immediate');
	$call->finish;
	$node->start;
}
sql(q{DROP TRIGGER slowly ON serm.vote; CALL serm.annotate('crashed')});
is(sql(q{SELECT count(*), count(DISTINCT (v.sample, v.agent, v.path)), count(v.places), count(v.grade) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'crashed'}),
	'400|400|400|400', 'after crashes no answer is lost or there twice');
is(sql(q{SELECT count(*) FROM serm.sample WHERE model = 'crashed' AND state IN ('waiting', 'annotating')}), '0', 'all are settled');
is(sql(q{SELECT count(*) FROM serm.task}), '0', 'nothing is owed');

$node->stop;
done_testing();
