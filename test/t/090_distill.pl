# A teacher behind an endpoint: what is asked, kept, paid and refused; faults, cancels, crashes, keys.
use strict;
use warnings;

use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $mock = MockEndpoint->start;
my $port = $mock->port;

my $node = PostgreSQL::Test::Cluster->new('distill');
$node->init;
$node->append_conf('postgresql.conf', "log_statement = none\nfsync = off\nrestart_after_crash = on\nserm.annotate_concurrency = 8\nshared_preload_libraries = 'serm'\n");
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub fails { my ($out, $err) = ('', ''); $node->psql('postgres', "\\set VERBOSITY verbose\n$_[0]", stdout => \$out, stderr => \$err); return $err; }

sql(q{
	CREATE EXTENSION serm;
	CREATE TABLE product (doc_id text PRIMARY KEY, doc text);
	INSERT INTO product SELECT colour || '-' || thing, format(E'%s %s\nA %s %s for home', colour, thing, colour, thing)
	  FROM unnest('{red,blue,green,black}'::text[]) AS colour, unnest('{shoe,lamp,chair,table,sofa}'::text[]) AS thing;
	CREATE TABLE log AS SELECT replace(q.doc_id, '-', ' ') AS query, d.doc_id, now() AS shown_at, 1 AS position, false AS clicked
	  FROM product q, product d;
	SELECT serm.create_model('student', documents => 'product', log => 'log');
});
my $short = '"heads": 1, "epochs": 3, "pretrain_epochs": 1';

# A remote model of one habit.
sub remote
{
	my ($name, $habit, $server_options, $options) = @_;
	$server_options = $server_options ? ", $server_options" : '';
	$options = $options ? ", $options" : '';
	sql(qq{CREATE SERVER s_$name FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/$habit/v1', model 'mock'$server_options);
		SELECT serm.create_model('$name', 'remote', options => '{"server": "s_$name"$options}')});
}

sub distill { return sql(qq{SET client_min_messages = warning; CALL serm.distill('student', '$_[0]', '{$short, $_[1]}')}); }

# --- a teacher in order

remote('gpt', 'lp');
distill('gpt', '"unlabelled": 60');
is($mock->count('lp'), 60, 'each pair is asked for once');
is(sql(q{SELECT config @> '{"teacher": "gpt", "teacher_version": null, "teacher_kind": "remote", "teacher_server": "s_gpt", "teacher_grades": 4}'
	AND counts @> '{"taught": 60, "taught_failed": 0}' FROM serm.version}), 't', 'the version names its teacher');
is(sql('SELECT count(*), bool_and(abs((SELECT sum(p) FROM unnest(probability) p) - 1) < 1e-5) FROM serm._answer'), '60|t', 'the answers are kept');
distill('gpt', '"unlabelled": 60, "alpha": 1, "loss": "kl"');
is($mock->count('lp'), 60, 'what was answered is not asked again');
sql(q{UPDATE serm.model SET options = options || '{"prompt": "Grade as a librarian would."}' WHERE name = 'gpt'});
distill('gpt', '"unlabelled": 10');
is($mock->count('lp'), 70, 'another prompt is another question');
is($mock->saw('librarian'), 1, 'with its own instructions');
distill('gpt', '"unlabelled": 400, "epochs": 30');
cmp_ok(sql(q{SELECT corr(serm.score_version(l.query, p.doc, 'student', 4), length(l.query) - length(replace(p.doc_id, '-', ' ')))
	IS NOT NULL AND avg(serm.score_version(l.query, p.doc, 'student', 4)) FILTER (WHERE replace(l.doc_id, '-', ' ') = l.query) >
	avg(serm.score_version(l.query, p.doc, 'student', 4)) FILTER (WHERE replace(l.doc_id, '-', ' ') <> l.query) + 1 FROM log l JOIN product p USING (doc_id)}),
	'eq', 't', 'the student follows');
