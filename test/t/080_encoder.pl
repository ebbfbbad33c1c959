# Training a cross-encoder: a server that dies half-way, a cancel, and what is held meanwhile.
use strict;
use warnings;

use BertFiles qw(write_bert);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('encoder');
$node->init;
$node->append_conf('postgresql.conf', "restart_after_crash = on\nfsync = off\n");
$node->start;

sub sql
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', "SET client_min_messages = warning; $sql");
}

sub start_sql
{
	my ($sql) = @_;
	my $session = { out => '', err => '' };
	$session->{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'), '-c', $sql ],
		'<', \undef, '>', \$session->{out}, '2>', \$session->{err}, IPC::Run::timeout(120));
	return $session;
}

sub wait_until
{
	my ($condition, $what, $session) = @_;
	for (1 .. 1200)
	{
		return if eval { sql("SELECT $condition") } eq 't';
		IPC::Run::pump_nb($session->{run}) if $session;
		usleep(50_000);
	}
	die "waited in vain for $what: " . ($session ? $session->{err} : '');
}

# --- a model of two layers and pairs to grade

my $directory = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $directory;
write_bert($directory, layers => 2, hidden => 96, wide => 384, heads => 4, positions => 64, labels => 4, spread => 0.1,
	words => [qw(red blue green black white yellow shoe lamp chair table pillow carpet)], config => { hidden_dropout_prob => 0.1 });

sql('CREATE EXTENSION serm');
sql(q{CREATE TABLE pair AS SELECT qc || ' ' || qt AS query, dc || ' ' || dt || E'\n' || repeat(dc || ' ' || dt || ' ', 4) AS doc,
	(qc = dc)::int + 2 * (qt = dt)::int AS grade
	FROM unnest('{red,blue,green,black,white,yellow}'::text[]) AS qc, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS qt,
	unnest('{red,blue,green,black,white,yellow}'::text[]) AS dc, unnest('{shoe,lamp,chair,table,pillow,carpet}'::text[]) AS dt
	WHERE hashtext(qc || qt || dc || dt) % 3 = 0});
foreach my $model (qw(through killed)) {
	sql("SELECT serm.import_model('$model', '$directory')");
	sql("INSERT INTO serm.judgment (model, query, doc, grade) SELECT '$model', query, doc, grade FROM pair");
}
my $options = q('{"epochs": 6, "learning_rate": 0.0005, "checkpoint": 0}');

# --- one training runs through, another one loses its server and is called again

sql("CALL serm.train('through', $options)");
my $training = start_sql("CALL serm.train('killed', $options)");
wait_until("coalesce(max(step) > 25, false) FROM serm._checkpoint WHERE model = 'killed'", 'a checkpoint', $training);
is(sql("SELECT count(*) FROM serm.progress WHERE model = 'killed' AND phase = 'training' AND per_second > 0 AND seconds_left > 0"), '1',
	'the view of progress has the speed and the time that is left');
my $pid = sql("SELECT pid FROM serm.progress WHERE model = 'killed'");
kill 'KILL', $pid;
eval { $training->{run}->finish };
wait_until('true', 'the server');
my ($kept) = sql("SELECT max(step) FROM serm._checkpoint WHERE model = 'killed'");
cmp_ok($kept, '>=', 25, "the state behind update $kept is left");
is(sql("SELECT count(*) FROM serm.version WHERE model = 'killed'"), '1', 'and no version');
my ($rc, $out, $err) = $node->psql('postgres', "CALL serm.train('killed', $options)");
like($err, qr/training goes on behind update $kept/, 'the next call goes on there');
is(sql("SELECT count(DISTINCT checksum) FROM serm.version WHERE version = 2"), '1', 'and ends with the bytes of the training that ran through');
is(sql("SELECT count(*) FROM serm.version WHERE version = 2"), '2', '(both are there)');
is(sql('SELECT count(*) FROM serm._checkpoint'), '0', 'nothing else is left');

# --- a state of other judgments is not used

$training = start_sql("CALL serm.train('killed', $options)");
wait_until("coalesce(max(step) > 5, false) FROM serm._checkpoint WHERE model = 'killed'", 'a checkpoint', $training);
my $started = time;
my $took = 1e9;
sql("SELECT pg_cancel_backend(pid) FROM serm.progress WHERE model = 'killed'");
eval { $training->{run}->finish };
like($training->{err}, qr/57014/, 'a training is canceled');
sql(q{CREATE TABLE kept AS SELECT * FROM serm._checkpoint});
sql(q{UPDATE serm._checkpoint SET step = step + 1 WHERE part = 2});
($rc, $out, $err) = $node->psql('postgres', "CALL serm.train('killed', $options)");
like($err, qr/is damaged, and not used/, 'parts of two updates are no state');
unlike($err, qr/goes on/, 'it begins anew');
sql(q{INSERT INTO serm._checkpoint SELECT * FROM kept});
sql(q{INSERT INTO serm.judgment (model, query, doc, grade) VALUES ('killed', 'red shoe', 'blue carpet', 1)});
($rc, $out, $err) = $node->psql('postgres', "CALL serm.train('killed', $options)");
unlike($err, qr/goes on/, 'with another judgment it begins anew');
cmp_ok(sql("SELECT count(*) FROM serm._checkpoint WHERE model = 'killed'"), '>', 0, 'what was kept of the other training waits for its time');

# --- how soon a cancel is heard, the best of three on a busy machine

my $held = 1;
foreach (1 .. 3) {
	$training = start_sql("CALL serm.train('killed', '{\"epochs\": 50}')");
	wait_until("count(*) > 0 FROM serm.progress WHERE phase = 'training' AND loss > 0", 'training', $training);
	# Progress is written now and then; between that nothing is held.
	$held &&= sql(q{SELECT count(*) FROM pg_locks l JOIN serm._progress p USING (pid)
		WHERE l.locktype IN ('relation', 'transactionid') AND l.granted}) foreach 1 .. 5;
	$started = time;
	sql("SELECT pg_cancel_backend(pid) FROM serm.progress WHERE model = 'killed'");
	eval { $training->{run}->finish };
	$took = time - $started if time - $started < $took;
}
cmp_ok($took, '<', .5, sprintf 'a cancel is heard at once, with psql around it: %.3f s', $took);

is($held, '0', 'while it computes it holds neither a lock nor a transaction id');

# --- rounds take the options of the kind

like(($node->psql('postgres', "\\set VERBOSITY verbose\nCALL serm.evolve('through', '{\"train\": {\"pretrain_epochs\": 1}}')"))[2], qr/22023/,
	'a round refuses an option of the other kind');
like(($node->psql('postgres', "\\set VERBOSITY verbose\nCALL serm.evolve('through', '{\"train\": {\"layers_frozen\": 1}}')"))[2], qr/55000/,
	'and takes one of this kind, but has no log to mine');
like(($node->psql('postgres', "\\set VERBOSITY verbose\nCALL serm.merge_versions('killed', '{1,2}')"))[2],
	qr/0A000: versions of kind "cross_encoder" cannot be merged.*HINT: .*CALL serm.train\('killed', '{"parent": 1}'\)/s, 'merging is refused, and the hint says what to do instead');

$node->stop;
done_testing();
