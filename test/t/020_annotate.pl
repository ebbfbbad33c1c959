# Agents over HTTP: well-behaved and evil endpoints, crashes of worker and server, keys, rights.
use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Socket::INET;
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $directory = tempdir(CLEANUP => 1);
my $mock = MockEndpoint->start;
my $port = $mock->port;

# A resolver that does not answer for names of .slow, as when a name server is gone.
my $shim = "$directory/slow_resolver";
append_to_file("$shim.c", q{
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

	if (node == NULL || strstr(node, ".slow") == NULL)
		return real(node, service, hints, result);
	sleep(15);
	return EAI_AGAIN;
}
});
system_or_bail($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', "$shim.so", "$shim.c", '-ldl');
chmod 0755, $directory;
$ENV{LD_PRELOAD} = "$shim.so";

my $node = PostgreSQL::Test::Cluster->new('annotate');
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

# A server of one habit, as an agent of a model.
sub add_agent
{
	my ($model, $name, $habit, $options) = @_;
	$options = $options ? ", $options" : '';
	sql(qq{CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent
		OPTIONS (endpoint 'http://127.0.0.1:$port/$habit/v1', model 'mock'$options);
		SELECT serm.add_agent('$model', '$name')});
}

sub add_samples
{
	my ($model, $count) = @_;
	sql(qq{INSERT INTO serm.sample (model, query, doc_id, doc)
		SELECT '$model', 'blue pillow ' || i, 'd' || i,
			(ARRAY['a blue pillow ' || i, 'a blue pillow', 'a blue chair', 'nothing'])[i % 4 + 1]
		  FROM generate_series(1, $count) AS i});
}

sub wait_until
{
	my ($query, $what) = @_;
	for (1 .. 600)
	{
		# A server that is restarting closes the pipe under psql's input: that, too, is a no.
		my ($code, $out) = eval { $node->psql('postgres', $query) };
		return pass($what) if defined $code && $code == 0 && $out eq 't';
		usleep(50_000);
	}
	return fail($what);
}

# --- the good ones
sql(q{SELECT serm.create_model('good', options => '{"rule": "unanimous", "gold_rate": 0}')});
add_agent('good', 'plain', 'v1', q{paths '3'});
add_agent('good', 'fenced', 'fence', q{paths '2', json_mode 'true', temperature '0'});
add_samples('good', 40);
sql(q{CALL serm.annotate('good')});
is(sql(q{SELECT done, disputed, failed, tasks, votes, errors FROM serm.annotation_progress WHERE model = 'good'}),
	'40|0|0|0|200|0', 'good agents: every sample is graded');
is($mock->count('v1') + $mock->count('fence'), 200, 'with one request for each vote');
is(sql(q{SELECT string_agg(grade || ':' || n, ' ' ORDER BY grade) FROM
	(SELECT grade, count(*) AS n FROM serm.judgment WHERE model = 'good' AND source = 'agents' GROUP BY grade) g}),
	'0:10 1:10 2:10 3:10', 'the grades are those of the judge');
is(sql(q{SELECT count(*) FROM serm.vote WHERE rationale IS NULL OR tokens IS NULL OR latency_ms IS NULL}), '0',
	'votes carry rationale, tokens and latency');
sql(q{CALL serm.annotate('good')});
is($mock->count('v1') + $mock->count('fence'), 200, 'annotating again asks nobody');

# --- the evil ones, each one agent of one sample: grade or NULL, the error, the requests it took
my $key = 'sk-CANARY-0123456789';
my @habits = (
	[ '429', 1, undef, 2 ],
	[ '429date', 1, undef, 2 ],
	[ 'badonce', 1, undef, 2 ],
	[ 'echo', 1, undef, 1 ],
	[ 'echoescaped', 1, undef, 1 ],
	[ '500', 0, qr/HTTP status 500 \(attempt 2\)/, 2 ],
	[ '400', 0, qr/HTTP status 400/, 1 ],
	[ '401', 0, qr/HTTP status 401/, 1 ],
	[ 'garbage', 0, qr/not JSON/, 2 ],
	[ 'echobad', 0, qr/not one JSON object/, 2 ],
	[ 'badgrade', 0, qr/outside the model's grades/, 2 ],
	[ 'twice', 0, qr/a key twice/, 2 ],
	[ 'empty', 0, qr/empty/, 2 ],
	[ 'notutf8', 0, qr/UTF-8/, 2 ],
	[ 'deep', 0, qr/deeper/, 2 ],
	[ 'huge', 0, qr/larger than 256 KiB/, 1 ],
	[ 'hugelength', 0, qr/larger than 256 KiB/, 1 ],
	[ 'headers', 0, qr/larger than|headers/, 1 ],
	[ 'drip', 0, qr/timed out/, 2 ],
	[ 'sleep', 0, qr/timed out/, 2 ],
	[ 'short', 0, qr/\w/, 2 ],
	[ 'close', 0, qr/\w/, 2 ],
	[ 'reset', 0, qr/\w/, 2 ],
	[ 'redirect', 0, qr/redirects are not followed/, 1 ],
);
sql(q{SELECT serm.create_model('evil', options => '{"rule": "unanimous", "gold_rate": 0}')});
for my $habit (@habits)
{
	add_agent('evil', "h_$habit->[0]", $habit->[0], q{paths '1', max_attempts '2', timeout_ms '1000'});
	sql(qq{CREATE USER MAPPING FOR CURRENT_USER SERVER h_$habit->[0] OPTIONS (api_key '$key')});
}
my $closed = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1');
my $closed_port = $closed->sockport;
$closed->close;
sql(qq{
CREATE SERVER h_dead FOREIGN DATA WRAPPER serm_agent
	OPTIONS (endpoint 'http://127.0.0.1:$closed_port/v1', model 'mock', paths '1', max_attempts '3');
CREATE SERVER h_private FOREIGN DATA WRAPPER serm_agent
	OPTIONS (endpoint 'https://10.255.255.1/v1', model 'mock', paths '1');
CREATE SERVER h_metadata FOREIGN DATA WRAPPER serm_agent
	OPTIONS (endpoint 'https://169.254.169.254/latest', model 'mock', paths '1');
CREATE SERVER h_mapped FOREIGN DATA WRAPPER serm_agent
	OPTIONS (endpoint 'https://[::ffff:127.0.0.1]:$port/v1', model 'mock', paths '1');
CREATE SERVER h_tls FOREIGN DATA WRAPPER serm_agent
	OPTIONS (endpoint 'https://127.0.0.1:$port/v1', model 'mock', paths '1', max_attempts '1');
CREATE SERVER h_bare FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://127.0.0.1:$port/v1', paths '1');
SELECT serm.add_agent('evil', name) FROM unnest('{h_dead,h_private,h_metadata,h_mapped,h_tls,h_bare}'::name[]) AS name;
});
add_samples('evil', 1);
my $started = time;
sql(q{CALL serm.annotate('evil')});
cmp_ok(time - $started, '<', 20, 'evil endpoints do not hold up the others');
for my $habit (@habits)
{
	my ($name, $graded, $error, $requests) = @$habit;
	my $vote = sql(qq{SELECT coalesce(grade::text, error) FROM serm.vote WHERE agent = 'h_$name'});

	like($vote, $graded ? qr/^[0-3]$/ : $error, "$name: " . ($graded ? 'a grade' : 'an error, no grade'));
	is($mock->count($name), $requests, "$name: $requests requests");
}
is($mock->count('secret'), 0, 'no redirect was followed');
like(sql(q{SELECT error FROM serm.vote WHERE agent = 'h_dead'}), qr/connect.*attempt 3/i, 'a dead endpoint is tried again');
for my $name (qw(private metadata mapped))
{
	like(sql(qq{SELECT error FROM serm.vote WHERE agent = 'h_$name'}), qr/serm.allow_cidr/, "$name addresses are refused");
}
like(sql(q{SELECT error FROM serm.vote WHERE agent = 'h_tls'}), qr/SSL/, 'https to a plain endpoint is an error');
like(sql(q{SELECT error FROM serm.vote WHERE agent = 'h_bare'}), qr/lacks the option model/, 'a server without a model');
is(sql(q{SELECT state FROM serm.sample WHERE model = 'evil'}), 'disputed', 'the sample is disputed');
is(sql(q{SELECT count(*) FROM serm.review_queue WHERE model = 'evil' AND votes ->> 'h_500' = '["error"]'}), '1',
	'and waits for a person');
is(sql(q{SELECT count(*) FROM serm.vote WHERE agent = 'h_garbage' AND encode(reply, 'escape') LIKE '%It works%'}), '1',
	'what could not be read is kept');

# --- keys
is($mock->saw('sk-CANARY'), 1, 'the key reached the endpoint');
is(sql(qq{SELECT count(*) FROM serm.vote v WHERE v::text LIKE '%CANARY%' OR encode(v.reply, 'escape') LIKE '%CANARY%'}), '0',
	'an endpoint that repeats the key does not get it into a table');
like(sql(qq{SELECT rationale FROM serm.vote WHERE agent = 'h_$_'}), qr/^key Bearer \*+$/, "$_: it is starred out")
	for qw(echo echoescaped);

sql(q{SELECT serm.create_model('keys', options => '{"rule": "unanimous", "gold_rate": 0}')});
my $key_file = $node->data_dir . '/agent.key';
append_to_file($key_file, "$key-file\n");
chmod 0600, $key_file;
my $log_start = -s $node->logfile;
$node->append_conf('postgresql.conf', "log_statement = 'all'\nlog_min_messages = debug3\n");
$node->reload;
add_agent('keys', 'by_file', 'v1', q{paths '1'});
add_agent('keys', 'by_env', 'v1', q{paths '1'});
add_agent('keys', 'by_loose_file', 'v1', q{paths '1'});
my $loose = "$key_file.loose";
append_to_file($loose, "$key-loose\n");
chmod 0644, $loose;
sql(qq{
CREATE USER MAPPING FOR PUBLIC SERVER by_file OPTIONS (api_key_file '$key_file');
CREATE USER MAPPING FOR PUBLIC SERVER by_env OPTIONS (api_key_env 'SERM_TEST_NO_SUCH_KEY');
CREATE USER MAPPING FOR PUBLIC SERVER by_loose_file OPTIONS (api_key_file '$loose');
});
my ($code, $out, $err) = $node->psql('postgres', qq{CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (api_key '$key\t')});
unlike($err, qr/CANARY/, 'an error about a key does not show it');
add_samples('keys', 1);
sql(q{CALL serm.annotate('keys')});
is($mock->saw("$key-file"), 1, 'a key from a file reaches the endpoint');
like(sql(q{SELECT error FROM serm.vote WHERE agent = 'by_env'}), qr/not in the environment/, 'a missing variable is an error');
like(sql(q{SELECT error FROM serm.vote WHERE agent = 'by_loose_file'}), qr/0600/, 'a key that others may read is refused');
$node->append_conf('postgresql.conf', "log_statement = 'none'\nlog_min_messages = warning\n");
$node->reload;
my $log = substr(slurp_file($node->logfile), $log_start);
$log =~ s/^.*statement: CREATE USER MAPPING.*api_key '.*$//mg;
unlike($log, qr/CANARY/, 'no key stands in the log, at debug3 with all statements');
my $dump = $node->safe_psql('postgres', q{SELECT string_agg(x::text, ' ') FROM (SELECT * FROM serm.vote) x})
  . $node->safe_psql('postgres', q{SELECT string_agg(x::text, ' ') FROM pg_stat_activity x})
  . $node->safe_psql('postgres', q{SELECT string_agg(x::text, ' ') FROM pg_settings x});
unlike($dump, qr/CANARY/, 'nor in votes, activity or settings');

# --- evidence and instructions
sql(q{
CREATE FUNCTION knows(query text, doc text) RETURNS text LANGUAGE sql AS $$SELECT 'EVIDENCE-ON-' || upper(split_part(query, ' ', 2))$$;
CREATE FUNCTION knows_not(query text, doc text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no evidence'; END$$;
SELECT serm.create_model('evident', options => '{"evidence": "public.knows", "rule": "unanimous", "gold_rate": 0}');
SELECT serm.create_model('not_evident', options => '{"evidence": "public.knows_not", "rule": "unanimous", "gold_rate": 0}');
INSERT INTO serm.prompt (model, version, instructions) VALUES ('evident', 1, 'OLD-WORDS'), ('evident', 2, 'NEW-WORDS');
});
add_agent('evident', 'evident_judge', 'v1', q{paths '1'});
sql(q{SELECT serm.add_agent('not_evident', 'evident_judge')});
add_samples($_, 1) for qw(evident not_evident);
sql(qq{CALL serm.annotate('$_')}) for qw(evident not_evident);
is($mock->saw('EVIDENCE-ON-PILLOW'), 1, 'the agent sees the evidence');
is($mock->saw('NEW-WORDS') . $mock->saw('OLD-WORDS'), '10', 'and the newest instructions');
is(sql(q{SELECT prompt FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'evident'}), '2',
	'the vote records their version');
like(sql(q{SELECT error FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'not_evident'}),
	qr/evidence function failed: P0001: no evidence/, 'without its evidence a sample is not graded');

# --- encodings: the prompt is UTF-8, the vote is text of the database
for my $encoding (qw(LATIN1 SQL_ASCII))
{
	my $database = lc "in_$encoding";
	my $bytes = $encoding eq 'SQL_ASCII' ? q{E'caf\xe9 \xff'} : q{'caf' || chr(233)};

	$node->safe_psql('postgres', qq{CREATE DATABASE $database ENCODING '$encoding' LOCALE 'C' TEMPLATE template0});
	my $vote = $node->safe_psql($database, qq{
		CREATE EXTENSION serm;
		SELECT serm.create_model('m', options => '{"rule": "unanimous", "gold_rate": 0}');
		CREATE SERVER judge FOREIGN DATA WRAPPER serm_agent
			OPTIONS (endpoint 'http://127.0.0.1:$port/unicode/v1', model 'mock', paths '1');
		SELECT serm.add_agent('m', 'judge');
		INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('m', 'blue', 'd', 'blue ' || $bytes);
		CALL serm.annotate('m');
		SELECT grade, encode(convert_to(rationale, 'SQL_ASCII'), 'hex') FROM serm.vote});
	like($vote, $encoding eq 'LATIN1' ? qr/^3\|3f3f20e4$/m : qr/^3\|e697a5e69cac20c3a4$/m, "$encoding: graded, and the rationale is text");
}

# --- one agent's trouble is not another's
sub task
{
	my ($model, $agent) = @_;
	return qq{
		INSERT INTO serm.sample (model, query, doc_id, doc, state) VALUES ('$model', 'blue', 'd' || random(), 'blue', 'annotating');
		INSERT INTO serm.task (model, sample, agent, path, requested_by)
			SELECT '$model', max(id), '$agent', 1, current_user::regrole FROM serm.sample WHERE model = '$model'};
}
sub add_tasks
{
	my ($database, @task) = @_;
	$node->safe_psql($database, task(@task));
}

sql(q{SELECT serm.create_model('names', options => '{"rule": "unanimous", "gold_rate": 0}')});
sql(q{CREATE SERVER lost FOREIGN DATA WRAPPER serm_agent
	OPTIONS (endpoint 'https://judge.slow/v1', model 'mock', paths '1', timeout_ms '500', max_attempts '1', outage_s '1');
	SELECT serm.add_agent('names', 'lost')});
add_agent('names', 'found', 'v1', q{paths '5'});
add_samples('names', 40);
$started = time;
sql(q{CALL serm.annotate('names')});
cmp_ok(time - $started, '<', 10, 'a name server that does not answer holds up nobody');
is(sql(q{SELECT bool_and(error LIKE '%timed out' OR error = 'the server has failed for 1 s'), count(*) FROM serm.vote WHERE agent = 'lost'}), 't|40', 'and is a timeout');

sql(q{SELECT serm.create_model('poisoned', options => '{"rule": "unanimous", "gold_rate": 0}'); SELECT serm.create_model('healthy', options => '{"rule": "unanimous", "gold_rate": 0}')});
add_agent('poisoned', 'vanishing', 'slow', q{paths '1'});
add_agent('healthy', 'lasting', 'slow', q{paths '1'});
add_samples($_, 20) for qw(poisoned healthy);
sql(q{CALL serm.annotate('poisoned', false); CALL serm.annotate('healthy', false); DROP SERVER vanishing;
	UPDATE serm.model SET options = options || '{"rule": "none"}' WHERE name = 'poisoned'});
wait_until(q{SELECT tasks = 0 AND done = 20 FROM serm.annotation_progress WHERE model = 'healthy'},
	'a model that cannot be settled holds up no other');
sql(q{UPDATE serm.model SET options = options - 'rule' WHERE name = 'poisoned'; SELECT serm.remove_agent('poisoned', 'vanishing')});

sql(q{SELECT serm.create_model('locked', options => '{"rule": "unanimous", "gold_rate": 0}')});
add_agent('locked', 'waiter', 'v1', q{paths '1'});
my $holder = $node->background_psql('postgres');
sub commits { return sql(q{SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()}); }
# In one go: no worker may be faster than the lock.
$holder->query_safe('BEGIN; ' . task('locked', 'waiter') . q{; COMMIT; BEGIN; DELETE FROM serm.task WHERE model = 'locked'});
wait_until(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'serm annotator'}, 'a worker finds a locked task');
my $commits = commits();
usleep(2_000_000);
cmp_ok(commits() - $commits, '<', 200, 'and does not spin');
$holder->query_safe(q{ROLLBACK; BEGIN; LOCK TABLE serm.task IN ACCESS EXCLUSIVE MODE});
add_tasks('in_sql_ascii', 'm', 'judge');
for (1 .. 200) { last if $node->safe_psql('in_sql_ascii', 'SELECT count(*) FROM serm.vote') eq '2'; usleep(50_000); }
is($node->safe_psql('in_sql_ascii', 'SELECT count(*) FROM serm.vote'), '2', 'a locked queue holds up no other database');
$holder->query_safe('ROLLBACK');
$holder->quit;

# --- the launcher lends nobody its rights
$node->safe_psql('in_latin1', q{
CREATE ROLE low;
ALTER TABLE serm.task OWNER TO low;
ALTER TABLE serm.agent OWNER TO low;
GRANT CREATE ON SCHEMA public TO low;
GRANT CREATE, USAGE ON SCHEMA serm TO low;
SET ROLE low;
CREATE FUNCTION public.climb() RETURNS boolean LANGUAGE plpgsql AS
	$$BEGIN IF current_user <> 'low' THEN ALTER ROLE low SUPERUSER; END IF; RETURN true; END$$;
CREATE FUNCTION public.harmless(integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	$$BEGIN PERFORM public.climb(); RETURN true; END$$;
CREATE INDEX ON serm.task (id) WHERE public.harmless(1)});
usleep(2_000_000);
is(sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'low'}), 'f', 'an owner of the queue gets no rights from the launcher');

# --- crashes: every vote exactly once, whatever dies
sub worker_pid { return sql(q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'serm annotator'}); }

