# What servers may be asked: rates, rests, outages, money, and answers that are known already.
use strict;
use warnings;

use IO::Socket::INET;
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $mock = MockEndpoint->start;
my $port = $mock->port;

my $node = PostgreSQL::Test::Cluster->new('limits');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'serm'
serm.launcher_interval = 1
max_worker_processes = 16
restart_after_crash = on
fsync = off
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# A model with one agent of one habit and its samples.
sub make_model
{
	my ($name, $habit, $options, $samples, $model_options) = @_;
	$model_options ||= '{}';
	sql(qq{SELECT serm.create_model('$name', options => '$model_options');
		CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent
			OPTIONS (endpoint 'http://127.0.0.1:$port/$habit/v1', model 'mock', paths '1', $options);
		SELECT serm.add_agent('$name', '$name');
		INSERT INTO serm.sample (model, query, doc_id, doc)
		SELECT '$name', 'blue pillow ' || i, 'd' || i, 'a blue pillow ' || i FROM generate_series(1, $samples) AS i});
}

# --- rates: 240 requests a minute are four a second, whoever asks
make_model('paced', 'clock', q{requests_per_minute '240'}, 25);
sql(q{CREATE ROLE other LOGIN; SELECT serm.grant_access('other', 'operate'); GRANT USAGE ON FOREIGN SERVER paced TO other;
	SELECT serm.create_model('paced_too'); SELECT serm.add_agent('paced_too', 'paced');
	INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'paced_too', query, doc_id, doc || ' too' FROM serm.sample WHERE model = 'paced'});
my $started = time;
$node->safe_psql('postgres', q{CALL serm.annotate('paced_too', false)}, extra_params => [ '-U', 'other' ]);
sql(q{CALL serm.annotate('paced', false)});
$node->poll_query_until('postgres', q{SELECT count(DISTINCT usename) = 2 FROM pg_stat_activity WHERE backend_type = 'serm annotator'})
	or fail('two roles ask at once');
sql(qq{CALL serm.annotate('$_')}) for qw(paced paced_too);
my $seconds = time - $started;
is(sql(q{SELECT count(v.grade) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model LIKE 'paced%'}), '50', 'a paced server answers all');
cmp_ok($mock->count('asked_ms'), '>', 10_500, 'over the time that its rate takes');
cmp_ok($seconds, '<', 30, 'and not much more');
cmp_ok($mock->count('within_10s'), '<=', 46, 'never faster than its rate');

# --- a rate that is no hindrance costs no time: slots are filled as they come free, while another server is slow
make_model('dragging', 'slow', q{requests_per_minute '200'}, 30);
make_model('hasty', 'v1', q{requests_per_minute '60000'}, 600);
sql(q{CALL serm.annotate('dragging', false)});
$started = time;
sql(q{CALL serm.annotate('hasty')});
cmp_ok(time - $started, '<', 6, 'a server with a generous rate is kept busy');

# --- 429 and 503: they cost patience, not attempts
make_model('patient', 'patience', q{max_attempts '1'}, 20);
sql(q{CALL serm.annotate('patient')});
is(sql(q{SELECT count(v.grade), count(error) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'patient'}), '20|0',
	'a server that refuses loses nothing, even with a single attempt');
is($mock->count('patience'), 30, 'each refusal is asked for once more');
is(sql(q{SELECT count(*) FROM serm.stat_server WHERE server = 'patient'}), '0', 'a server that is well again has nothing to show');

# --- the breaker: sixteen at once would be lost without it
sql(q{ALTER SYSTEM SET serm.annotate_concurrency = 4}); $node->reload;
make_model('broken', 'sick', q{max_attempts '20', outage_s '60'}, 40);
sql(q{CALL serm.annotate('broken')});
is(sql(q{SELECT count(v.grade), count(error) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'broken'}), '40|0',
	'a server that comes back is asked for everything');
is($mock->count('sick'), 47, 'and while it was gone one probe at a time asked it');

