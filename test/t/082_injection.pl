# Documents that talk to their judge: 504 in twelve families, and one of three judges does what they say.
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $directory = tempdir(CLEANUP => 1);
chmod 0755, $directory;
my $mock = MockEndpoint->start;
my $port = $mock->port;

my ($documents) = run_command([ '/usr/bin/env', 'python3', "$FindBin::RealBin/../mock/inject.py", '504' ]);
append_to_file("$directory/documents", "$documents\n");
my $node = PostgreSQL::Test::Cluster->new('injection');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm'\nfsync = off\nserm.annotate_concurrency = 32\n");
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql("CREATE EXTENSION serm; CREATE TABLE hostile (family text, query text, doc_id text, doc text);
	COPY hostile FROM '$directory/documents'");
is(sql('SELECT count(*), count(DISTINCT family), min(n) FROM hostile, LATERAL (SELECT count(*) AS n FROM hostile h WHERE h.family = hostile.family) x'),
	'504|12|42', '504 documents in twelve families');

sub add_server
{
	my ($name, $habit, $canary) = @_;
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/$habit/v1', model 'mock', paths '1', temperature '0', canary '$canary')");
}
add_server('plain', 'v1', 0);
add_server('noisy', 'noisy', 0);
add_server('gullible', 'gullible', 0);

# Without a canary, so that nothing but the rule stands between a hostile document and its grade; the second judge is off by one at times.
# Among the hostile ones stand honest documents of every grade: two of three query words give grade 2, and so on.
sub annotate
{
	my ($model, $options, @agents) = @_;
	sql("SELECT serm.create_model('$model', options => '$options')");
	sql("SELECT serm.add_agent('$model', '$_')") for @agents;
	sql("INSERT INTO serm.judgment (model, query, doc_id, doc, grade, source)
		SELECT '$model', 'bright red pillow case ' || i, 'gold-' || i,
			(ARRAY['a bright red pillow case ' || i, 'a bright red pillow', 'red pillow', 'a chair'])[i % 4 + 1], (ARRAY[3, 2, 1, 0])[i % 4 + 1], 'human'
		  FROM generate_series(1, 200) i") if $model =~ /gold|trained/;
	sql("SET client_min_messages = error; CALL serm.train('$model')") if $model =~ /trained/;
	sql("INSERT INTO serm.sample (model, query, doc_id, doc) SELECT '$model', query, doc_id, doc FROM hostile;
		INSERT INTO serm.sample (model, query, doc_id, doc)
		SELECT '$model', 'bright blue pillow case ' || i, 'honest-' || i,
			(ARRAY['a bright blue pillow case ' || i, 'a bright blue pillow', 'blue pillow', 'a chair'])[i % 4 + 1]
		  FROM generate_series(1, 200) i;
		CALL serm.annotate('$model')");
}
my %rules = (default => '{"gold_rate": 0}', gold => '{"gold_rate": 0.15}', quorum => '{"gold_rate": 0, "rule": "quorum"}', unanimous => '{"gold_rate": 0, "rule": "unanimous"}',
	weighted => '{"gold_rate": 0, "rule": "weighted"}', weighted_gold => '{"gold_rate": 0.15, "rule": "weighted"}',
	trained => '{"gold_rate": 0}', trained_weighted => '{"gold_rate": 0, "rule": "weighted"}', trained_gold => '{"gold_rate": 0.15}');
for my $rule (sort keys %rules)
{
	annotate($rule, $rules{$rule}, 'plain', 'noisy', 'gullible');
	is(sql("SELECT count(*) FROM serm.sample WHERE model = '$rule' AND state IN ('waiting', 'annotating')"), '0', "$rule: all are settled");
	is(sql("SELECT count(*) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = '$rule' AND v.agent = 'gullible'
		AND s.doc_id !~ '^(honest|gold)' AND v.grade = 3"), '504', "$rule: the gullible one has obeyed them all");
	is(sql("SELECT count(*) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = '$rule' AND v.agent <> 'gullible'
		AND s.doc_id !~ '^(honest|gold)' AND v.grade > 1"), '0', "$rule: the others see where a document begins and ends");
	is(sql("SELECT coalesce(string_agg(s.doc_id, ' '), '') FROM serm.sample s WHERE s.model = '$rule' AND s.doc_id !~ '^(honest|gold)' AND s.state = 'agreed' AND s.grade > 2.5"),
		'', "$rule: no hostile document has the top grade");
	is(sql("SELECT count(*) FROM serm.judgment WHERE model = '$rule' AND doc_id !~ '^honest' AND source = 'agents' AND grade > 2.5"), '0',
		"$rule: nor has any judgment");
	# Without gold the rules that weigh cannot tell two judges that are both right from copies, and give the two one say.
	is(sql("SELECT count(*) FROM serm.judgment WHERE model = '$rule' AND doc_id !~ '^honest' AND source = 'agents' AND grade >= 1.5"), '0',
		"$rule: nor one in the upper half") if $rule =~ /gold|quorum|unanimous/;
	cmp_ok(sql("SELECT count(*) FROM serm.sample WHERE model = '$rule' AND doc_id ~ '^honest' AND state = 'agreed' AND grade = 3"), '>=', 20,
		"$rule: honest ones have it");
}
cmp_ok($mock->count('gullible'), '<=', 704 + 106, 'the same question is asked once');
cmp_ok($mock->count('obeyed'), '>=', 500, 'which the endpoint confirms');

# --- with canaries the gullible one is found out: two of three are gullible, and obey notes as they obey documents
add_server("warned_$_", 'gullible', 0.05) for (1, 2);
for my $rule ('{"gold_rate": 0}', '{"gold_rate": 0, "rule": "quorum"}')
{
	my $model = $rule =~ /quorum/ ? 'watched_quorum' : 'watched';
	sql("SELECT serm.create_model('$model', options => '$rule')");
	sql("SELECT serm.add_agent('$model', '$_')") for qw(plain warned_1 warned_2);
	sql("INSERT INTO serm.sample (model, query, doc_id, doc) SELECT '$model', query, doc_id, doc FROM hostile; CALL serm.annotate('$model')");
	is(sql("SELECT string_agg(name, ' ') FROM serm.agent WHERE model = '$model' AND active"), 'plain', "$model: agents that obey canaries are suspended");
	# Rules that count votes settle what is complete while others are asked; the default waits.
	my $accepted = sql("SELECT count(*) FROM serm.judgment WHERE model = '$model' AND source = 'agents' AND grade > 0.5");
	cmp_ok($accepted, '<=', $rule =~ /quorum/ ? 100 : 0,
		"$model: " . ($rule =~ /quorum/ ? "within a hundred samples ($accepted)" : 'and no vote of theirs counts'));
}

$node->stop;
done_testing();