my $expected = 40 * 2;
for my $crash (qw(kill9 terminate postmaster))
{
	my $model = "crash_$crash";
	my $before = $mock->count('slow');

	sql(qq{SELECT serm.create_model('$model', options => '{"rule": "unanimous", "gold_rate": 0}')});
	add_agent($model, "slow_$crash", 'slow', q{paths '2'});
	add_samples($model, 40);
	sql(qq{CALL serm.annotate('$model', false)});
	wait_until(qq{SELECT votes > 10 FROM serm.annotation_progress WHERE model = '$model'}, "$crash: the worker is at work");
	if ($crash eq 'kill9')
	{
		kill 9, worker_pid();
		usleep(200_000);
	}
	elsif ($crash eq 'terminate')
	{
		sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'serm annotator'});
	}
	else
	{
		my $worker = worker_pid();
		$node->kill9;
		for (1 .. 50) { last unless kill 0, $worker; usleep(100_000); }
		ok(!kill(0, $worker), 'a worker at work leaves with the postmaster');
		kill 9, $worker;
		usleep(500_000);
		$node->start;
	}
	wait_until(qq{SELECT tasks = 0 AND running = 0 FROM serm.annotation_progress WHERE model = '$model'},
		"$crash: the launcher has the rest answered");
	is(sql(qq{SELECT votes || ' ' || errors || ' ' || done FROM serm.annotation_progress WHERE model = '$model'}),
		"$expected 0 40", "$crash: no vote is lost, none counts twice");
	my $requests = $mock->count('slow') - $before;
	cmp_ok($requests, '>=', $expected, "$crash: every vote was asked for");
	cmp_ok($requests, '<=', $expected + 32, "$crash: and little of it twice ($requests requests)");
}
cmp_ok($mock->count('in_flight_max'), '>=', 8, 'the worker asks several at a time');
cmp_ok($mock->count('in_flight_max'), '<=', 16 + 3 * 16, 'and no more than allowed, those of killed workers aside');
is(sql(q{SELECT count(*) - count(DISTINCT (model, query, doc_id)) FROM serm.judgment WHERE model LIKE 'crash%'}), '0',
	'no sample has two judgments');

