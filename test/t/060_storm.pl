# Ten thousand answers in bad weather, by workers that are killed and a server that crashes: nothing is lost, nothing
# counts twice, nothing is wrong, nothing is overspent. SERM_STORM_TASKS=10000 takes minutes; the default is smaller.
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use IPC::Run qw(start);
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $tasks = $ENV{SERM_STORM_TASKS} || 2000;
my ($worker_kills, $server_crashes) = (20, 5);

my $directory = tempdir(CLEANUP => 1);
system_or_bail($ENV{CC} || 'cc', '-O2', '-o', "$directory/storm", "$FindBin::RealBin/../mock/storm.c");
my ($port_text, $none) = ('', '');
my $storm = start([ "$directory/storm", 5 ], \$none, \$port_text);
for (1 .. 200) { last if $port_text =~ /\n/; $storm->pump_nb; usleep(20_000); }
my ($port) = $port_text =~ /^(\d+)$/m or die 'no storm';
my $mock = MockEndpoint->at($port);
END { my $status = $?; $storm->kill_kill if defined $storm; $? = $status; }

my $node = PostgreSQL::Test::Cluster->new('storm');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'serm'
serm.launcher_interval = 1
serm.annotate_concurrency = 32
max_worker_processes = 16
restart_after_crash = on
fsync = off
checkpoint_timeout = 1h
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm');

# Crashes close connections: try until the server is there.
sub sql
{
	my ($query) = @_;
	my ($code, $out, $err);
	for (1 .. 600)
	{
		($code, $out, $err) = eval { $node->psql('postgres', $query) };
		return $out if defined $code && $code == 0;
		die "$query: $err" if defined $code && $code == 3;
		usleep(50_000);
	}
	die "$query: no answer";
}

# Two agents for each model. The rich one can pay for all; the poor one for about half of what it wants.
my $prices = q{price_prompt '1000', price_completion '4000', max_tokens '50', cache 'false'};
my %samples = (rich => int($tasks * 0.4), poor => int($tasks * 0.1));
my %budget = (rich => 1_000_000, poor => 0.6 * $samples{poor});
my %account = (rich => 'a', poor => 'b');
for my $model (qw(rich poor))
{
	sql(qq{SELECT serm.create_model('$model', options => '{"budget": $budget{$model}}');
		INSERT INTO serm.sample (model, query, doc_id, doc)
			SELECT '$model', 'storm ' || i, 'd' || i, 'document ' || i || ': the grade is ' || i % 4 FROM generate_series(1, $samples{$model}) AS i});
	for my $i (1, 2)
	{
		sql(qq{CREATE SERVER ${model}_$i FOREIGN DATA WRAPPER serm_agent
			OPTIONS (endpoint 'http://127.0.0.1:$port/$account{$model}/v1', model 'storm', paths '1', max_attempts '20',
				timeout_ms '400', outage_s '600', $prices);
			SELECT serm.add_agent('$model', '${model}_$i')});
	}
	sql(qq{CALL serm.annotate('$model', false)});
}
my $wanted = sql(q{SELECT (SELECT count(*) FROM serm.task) + (SELECT count(*) FROM serm.vote)});
is($wanted, 2 * ($samples{rich} + $samples{poor}), "$wanted answers are wanted");

# --- the crashes, each after some progress
my $votes = 0;
my %crashes = (worker => 0, server => 0);
for my $i (1 .. $worker_kills + $server_crashes)
{
	my $until = time + 20;
	my $now;
	my $pid = 0;
	while (time < $until)
	{
		($pid, $now) = split /\|/, sql(q{SELECT coalesce((SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'serm annotator'), 0),
			(SELECT count(*) FROM serm.vote)});
		last if $pid && ($now >= $votes + $wanted / 60 || $now >= $wanted * 0.95);
		usleep(20_000);
	}
	$votes = $now;
	if ($i % 5 == 0)
	{
		if ($i % 2) { $node->stop('immediate'); } else { $node->kill9; }
		usleep(200_000);
		for (1 .. 200) { last if $node->start(fail_ok => 1); $node->stop('fast', fail_ok => 1); usleep(100_000); }
		$crashes{server}++;
	}
	elsif ($pid && kill 'KILL', $pid)
	{
		$crashes{worker}++;
		for (1 .. 200) { last unless kill 0, $pid; usleep(10_000); }
		sql('SELECT 1');
	}
}
is("$crashes{worker} $crashes{server}", "$worker_kills $server_crashes", 'workers were killed, the server crashed');
cmp_ok($votes, '<', $wanted, 'while there was work');

