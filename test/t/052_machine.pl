# A bad machine: its clock is set forward and back while agents are asked, and its disk is full for a while.
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

my $directory = tempdir(CLEANUP => 1);
chmod 0755, $directory;
my $mock = MockEndpoint->start;
my $port = $mock->port;

system_or_bail($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', "$directory/machine.so", "$FindBin::RealBin/../mock/machine.c");
# The clock's error in seconds; whether the disk is full.
sub machine
{
	my ($seconds, $full) = @_;
	open my $file, '+<', "$directory/machine" or die $!;
	syswrite $file, pack('qq', $seconds * 1_000_000, $full);
	close $file;
}
sub refused { return (unpack 'qqq', slurp_file("$directory/machine"))[2]; }
append_to_file("$directory/machine", pack('qqq', 0, 0, 0));
chmod 0666, "$directory/machine";
$ENV{LD_PRELOAD} = "$directory/machine.so";
$ENV{SERM_MACHINE} = "$directory/machine";
my $node = PostgreSQL::Test::Cluster->new('machine');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm, pg_stat_statements'\npg_stat_statements.track = all\npg_stat_statements.track_planning = on\nserm.launcher_interval = 1\nfsync = off\nautovacuum = off\n");
$node->start;
delete $ENV{LD_PRELOAD};
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql('CREATE EXTENSION serm; CREATE EXTENSION pg_stat_statements');

my $prices = q{price_prompt '1000', price_completion '4000', max_tokens '50', cache 'false', canary '0'};
sub make_model
{
	my ($name, $habit, $options, $samples) = @_;
	sql(qq{SELECT serm.create_model('$name', options => '{"gold_rate": 0, "rule": "unanimous"}');
		CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent
			OPTIONS (endpoint 'http://127.0.0.1:$port/$habit/v1', model 'mock', paths '1', timeout_ms '30000', $options);
		SELECT serm.add_agent('$name', '$name');
		INSERT INTO serm.sample (model, query, doc_id, doc)
		SELECT '$name', 'blue pillow ' || i, 'd' || i, 'a blue pillow ' || i FROM generate_series(1, $samples) AS i});
}
sub votes { return sql(qq{SELECT count(*) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = '$_[0]'}); }
sub wait_for
{
	my ($model, $votes) = @_;
	for (1 .. 400) { return if votes($model) >= $votes; usleep(25_000); }
	die "$model: " . votes($model) . " of $votes votes";
}

# --- the clock: 600 requests a minute are ten a second, whatever the time of day is said to be
make_model('timed', 'clock', q{requests_per_minute '600'}, 80);
make_model('refusing', '429', q{max_attempts '1'}, 4);
my $now = sql('SELECT extract(epoch FROM clock_timestamp())::bigint');
machine(3600, 0);
cmp_ok(sql('SELECT extract(epoch FROM clock_timestamp())::bigint') - $now, '>=', 3600, 'the server believes the clock');
machine(0, 0);
my $started = time;
my $call = start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', q{CALL serm.annotate('timed')} ],
	'>', '/dev/null', '2>', \my $said);
my $votes = 0;
for my $jump (3600, 60, -3000, 86400 * 30, -86400, 0)
{
	wait_for('timed', $votes += 10);
	machine($jump, 0);
}
$call->finish;
my $seconds = time - $started;
is(sql(q{SELECT count(*), count(v.grade), count(DISTINCT sample) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'timed'}), '80|80|80',
	'a clock that is set loses nothing, and doubles nothing');
is($mock->count('clock'), 80, 'nothing is asked for twice');
cmp_ok($mock->count('within_10s'), '<=', 100 + 11, 'the rate is kept');
cmp_ok($seconds, '<', 25, "and used: $seconds s");