# --- a waiting call
sql(q{SELECT serm.create_model('waiting', options => '{"rule": "unanimous", "gold_rate": 0}')});
add_agent('waiting', 'sleeper', 'sleep', q{paths '1'});
add_samples('waiting', 2);
$started = time;
($code, $out, $err) = $node->psql('postgres', q{SET statement_timeout = 700; CALL serm.annotate('waiting')});
like($err, qr/canceling statement due to statement timeout/, 'a waiting call can be cancelled');
cmp_ok(time - $started, '<', 5, 'soon');
is(sql(q{SELECT xact_start IS NULL AND backend_xmin IS NULL AND usename = current_user
	FROM pg_stat_activity WHERE backend_type = 'serm annotator'}), 't',
	'the worker waits outside of a transaction, as the role that asked');
is(sql(q{SELECT tasks FROM serm.annotation_progress WHERE model = 'waiting'}), '2', 'the tasks are kept');
$started = time;
sql(q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'serm annotator'});
cmp_ok(time - $started, '<', 2, 'a worker that waits for the network ends when told');
sql(q{UPDATE serm.task SET attempt = 7, lease_until = now() + interval '5 minutes', token = 1 WHERE model = 'waiting'});
sql(q{CALL serm.annotate('waiting', false)});
wait_until(q{SELECT bool_and(lease_until IS NULL AND not_before > now() + interval '5 seconds') FROM serm.task WHERE model = 'waiting'},
	'what has taken down workers is not asked for at once');