my $started = time;
sql(qq{CALL serm.annotate('$_')}) for qw(rich poor);
note(sprintf '%.0f s of calm', time - $started);

# --- nothing lost
is(sql(q{SELECT count(*) FROM serm.task}), '0', 'no task is left');
is(sql(q{SELECT count(*) FROM serm.sample s CROSS JOIN (VALUES (1), (2)) AS a(n) LEFT JOIN serm.vote v ON v.sample = s.id
	AND v.agent = s.model || '_' || a.n AND v.path = 1 WHERE v.sample IS NULL}), '0', 'each of them has its vote');
is(sql(q{SELECT count(*) FROM serm.sample WHERE state IN ('waiting', 'annotating')}), '0', 'each sample is settled');
# --- nothing twice
is(sql(q{SELECT count(*) FROM serm.vote}), $wanted, 'and one only');
is(sql(q{SELECT count(*) - count(DISTINCT (model, query, doc_id)) FROM serm.judgment}), '0', 'no sample has two judgments');
# --- nothing wrong
is(sql(q{SELECT count(*) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE v.grade <> right(s.doc, 1)::int}), '0', 'no vote has another grade than it was given');
is(sql(q{SELECT count(*) FROM serm.judgment WHERE grade <> right(doc, 1)::int}), '0', 'nor has a judgment');
is(sql(q{SELECT count(*) FROM serm.vote WHERE grade IS NULL AND error !~ '307|larger than|option budget|not JSON|not one JSON'}), '0',
	'votes without a grade are those that asking again does not help, or that nobody pays for')
	or diag(sql(q{SELECT DISTINCT error FROM serm.vote WHERE grade IS NULL AND error !~ '307|larger than|option budget|not JSON|not one JSON' LIMIT 5}));
is(sql(qq{SELECT count(*) > $samples{rich} FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'rich' AND v.grade IS NOT NULL}), 't',
	'most of the rich model\'s have one');
is($mock->count('secrets'), 0, 'no redirect was followed, no request was cut');
# --- nothing overspent
for my $model (qw(rich poor))
{
	my $billed = ($mock->count("prompt_$account{$model}") * 1000 + $mock->count("completion_$account{$model}") * 4000) / 1e6;
	my $spent = sql(qq{SELECT sum(spent) FROM serm.spending WHERE model = '$model'});

	cmp_ok($billed, '<=', $budget{$model}, "$model: the bill ($billed) is within the budget ($budget{$model})");
	cmp_ok($billed, '<=', $spent + 1e-6, "$model: and within what was booked ($spent)");
	cmp_ok($spent, '<=', $budget{$model}, "$model: which is within the budget too");
}
is(sql(q{SELECT count(*) FROM serm.task WHERE reserved IS NOT NULL}), '0', 'nothing stays reserved');
cmp_ok(sql(q{SELECT count(*) FROM serm.vote WHERE error LIKE '%option budget%'}), '>', 0, 'the poor one has run out of money');
# --- it was a storm
my $asked = $mock->count('asked');
my $faults = $asked - $mock->count('fair');
cmp_ok($faults / $asked, '>', 0.27, "three in ten went wrong ($faults of $asked)");
is(join(' ', grep { $mock->count($_) == 0 } qw(limited_ms limited_seconds busy broken gateway dropped reset short drip garbage big redirect)), '',
	'in all the ways there are');
is(slurp_file($node->logfile) =~ /PANIC/ ? 1 : 0, 0, 'nothing panicked');

$node->stop;
done_testing();
