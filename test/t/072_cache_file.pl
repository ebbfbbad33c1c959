# The file of a model's weights: whoever needs it at the same time, one process makes it and the others wait for it; what crashes and
# failures leave of it goes.
use strict;
use warnings;

use BertFiles qw(write_bert);
use File::Temp qw(tempdir);
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $directory = tempdir(CLEANUP => 1);
chmod 0755, $directory;
write_bert($directory, layers => 1, hidden => 256, wide => 512, heads => 4, positions => 64, vocab => 30522, labels => 1,
	words => [qw(blue pillow soft)]);

# --- a server whose disk stands still, and fails, when it is told to
system_or_bail($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', "$directory/disk.so", "$FindBin::RealBin/../mock/disk.c", '-ldl');
append_to_file("$directory/disk", pack('q5', (0) x 5));
chmod 0666, "$directory/disk";
$ENV{LD_PRELOAD} = "$directory/disk.so";
$ENV{SERM_DISK} = "$directory/disk";
my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\nstatement_timeout = '60s'\n");
$node->start;

my ($at_reserving, $at_renaming) = (1, 2);
my ($no_flush_of_directory, $no_room) = (1, 2);
# Where the disk stands still (0: nowhere), what it cannot do; nothing has been counted then.
sub disk
{
	my ($still, $fault) = @_;
	open my $file, '+<', "$directory/disk" or die $!;
	syswrite $file, pack('q4', $still, $fault, 0, 0);
	close $file;
}
# Let it go on, and keep the counts.
sub go_on
{
	open my $file, '+<', "$directory/disk" or die $!;
	syswrite $file, pack('q', 0);
	close $file;
}
sub reserved { return (unpack 'q5', slurp_file("$directory/disk"))[2]; }
sub renamed { return (unpack 'q5', slurp_file("$directory/disk"))[3]; }
sub standing { return (unpack 'q5', slurp_file("$directory/disk"))[4]; }

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub cache_files
{
	my ($pattern) = @_;
	my @found = glob($node->data_dir . "/serm/*$pattern");
	return @found;
}
sub no_files { unlink cache_files(''); }
sub bytes_on_disk
{
	my $sum = 0;
	$sum += 512 * (stat $_)[12] foreach cache_files('');
	return $sum;
}
sub anonymous_kb
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/smaps_rollup") =~ /^Anonymous:\s+(\d+) kB/m;
	return $kb;
}
sub wait_until
{
	my ($condition) = @_;
	for (my $end = time + 60; time < $end; usleep(10_000)) { return if $condition->(); }
	die 'waited in vain';
}

sql("CREATE EXTENSION serm; SELECT serm.import_model('mini', '$directory'), serm.import_model('other', '$directory')");
my $score = q{SELECT 'score=' || serm.score('blue pillow', 'soft blue pillow', 'mini')};
my $expected = sql($score);
my ($file) = cache_files('mini.1.*');
my $size = -s $file;
cmp_ok($size, '>', 30_000_000, 'a file of 30 MB');

# A session whose statement is under way, and what it says once that has ended.
sub begin
{
	my ($statement, $session) = @_;
	$session //= session();
	$session->{stderr} = '';
	$session->{said} = $session->query_until(qr/begun/, "\\echo begun\n$statement;\n\\echo over\n");
	return $session;
}
sub session { return $node->background_psql('postgres', on_error_stop => 0); }
sub said
{
	my ($session) = @_;
	$session->{said} .= $session->query_until(qr/over/, '') unless $session->{said} =~ /over/;
	return $session->{stderr} if $session->{stderr} ne '';
	return join ',', $session->{said} =~ /(score=\S+)/g;
}
# Of those processes: how many wait for this.
sub waiting
{
	my ($event, @pids) = @_;
	return sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = '$event' AND (pid IN (@{[join ',', @pids]}) OR leader_pid IN (@{[join ',', @pids]}))");
}