sql(q{SELECT serm.remove_agent('waiting', 'sleeper')});

# --- a plain role
sql(q{
CREATE ROLE operator LOGIN;
CREATE ROLE group_of_operators;
SELECT serm.grant_access('operator', 'operate');
SELECT serm.grant_access('group_of_operators', 'operate');
SELECT serm.create_model('role', options => '{"rule": "unanimous", "gold_rate": 0}');
});
add_agent('role', 'of_role', 'v1', q{paths '2'});
add_samples('role', 3);
($code, $out, $err) = $node->psql('postgres', q{SET ROLE operator; CALL serm.annotate('role')});
like($err, qr/permission denied for foreign server of_role/, 'using a server needs the right to');
sql(q{GRANT USAGE ON FOREIGN SERVER of_role TO operator, group_of_operators});
($code, $out, $err) = $node->psql('postgres', q{SET ROLE group_of_operators; CALL serm.annotate('role')});
like($err, qr/may not log in/, 'a role without LOGIN is told so');
is($node->safe_psql('postgres', q{CALL serm.annotate('role'); SELECT votes, done FROM serm.annotation_progress WHERE model = 'role'},
	extra_params => [ '-U', 'operator' ]), '6|3', 'a plain role annotates');

# --- DROP EXTENSION under a worker
sql(q{SELECT serm.create_model('dropped', options => '{"rule": "unanimous", "gold_rate": 0}')});
add_agent('dropped', 'dropper', 'slow', q{paths '3', price_prompt '1'});
add_samples('dropped', 50);
# A transaction that stores votes, and needs another table afterwards, is long enough for the other to come between.
sql(q{CREATE FUNCTION drowsily() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END$$;
	CREATE TRIGGER drowsily AFTER INSERT ON serm.vote FOR EACH STATEMENT EXECUTE FUNCTION drowsily();
	CALL serm.annotate('dropped', false)});
