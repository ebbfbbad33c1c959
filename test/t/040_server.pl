# serm as a guest of the server: threads, floating-point state, the life of extension and database.
use strict;
use warnings;

use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('server');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'serm'
max_worker_processes = 16
fsync = off
});
$node->start;

sub threads
{
	my ($pid) = @_;
	my @tasks = glob("/proc/$pid/task/*");
	return scalar @tasks;
}

sub postmaster_pid
{
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	return $pid;
}

my $trained = q{
CREATE EXTENSION serm;
SELECT serm.create_model('m');
INSERT INTO serm.judgment (model, query, doc_id, doc, grade)
SELECT 'm', 'query ' || word || ' ' || i, word || i, word || ' number ' || i || E'\n' || 'a ' || word || ' for every day', g
  FROM unnest(ARRAY['lamp', 'chair', 'rug', 'knife']) WITH ORDINALITY AS w (word, g0), generate_series(1, 12) AS i,
       LATERAL (SELECT (g0 + i) % 4) AS grade (g);
CALL serm.train('m', '{"epochs": 2}');
};

is(threads(postmaster_pid()), 1, 'the postmaster has one thread');
$node->safe_psql('postgres', $trained);
is(threads(postmaster_pid()), 1, 'and still one after a session has trained');

my $session = $node->background_psql('postgres');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
like($session->query_safe(q{SELECT serm.score('lamp 3', 'lamp number 3')}), qr/^[0-9.]+$/, 'a session scores');
is(threads($pid), 1, 'a session that has scored has one thread');

# An object linked with -ffast-math would set flush-to-zero for the whole process.
is($session->query_safe(q{SELECT '1e-300'::float8 * '1e-10'::float8 > 0}), 't',
	'denormal results survive in a session that has scored');
$session->quit;

# --- the extension goes and comes back
$node->safe_psql('postgres', 'DROP EXTENSION serm CASCADE');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'serm'}), '0',
	'DROP EXTENSION takes its schema along');
$node->safe_psql('postgres', $trained);
like($node->safe_psql('postgres', q{SELECT serm.score('lamp 3', 'lamp number 3')}), qr/^[0-9.]+$/,
	'and everything works after CREATE EXTENSION again');

my ($code, $out, $err) = $node->psql('postgres', 'CREATE SCHEMA other; CREATE EXTENSION serm SCHEMA other');
isnt($code, 0, 'a second install is refused');
$node->safe_psql('postgres', 'CREATE DATABASE squatted');
$node->safe_psql('squatted', 'CREATE SCHEMA serm');
($code, $out, $err) = $node->psql('squatted', 'CREATE EXTENSION serm');
like($err, qr/schema "serm" already exists/, 'a squatted schema is not adopted');

# --- a database may be dropped while the library sleeps in it
$node->safe_psql('postgres', 'CREATE DATABASE doomed');
$node->safe_psql('doomed', $trained);
is($node->psql('postgres', 'DROP DATABASE doomed WITH (FORCE)'), 0, 'a database with serm can be dropped by force');

# --- without preload
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
like($node->safe_psql('postgres', q{SELECT serm.score('lamp 3', 'lamp number 3')}), qr/^[0-9.]+$/,
	'scoring needs no preload');
$node->safe_psql('postgres', q{CALL serm.train('m', '{"epochs": 1}')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM serm.versions WHERE model = 'm'}), '2', 'nor does training');

# --- a worker keeps what its requests take, and no more with each of them: also where the C library rounds a key's header up to the
# size of blocks that are kept
my $port = MockEndpoint->start->port;
my $key = 'k' x 1005;
$node->safe_psql('postgres', qq{
SELECT serm.create_model('grows', options => '{"gold_rate": 0}');
CREATE SERVER grows FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/v1', model 'mock', paths '1', temperature '0');
CREATE USER MAPPING FOR PUBLIC SERVER grows OPTIONS (api_key '$key');
SELECT serm.add_agent('grows', 'grows');
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'grows', 'red pillow ' || i, 'd' || i, 'a red pillow, number ' || i FROM generate_series(1, 7000) i;
CALL serm.annotate('grows', false)});

# The process number of the worker, and how many votes there are, once those are enough.
sub worker_after
{
	my ($model, $votes) = @_;
	for (1 .. 1200)
	{
		my ($count, $worker) = split /\|/, $node->safe_psql('postgres',
			qq{SELECT (SELECT count(*) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample AND s.model = '$model'), pid FROM pg_stat_activity WHERE backend_type = 'serm annotator'});
		return ($worker, $count) if $count >= $votes;
		usleep(20_000);
	}
	die "no $votes votes";
}

# Its memory in kB.
sub worker_memory
{
	my ($worker) = worker_after('grows', $_[0]);
	return slurp_file("/proc/$worker/status") =~ /RssAnon:\s+(\d+)/ ? $1 : 0;
}
my $early = worker_memory(1500);
my $grown = worker_memory(6500) - $early;
cmp_ok($early, '>', 0, 'a worker at work');
cmp_ok($grown, '<', 2500, "does not grow with each request ($grown kB)");

# --- nor does it ask the system for memory with each large reply
$node->safe_psql('postgres', qq{
CALL serm.annotate('grows');
SELECT serm.create_model('padded', options => '{"gold_rate": 0}');
CREATE SERVER padded FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/padded/v1', model 'mock', paths '1', temperature '0', canary '0');
SELECT serm.add_agent('padded', 'padded');
INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'padded', 'red pillow ' || i, 'd' || i, 'a red pillow, number ' || i FROM generate_series(1, 2000) i;
CALL serm.annotate('padded', false)});

# Pages that the worker was given, and votes.
sub worker_faults
{
	my ($worker, $votes) = worker_after('padded', $_[0]);
	return ((split ' ', slurp_file("/proc/$worker/stat"))[9], $votes);
}
my ($faults_early, $votes_early) = worker_faults(300);
my ($faults, $votes) = worker_faults(800);
my $each = ($faults - $faults_early) / ($votes - $votes_early);
cmp_ok($each, '<', 100, "what 200 kB take is there already ($each pages a reply)");

$node->stop;
done_testing();