# --- eight sessions at once
{
	no_files();
	my @sessions = map { session() } 1 .. 8;
	my @pids = map { $_->query_safe('SELECT pg_backend_pid()') } @sessions;
	my @before = map { anonymous_kb($_) } @pids;
	disk($at_renaming, 0);
	begin("SET lock_timeout = '1ms'; $score", $_) foreach @sessions;
	wait_until(sub { standing() + waiting('advisory', @pids) == 8 });
	is(standing(), 1, 'one of eight sessions makes the file');
	is(waiting('advisory', @pids), 7, 'the others wait');
	cmp_ok(bytes_on_disk(), '<', $size * 1.1, 'the file is on the disk once');
	my ($maker) = grep { waiting('advisory', $_) == 0 } @pids;
	my ($at) = grep { $pids[$_] != $maker } 0 .. 7;
	sql("SELECT pg_cancel_backend($pids[$at])");
	like(said($sessions[$at]), qr/canceling statement due to user request/, 'who waits can be canceled');
	splice @$_, $at, 1 foreach \@sessions, \@pids, \@before;
	go_on();
	is_deeply([ map { said($_) } @sessions ], [ ($expected) x 7 ], 'all others score, whatever their lock_timeout');
	is(reserved() . ' ' . renamed(), '1 1', 'by one file, which was made once');
	is_deeply([ cache_files('') ], [$file], 'and is the only one');
	my ($most) = sort { $b <=> $a } map { anonymous_kb($pids[$_]) - $before[$_] } 0 .. 6;
	cmp_ok($most, '<', $size / 1024 / 2, "no session has weights of its own: $most kB at most");
	$_->quit foreach @sessions;
}

# --- whoever was to make it fails
{
	no_files();
	disk($at_reserving, 0);
	my @sessions = map { session() } 1 .. 3;
	my @pids = map { $_->query_safe('SELECT pg_backend_pid()') } @sessions;
	begin($score, $_) foreach @sessions;
	wait_until(sub { standing() + waiting('advisory', @pids) == 3 });
	my ($maker) = grep { waiting('advisory', $_) == 0 } @pids;
	sql("SELECT pg_cancel_backend($maker)");
	go_on();
	is_deeply([ sort map { s/.*(canceling).*/$1/sr } map { said($_) } @sessions ], [ 'canceling', $expected, $expected ],
		'when the first one is canceled, the others score');
	is(reserved() . ' ' . renamed(), '2 1', 'by the file of the second');
	is_deeply([ cache_files('') ], [$file], 'nothing of the first one is left');
	$_->quit foreach @sessions;
}

# --- a damaged file
{
	no_files();
	append_to_file($file, 'no weights' x 100);
	my $log = -s $node->logfile;
	disk($at_renaming, 0);
	my @sessions = map { session() } 1 .. 3;
	my @pids = map { $_->query_safe('SELECT pg_backend_pid()') } @sessions;
	begin($score, $_) foreach @sessions;
	wait_until(sub { standing() + waiting('advisory', @pids) == 3 });
	go_on();
	is_deeply([ map { said($_) } @sessions ], [ ($expected) x 3 ], 'sessions that find a damaged file score');
	is(renamed(), '1', 'it was made again once');
	is(scalar(() = slurp_file($node->logfile, $log) =~ /is damaged and will be made again/g), 1, 'as the log says, once');
	$_->quit foreach @sessions;
}

# --- processes of one session, which locks do not keep from each other
{
	sql(q{CREATE TABLE document AS SELECT i, 'soft blue pillow' AS doc, repeat('x', 1900) AS filler FROM generate_series(1, 200) AS i;
		ALTER TABLE document SET (parallel_workers = 2); ANALYZE document});
	my $all = q{SELECT 'score=' || avg(serm.score('blue pillow', doc, 'mini')) FROM document WHERE filler <> ''};
	my $serial = sql("SET max_parallel_workers_per_gather = 0; $all");
	no_files();
	disk($at_renaming, 0);
	my $session = session();
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe('SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0');
	begin($all, $session);
	wait_until(sub { standing() + waiting('Extension', $pid) == 3 });
	is(standing(), 1, 'one of a session and its two workers makes the file');
	go_on();
	is(said($session), $serial, 'and all of them score');
	is(reserved() . ' ' . renamed(), '1 1', 'by one file');
	is_deeply([ cache_files('') ], [$file], 'nothing else is left');
	$session->quit;
}