# --- plans that a process keeps: made anew when they are a second old, though the clock goes back, and though the statement was called
# from within itself or came to nothing; never while one runs
my $session = $node->background_psql('postgres');
# How often the statement that stores votes was planned, and how many of its plans the session keeps.
sub plans
{
	return $session->query_safe(q{SELECT (SELECT sum(plans) FROM pg_stat_statements WHERE query LIKE 'WITH given AS%') || '|' ||
		(SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'CachedPlanSource' AND ident LIKE 'WITH given AS%')});
}
$session->query_safe(q{SELECT serm.create_model('planned');
	CREATE FUNCTION judge(query text, doc text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
	SELECT serm.add_agent('planned', 'judge(text,text)'::regprocedure);
	INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'planned', 'q', 'd' || i, 'd' FROM generate_series(1, 6) i;
	INSERT INTO serm.task (model, sample, agent, path, requested_by) SELECT model, id, 'judge', 1, current_user::regrole FROM serm.sample WHERE model = 'planned';
	CREATE FUNCTION finish(wanted text) RETURNS boolean LANGUAGE sql AS
		'SELECT serm._finish(t.id, NULL, 1) FROM serm.task t JOIN serm.sample s ON s.id = t.sample WHERE doc_id = wanted';
	CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE wanted text := (SELECT doc_id FROM serm.sample WHERE id = NEW.sample);
		BEGIN
			IF wanted = 'd2' THEN PERFORM pg_sleep(1.1), public.finish('d3'), public.finish('d4'); END IF;
			IF wanted = 'd5' THEN RAISE 'not this one'; END IF;
			RETURN NULL;
		END $$;
	CREATE TRIGGER nest AFTER INSERT ON serm.vote FOR EACH ROW EXECUTE FUNCTION nest();
	CREATE FUNCTION attempt(wanted text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RETURN public.finish(wanted); EXCEPTION WHEN raise_exception THEN RETURN NULL; END $$;
	SELECT pg_stat_statements_reset()});
$session->query_safe(q{SELECT finish('d1'); SELECT finish('d2')});
is(plans(), '1|1', 'a plan is kept, also while it runs, when it has grown old');
is($session->query_safe(q{SELECT attempt('d5') IS NULL}), 't', 'a statement comes to nothing');
is(plans(), '2|1', 'and its plan was an old one');
machine(-3600, 0);
usleep(2_100_000);
$session->query_safe(q{SELECT finish('d6')});
is(plans(), '3|1', 'the next is made in its time, too, though the clock was set back');
is($session->query_safe(q{SELECT string_agg(doc_id, ',' ORDER BY doc_id) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'planned'}),
	'd1,d2,d3,d4,d6', 'and all of them do what they should');
machine(0, 0);
$session->quit;
sql(q{DROP TRIGGER nest ON serm.vote; SELECT serm.drop_model('planned')});

# --- waits: what is to be asked again in a moment is, though the clock goes back
sql(q{CALL serm.annotate('refusing', false)});
for (1 .. 400) { last if $mock->count('429') > 0; usleep(10_000); }
machine(-3000, 0);
$started = time;
sql(q{CALL serm.annotate('refusing')});
is(sql(q{SELECT count(v.grade) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'refusing'}), '4', 'refused requests are asked for again');
cmp_ok(time - $started, '<', 20, 'soon, though the clock was set back');
machine(0, 0);

# --- a request that takes long holds nothing up when the clock goes back: others are claimed and stored, and it is not asked for again
make_model('held', 'held', q{cache 'false'}, 20);
sub more
{
	my ($samples) = @_;
	sql(qq{INSERT INTO serm.sample (model, query, doc_id, doc) SELECT 'held', 'red pillow ' || n + i, 'd' || n + i, 'a red pillow ' || n + i
		FROM generate_series(1, $samples) AS i, (SELECT count(*) AS n FROM serm.sample WHERE model = 'held') AS s; CALL serm.annotate('held', false)});
}
more(0);
wait_for('held', 5);
machine(-3600, 0);
wait_for('held', 19);
for my $jump (-3600, -50_000, 86400)
{
	machine($jump, 0);
	my $wanted = votes('held') + 10;
	more(10);
	wait_for('held', $wanted);
	is($mock->count('held'), $wanted + 1, "with the clock off by $jump s each task is asked for once, while one is on its way");
}
$mock->get('/release');
sql(q{CALL serm.annotate('held')});
is(sql(q{SELECT count(v.grade), count(DISTINCT sample) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'held'}) . '|' . $mock->count('held'), '50|50|50',
	'and what took long is answered, too');
machine(0, 0);

# --- one probe at a time asks a server that has failed, whatever the time of day is said to be: also when the lease of a worker that is
# gone, and that nobody follows, seems to last for ever
make_model('probed', 'probe', q{cache 'false'}, 12);
make_model('waiting', 'v1', q{cache 'false'}, 1);
sql(q{CREATE ROLE gone;
	UPDATE serm.agent SET server = 'probed' WHERE model = 'waiting';
	INSERT INTO serm.task (model, sample, agent, path, requested_by, lease_until, token)
		SELECT model, id, 'waiting', 1, 'gone'::regrole, now() + interval '10 years', 1 FROM serm.sample WHERE model = 'waiting';
	INSERT INTO serm._server (server, failures, openings, failing_since_ms, failed_ms)
		VALUES ('probed', 5, 1, serm._monotonic_ms(), serm._monotonic_ms());
	CALL serm.annotate('probed', false)});
for (1 .. 200) { last if $mock->count('probe') > 0; usleep(10_000); }
is($mock->count('probe'), 1, 'the lease of a worker that is gone holds up no probe');
machine(3600, 0);
usleep(1_500_000);
is($mock->count('probe'), 1, 'when the clock is set forward no second one leaves');
machine(0, 0);
sql(q{CALL serm.annotate('probed')});
is(sql(q{SELECT count(v.grade) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'probed'}) . '|' . $mock->count('probe'), '12|12',
	'and its answer lets the others go');
sql(q{SELECT serm.drop_model('waiting')});

# --- the disk: votes that cannot be stored are asked for again
make_model('stored', 'billed', $prices, 400);
sql(q{CALL serm.annotate('stored', false)});
wait_for('stored', 20);
machine(0, 1);
for (1 .. 400) { last if refused() > 3; usleep(25_000); }
cmp_ok(refused(), '>', 3, 'the disk is full');
my ($code, $out, $err) = $node->psql('postgres', q{CALL serm.annotate('stored')});
isnt($code, 0, 'whoever waits is told');
like($err, qr/ends without answering|No space left/, 'why');
my $kept = votes('stored');
cmp_ok($kept, '<', 400, 'and not all is there');
like(slurp_file($node->logfile), qr/could not extend file .*No space left on device/, 'the log has the reason');
machine(0, 0);
sql(q{CALL serm.annotate('stored')});
is(sql(q{SELECT count(*), count(v.grade), count(DISTINCT sample) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE s.model = 'stored'}), '400|400|400',
	'with room again everything is answered, once');
is(sql(q{SELECT done FROM serm.annotation_progress WHERE model = 'stored'}), '400', 'and settled');
my $billed = ($mock->count('billed_prompt') * 1000 + $mock->count('billed_completion') * 4000) / 1e6;
cmp_ok(sql(q{SELECT sum(spent) FROM serm.spending WHERE model = 'stored'}), '>=', $billed - 1e-6, 'what was asked for twice is paid for twice');
is(sql(q{SELECT count(*) FROM serm.task}), '0', 'no task is left');
unlike(slurp_file($node->logfile), qr/PANIC/, 'nothing panicked');

$node->stop;
done_testing();