remote('bare', 'lpbare');
distill('bare', '"unlabelled": 20');
is(sql(q{SELECT (SELECT count(*) FROM serm._answer a WHERE a.model = 'bare' AND EXISTS (SELECT FROM serm._answer b WHERE b.model = 'gpt'
	AND (SELECT max(abs(x - y)) FROM unnest(a.probability, b.probability) AS u(x, y)) < 1e-4)) > 0}), 't', 'tokens with and without a blank add up');

# --- evidence: what a function says of a pair stands in the question

sql(q{CREATE TABLE fact (thing text, word text);
	INSERT INTO fact VALUES ('shoe', 'WORN-ON-FEET'), ('lamp', 'GIVES-LIGHT');
	CREATE FUNCTION knows(query text, doc text) RETURNS text LANGUAGE sql AS $$SELECT word FROM fact WHERE doc LIKE '%' || thing || '%'$$;
	CREATE FUNCTION knows_some(query text, doc text) RETURNS text LANGUAGE plpgsql AS $$BEGIN
		IF doc LIKE '%sofa%' THEN RAISE EXCEPTION 'nothing of sofas'; END IF; RETURN 'COMFORT'; END$$});
remote('evident', 'lp', '', '"evidence": "public.knows"');
distill('evident', '"unlabelled": 400');
is($mock->saw('WORN-ON-FEET') . $mock->saw('GIVES-LIGHT'), '11', 'the teacher sees the evidence');
is(sql(q{SELECT config ->> 'teacher_evidence' FROM serm.version ORDER BY version DESC LIMIT 1}), 'public.knows', 'the version says whose it was');
my $asked = $mock->count('lp');
distill('evident', '"unlabelled": 400');
is($mock->count('lp'), $asked, 'with the same evidence nothing is asked again');
sql(q{UPDATE fact SET word = 'LIGHTS-UP' WHERE thing = 'lamp'});
distill('evident', '"unlabelled": 400');
is($mock->count('lp') - $asked, sql(q{SELECT count(*) FROM log JOIN product USING (doc_id) WHERE doc LIKE '%lamp%' AND serm.split_of(query) = 'train'}),
	'with other evidence those pairs are');
sql(q{UPDATE serm.model SET options = options || '{"evidence": "public.knows_some"}' WHERE name = 'evident'});
like(fails(qq{CALL serm.distill('student', 'evident', '{$short, "unlabelled": 400}')}),
	qr/ERROR:  38000: .*The last one: the evidence function failed: P0001: nothing of sofas/s, 'pairs whose evidence fails have no answer');
distill('evident', '"unlabelled": 400, "failed_share": 0.5');
is(sql(q{SELECT counts ->> 'taught_failed' FROM serm.version ORDER BY version DESC LIMIT 1}),
	sql(q{SELECT count(*) FROM log JOIN product USING (doc_id) WHERE doc LIKE '%sofa%' AND serm.split_of(query) = 'train'}), 'and are counted');

sql(q{CREATE TABLE age (of_transaction interval);
	CREATE FUNCTION knows_slowly(query text, doc text) RETURNS text LANGUAGE plpgsql AS $$BEGIN
		INSERT INTO age VALUES (clock_timestamp() - transaction_timestamp()); PERFORM pg_sleep(0.1); RETURN 'SLOWLY'; END$$;
	UPDATE serm.model SET options = options || '{"evidence": "public.knows_slowly"}' WHERE name = 'evident'});
distill('evident', '"unlabelled": 30');
is(sql(q{SELECT count(*), max(of_transaction) < '2 s' FROM age}), '30|t', 'evidence that takes long is asked for once, and holds no transaction open for all of it');

# --- it scores in no statement, and is nobody's student