# --- the lock lasts as long as the making
{
	no_files();
	disk(0, 0);
	my $locks = q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'};
	is(sql("BEGIN; $score; $locks; COMMIT"), "$expected\n0", 'a transaction goes on without the lock');
	no_files();
	disk(0, $no_room);
	my (undef, $out, $err) = $node->psql('postgres', "BEGIN; $score; $locks; COMMIT");
	is($out, "$expected\n0", 'also one that had to take memory of its own');
	like($err, qr/could not write cache file .*: No space left on device/, 'as there was no room for the file');
	is_deeply([ cache_files('') ], [], 'and there is none');

	# Who has locked the table of weights is waited for before anybody waits for us.
	disk(0, 0);
	my $owner = session();
	$owner->query_safe('BEGIN; LOCK TABLE serm.tensor IN ACCESS EXCLUSIVE MODE');
	my $scoring = session();
	my $pid = $scoring->query_safe('SELECT pg_backend_pid()');
	begin($score, $scoring);
	wait_until(sub { waiting('relation', $pid) == 1 });
	is(said(begin("$score; COMMIT", $owner)), $expected, 'a session that has locked the table meets no deadlock');
	is(said($scoring), $expected, 'nor does who waits for it');
	$_->quit foreach $owner, $scoring;
}

# --- a file whose name could not be flushed is not kept
{
	no_files();
	sql('ALTER SYSTEM SET fsync = on');
	$node->reload;
	wait_until(sub { sql('SHOW fsync') eq 'on' });
	disk(0, $no_flush_of_directory);
	my (undef, $out, $err) = $node->psql('postgres', $score);
	is($out, $expected, 'a session scores');
	like($err, qr/WARNING:  could not write cache file .*: Input\/output error/, 'when the directory could not be flushed');
	is(renamed(), '1', 'the file had its name by then');
	is_deeply([ cache_files('') ], [], 'and is taken away');
	disk(0, 0);
	(undef, $out, $err) = $node->psql('postgres', $score);
	is("$out$err", $expected, 'the next one says nothing');
	is_deeply([ cache_files('') ], [$file], 'and has its file');
	sql('ALTER SYSTEM RESET fsync');
}

# --- what a crash leaves
sub crash
{
	no_files();
	disk($at_renaming, 0);
	my $session = begin($score);
	wait_until(sub { standing() == 1 });
	my ($left) = cache_files('.tmp');
	cmp_ok(-s $left, '==', $size, 'a file is being made');
	$node->stop('immediate');
	$session->{run}->finish;
	open my $handle, '+<', "$directory/disk" or die $!;
	syswrite $handle, pack('q5', (0) x 5);
	close $handle;
	return $left;
}
{
	my $left = crash();
	$node->start;
	ok(-e $left, 'a crash leaves a part of it');
	sql(q{SELECT serm.score('blue pillow', 'soft blue pillow', 'other')});
	ok(!-e $left, 'which goes when the next file is made');

	crash();
	$node->start;
	is(sql($score), $expected, 'a file that a crash has left is made again');
	is_deeply([ cache_files('') ], [$file], 'and nothing else is there');

	# A temporary file that is being made is no leftover.
	no_files();
	disk($at_renaming, 0);
	my $session = begin($score);
	wait_until(sub { standing() == 1 });
	my ($alive) = cache_files('.tmp');
	my $other = begin(q{SELECT serm.score('blue pillow', 'soft blue pillow', 'other')});
	wait_until(sub { standing() == 2 });
	ok(-e $alive, 'one that is being made stays');
	go_on();
	is(said($session), $expected, 'and becomes the file');
	said($other);
	is(renamed(), '2', 'as does that of another model, at the same time');
	$_->quit foreach $session, $other;

	$left = crash();
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm'");
	$node->start;
	wait_until(sub { !-e $left });
	pass('the launcher of a preloaded library takes it away when the server starts');
}

$node->stop;
done_testing();