my $closed = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1');
my $closed_port = $closed->sockport;
$closed->close;
make_model('gone', 'v1', q{max_attempts '20', outage_s '2'}, 40);
sql(qq{ALTER SERVER gone OPTIONS (SET endpoint 'http://127.0.0.1:$closed_port/v1')});
my ($code, $out, $err) = $node->psql('postgres', q{CALL serm.annotate('gone')});
is(sql(q{SELECT count(*), bool_and(error LIKE 'the server has failed for 2 s%') AND bool_or(error LIKE '%connect%') FROM serm.vote v
	JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'gone' AND v.grade IS NULL}), '40|t', 'nobody waits for ever');
like($err, qr/0 agreed, 0 disputed, 40 failed/, 'and the call says so');
is(sql(q{SELECT state FROM serm.stat_server WHERE server = 'gone'}), 'failing', 'the view shows a server that fails');
sql(qq{ALTER SERVER gone OPTIONS (SET endpoint 'http://127.0.0.1:$port/v1/v1')});
sql(q{CALL serm.annotate('gone', options => '{"retry_failed": true}')});
is(sql(q{SELECT done FROM serm.annotation_progress WHERE model = 'gone'}), '40', 'when it is back the failed samples get their chance');

# --- what a worker held whose role is gone: whoever asks next is not held up by its lease, though a worker of theirs lives
make_model('busy', 'held', q{cache 'false'}, 1);
make_model('orphan', 'v1', q{cache 'false'}, 1);
sql(q{CALL serm.annotate('busy', false)});
for (1 .. 500) { last if $mock->count('held') > 0; usleep(10_000); }
sql(q{CREATE ROLE departed; UPDATE serm.sample SET state = 'annotating' WHERE model = 'orphan';
	INSERT INTO serm.task (model, sample, agent, path, attempt, requested_by, lease_until, token)
		SELECT model, id, 'orphan', 1, 1, 'departed'::regrole, now() + interval '10 minutes', 1 FROM serm.sample WHERE model = 'orphan'});
$node->psql('postgres', q{SET statement_timeout = '20s'; CALL serm.annotate('orphan')});
is(sql(q{SELECT count(grade) FROM serm.vote WHERE agent = 'orphan'}), '1', 'a task that is taken over is asked at once');
$mock->get('/release');
sql(q{CALL serm.annotate('busy')});

# --- money
my $prices = q{price_prompt '1000', price_completion '4000', max_tokens '50', cache 'false'};
make_model('poor', 'billed', $prices, 60, '{"budget": 20}');
is(sql(q{SELECT agent, samples, requests, tokens > 60 * 400, cost > 10, cost_most > cost, seconds IS NULL FROM serm.estimate_annotation('poor')}),
	'poor|60|60|t|t|t|t', 'what it would cost is known before');
sql(q{CALL serm.annotate('poor')});
my $billed = ($mock->count('billed_prompt') * 1000 + $mock->count('billed_completion') * 4000) / 1e6;
cmp_ok($billed, '<=', 20, 'a budget holds');
cmp_ok($billed, '>', 15, 'and is used');
is(sql(qq{SELECT sum(spent) = $billed, sum(requests) FROM serm.spending WHERE model = 'poor'}), 't|' . $mock->count('billed'),
	'what was spent is what was charged');
is(sql(qq{SELECT sum(cost) = $billed FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'poor'}), 't', 'vote by vote');
is(sql(q{SELECT count(*) FROM serm.vote WHERE agent = 'poor' AND (grade IS NULL) = (error IS NULL)}), '0', 'who got no answer is told');
like(sql(q{SELECT DISTINCT substr(error, 1, 40) FROM serm.vote WHERE agent = 'poor' AND error IS NOT NULL}), qr/option budget: .* of 20 are/, 'why');
is(sql(q{SELECT count(*) FROM serm.task WHERE reserved IS NOT NULL}), '0', 'nothing stays reserved');
sql(q{SELECT serm.alter_model('poor', '{"budget": 1000}')});
sql(q{CALL serm.annotate('poor', options => '{"retry_failed": true}')});
is(sql(q{SELECT done FROM serm.annotation_progress WHERE model = 'poor'}), '60', 'more money finishes the rest');