like(fails(q{SELECT serm.score('a', 'b', 'gpt')}), qr/ERROR:  0A000: .*HINT:  .*serm\.distill/s, 'serm.score refuses it and says what it is for');
like(fails(q{SELECT * FROM serm.rank('a', ARRAY['b'], 'gpt', 1)}), qr/ERROR:  0A000/, 'serm.rank does');
like(fails(q{CALL serm.train('gpt')}), qr/ERROR:  0A000/, 'serm.train does');
like(fails(q{CALL serm.distill('gpt', 'student')}), qr/ERROR:  0A000/, 'it is no student');
like(fails(q{CALL serm.distill('student', 'gpt', '{"teacher_version": 1}')}), qr/ERROR:  22023/, 'it has no versions');
like(fails(q{SELECT serm.create_model('x', 'remote')}), qr/ERROR:  22023: .*server/s, 'it needs a server');
like(fails(q{SELECT serm.create_model('x', 'remote', options => '{"server": "nobody"}')}), qr/ERROR:  42704: .*CREATE SERVER/s, 'that exists');
like(fails(q{SELECT serm.create_model('x', options => '{"server": "s_gpt"}')}), qr/ERROR:  22023: .*server/s, 'which other kinds do not know');
like(fails(q{SELECT serm.alter_model('gpt', '{"server": "nobody"}')}), qr/ERROR:  42704/, 'also when it is changed');
sql(q{CREATE SERVER bareserver FOREIGN DATA WRAPPER serm_agent; SELECT serm.create_model('noend', 'remote', options => '{"server": "bareserver"}')});
like(fails(q{CALL serm.distill('student', 'noend')}), qr/ERROR:  55000: .*endpoint/s, 'a server without an endpoint');

# --- replies that are none

for my $habit (qw(lpnone lpnan lphuge lptype lptwice lptalk garbage empty huge deep notutf8 close redirect 401 400))
{
	remote("r_$habit", $habit, "max_attempts '1', timeout_ms '5000'");
	my $error = fails(qq{CALL serm.distill('student', 'r_$habit', '{$short, "unlabelled": 6}')});

	like($error, qr/ERROR:  38000: .*gave no answer to \d of 6 pairs/, "$habit: a clear error");
	is(sql(qq{SELECT count(*) FROM serm._answer WHERE model = 'r_$habit'}), 0, "$habit: nothing is kept");
}
is($mock->count('secret'), 0, 'no redirect is followed');
is(sql('SELECT 1'), 1, 'the server is alive');
my $versions = sql('SELECT count(*) FROM serm.version');
remote('flaky', 'lpflaky', "outage_s '30'");
distill('flaky', '"unlabelled": 80, "failed_share": 0.9');
is(sql(q{SELECT (counts ->> 'taught')::int + (counts ->> 'taught_failed')::int = 80 AND (counts ->> 'taught_failed')::int BETWEEN 1 AND 60
	AND (counts ->> 'taught')::int = (SELECT count(*) FROM serm._answer WHERE model = 'flaky') FROM serm.version ORDER BY version DESC LIMIT 1}), 't',
	'pairs without an answer are skipped and counted');

# --- where requests may go

sql(qq{CREATE SERVER inside FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'https://169.254.169.254/v1', model 'm', max_attempts '1');
	SELECT serm.create_model('inside', 'remote', options => '{"server": "inside"}')});
like(fails(qq{CALL serm.distill('student', 'inside', '{$short, "unlabelled": 3}')}), qr/ERROR:  38000: .*serm\.allow_cidr/s, 'addresses are checked');
sql(q{CREATE ROLE guest LOGIN; SELECT serm.grant_access('guest', 'operate'); GRANT SELECT ON product, log TO guest});
like(fails(qq{SET ROLE guest; CALL serm.distill('student', 'gpt', '{$short, "unlabelled": 3}')}), qr/ERROR:  42501: .*server/s, 'USAGE of the server is needed');

# --- keys