wait_until(q{SELECT votes > 0 FROM serm.annotation_progress WHERE model = 'dropped'}, 'a worker is at work');
wait_until(q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'serm.vote'::regclass AND mode = 'RowExclusiveLock'}, 'and stores votes');
$started = time;
($code, $out, $err) = $node->psql('postgres', q{DROP EXTENSION serm CASCADE});
is($code, 0, 'DROP EXTENSION and a worker do not lock each other out') or diag($err);
cmp_ok(time - $started, '<', 5, 'and it does not wait for the network');
wait_until(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'serm annotator'}, 'the worker leaves');

# --- without preload
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$node->safe_psql('postgres', q{CREATE EXTENSION serm});
sql(q{SELECT serm.create_model('late', options => '{"rule": "unanimous", "gold_rate": 0}')});
add_agent('late', 'late_judge', 'v1', q{paths '2'});
add_samples('late', 5);
sql(q{CALL serm.annotate('late')});
is(sql(q{SELECT votes, done FROM serm.annotation_progress WHERE model = 'late'}), '10|5', 'annotating needs no preload');
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('late', 'blue', 'last', 'blue')});
($code, $out, $err) = $node->psql('postgres', q{CALL serm.annotate('late', false)});
like($err, qr/WARNING:  no background worker is free/, 'who does not wait is told that nobody will ask');
is(slurp_file($node->logfile) =~ /PANIC/ ? 1 : 0, 0, 'nothing panicked');

$node->stop;
done_testing();