# --- by day: what was spent on another does not count
make_model('daily', 'billed', $prices, 40, '{"budget_day": 8}');
sql(q{INSERT INTO serm.spending (model, round, day, spent, requests) VALUES ('daily', 0, (now() AT TIME ZONE 'UTC')::date - 1, 1000, 1)});
$billed = $mock->count('billed_prompt') * 1000 + $mock->count('billed_completion') * 4000;
sql(q{CALL serm.annotate('daily')});
$billed = ($mock->count('billed_prompt') * 1000 + $mock->count('billed_completion') * 4000 - $billed) / 1e6;
cmp_ok($billed, '<=', 8, 'the budget of a day holds');
cmp_ok($billed, '>', 6, 'and is used, whatever yesterday did cost');
like(sql(q{SELECT DISTINCT substr(error, 1, 18) FROM serm.vote WHERE agent = 'daily' AND error IS NOT NULL}), qr/^option budget_day:$/, 'who got no answer is told which one');

# --- crashes: nothing is lost, nothing is asked for beyond the budget
my $before = ($mock->count('billed_prompt') * 1000 + $mock->count('billed_completion') * 4000) / 1e6;
make_model('crashed', 'billed', $prices, 150, '{"budget_round": 60}');
sql(q{CALL serm.annotate('crashed', false)});
for my $i (1 .. 8)
{
	usleep(400_000);
	my $pid = eval { sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'serm annotator' LIMIT 1}) };
	kill 'KILL', $pid if $pid;
	usleep(300_000);
	for (1 .. 100) { my ($rc) = eval { $node->psql('postgres', 'SELECT 1') }; last if defined $rc && $rc == 0; usleep(50_000); }
}
sql(q{CALL serm.annotate('crashed')});
$billed = ($mock->count('billed_prompt') * 1000 + $mock->count('billed_completion') * 4000) / 1e6 - $before;
cmp_ok($billed, '<=', 60, 'workers that die do not overspend');
is(sql(qq{SELECT sum(spent) >= $billed AND sum(spent) <= 60 FROM serm.spending WHERE model = 'crashed'}), 't', 'and what they may have spent counts');
is(sql(q{SELECT count(*), count(DISTINCT sample) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'crashed'}), '150|150',
	'every sample has one vote');

# --- known answers
make_model('asked', 'v1', q{temperature '0.3'}, 25);
my $requests = $mock->count('v1');
sql(q{CALL serm.annotate('asked')});
is($mock->count('v1') - $requests, 25, 'new questions are asked');
sql(q{INSERT INTO serm.sample (model, round, query, doc_id, doc) SELECT model, 1, query, 'again ' || doc_id, doc FROM serm.sample WHERE model = 'asked'});
sql(q{CALL serm.annotate('asked')});
is($mock->count('v1') - $requests, 25, 'the same ones are answered from the votes');
is(sql(q{SELECT count(*), sum(tokens), sum(cost), count(rationale) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample
	WHERE s.model = 'asked' AND s.round = 1 AND cached}), '25|0|0|25', 'at no cost');
is(sql(q{SELECT count(*) FROM serm.vote a JOIN serm.sample s ON s.id = a.sample JOIN serm.sample t ON t.model = s.model AND t.query = s.query
	AND t.round = 1 JOIN serm.vote b ON b.sample = t.id WHERE s.model = 'asked' AND s.round = 0 AND a.grade = b.grade}), '25', 'with the same grades');
sql(q{INSERT INTO serm.prompt (model, version, instructions) VALUES ('asked', 1, 'Be strict.');
	INSERT INTO serm.sample (model, round, query, doc_id, doc) SELECT model, 2, query, doc_id, doc FROM serm.sample WHERE model = 'asked' AND round = 0});
sql(q{CALL serm.annotate('asked')});
is($mock->count('v1') - $requests, 50, 'another prompt is another question');

$node->stop;
done_testing();