my $key = 'sk-distill-0123456789abcdef';
remote('keyed', 'lp');
sql("CREATE USER MAPPING FOR CURRENT_USER SERVER s_keyed OPTIONS (api_key '$key')");
distill('keyed', '"unlabelled": 5');
is($mock->saw("Bearer"), 1, 'a key is sent');
is($mock->saw("$key"), 1, 'and it is that of the caller');
remote('echo', '401');
sql("CREATE USER MAPPING FOR CURRENT_USER SERVER s_echo OPTIONS (api_key '$key')");
unlike(fails(qq{CALL serm.distill('student', 'echo', '{$short, "unlabelled": 3}')}), qr/\Q$key\E/, 'no error tells it');
unlike(slurp_file($node->logfile), qr/\Q$key\E/, 'nor does the log');

# --- money and rates

remote('dear', 'lp', "price_prompt '1000', price_completion '1000'", '"budget": 8');
like(fails(qq{CALL serm.distill('student', 'dear', '{$short, "unlabelled": 60}')}), qr/ERROR:  53400: .*budget.*alter_model/s, 'a budget holds');
my ($spent, $known) = split /\|/, sql(q{SELECT (SELECT sum(spent) FROM serm.spending WHERE model = 'dear'), (SELECT count(*) FROM serm._answer WHERE model = 'dear')});
ok($spent > 0 && $spent <= 8 && $known > 0, "to the last: $spent spent on $known answers");
sql(q{SELECT serm.alter_model('dear', '{"budget": 1000}')});
my $before = $mock->count('lp');
distill('dear', '"unlabelled": 60');
is($mock->count('lp') - $before, 60 - $known, 'what was paid for is not paid again');
remote('rated', 'lp', "requests_per_minute '600'");
my $started = time;
distill('rated', '"unlabelled": 30');
cmp_ok(time - $started, '>', 1.5, 'rates are kept');
remote('gone', '500', "outage_s '1', max_attempts '20'");
like(fails(qq{CALL serm.distill('student', 'gone', '{$short, "unlabelled": 40}')}), qr/ERROR:  (08006|38000)/, 'nobody waits for ever');

# --- cancels and crashes

remote('sleeper', 'lpsleep');
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_until(qr/go/, qq{\\echo go\nCALL serm.distill('student', 'sleeper', '{$short, "unlabelled": 40}');\n});
for (1 .. 200) { last if $mock->count('lpsleep') > 0; usleep(50_000); }
is(sql("SELECT phase, step, steps FROM serm.progress WHERE pid = $pid"), 'teaching|0|40', 'its progress is seen');
is(sql("SELECT backend_xid IS NULL AND backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $pid"), 't', 'no snapshot or transaction id is held meanwhile');
is(sql("SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype NOT IN ('virtualxid')"), 0, 'and no lock');
$started = time;
sql("SELECT pg_cancel_backend($pid)");
$node->poll_query_until('postgres', "SELECT state <> 'active' FROM pg_stat_activity WHERE pid = $pid");
cmp_ok(time - $started, '<', 1.0, 'a cancel is heard at once');
like(scalar $session->query('SELECT 42'), qr/42/, 'the session goes on');
remote('slow', 'lpslow');
$session->query_until(qr/go/, qq{\\echo go\nCALL serm.distill('student', 'slow', '{$short, "unlabelled": 100}');\n});
$node->poll_query_until('postgres', q{SELECT count(*) > 20 FROM serm._answer WHERE model = 'slow'});
kill 'KILL', $pid;
eval { $session->quit; };
for (1 .. 100) { last if $node->psql('postgres', 'SELECT 1') == 0; usleep(100_000); }
$node->poll_query_until('postgres', 'SELECT true');
$known = sql(q{SELECT count(*) FROM serm._answer WHERE model = 'slow'});
cmp_ok($known, '>', 20, 'a crash keeps what was answered');
$before = $mock->count('lpslow');
distill('slow', '"unlabelled": 100');
is($mock->count('lpslow') - $before, 100 - $known, 'and it is not asked again');
is(sql('SELECT count(*) FROM serm._progress'), 0, 'nothing is left behind');

done_testing();
