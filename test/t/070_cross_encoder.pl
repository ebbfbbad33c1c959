# A cross-encoder of 90 MB: eight backends share its weights, and whatever is done with it ends soon when it is told to.
use strict;
use warnings;

use BertFiles qw(write_bert write_file);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $directory = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $directory;
write_bert($directory, layers => 6, hidden => 384, wide => 1536, heads => 12, positions => 512, vocab => 30522, labels => 1,
	words => [qw(blue pillow soft)]);

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm');
is($node->safe_psql('postgres', "SELECT serm.import_model('mini', '$directory')"), '1', 'the model is imported');

# --- eight backends score it at once; the first one makes the file that the others share

sub anonymous_kb
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/smaps_rollup") =~ /^Anonymous:\s+(\d+) kB/m;
	return $kb;
}

# From now on the kernel refuses a backend more private memory than this, also for a moment.
sub allow_kb
{
	my ($pid, $more) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^VmData:\s+(\d+) kB/m;
	system_or_bail('prlimit', "--pid=$pid", '--data=' . 1024 * ($kb + $more) . ':');
}

sub cache_files
{
	my ($pattern) = @_;
	my @files = glob($node->data_dir . "/serm/pgsql_tmp.*$pattern");
	return @files;
}

my $score = q{SELECT sum(s) FROM (SELECT serm.score_batch('blue pillow', repeat('soft blue pillow ', 20 + i), 'mini') OVER () AS s
	FROM generate_series(1, 4) AS i) AS scored};
is(scalar(cache_files('')), 0, 'nobody has made the cache file');
my @sessions = map { $node->background_psql('postgres') } 1 .. 8;
my (@growth, %sums);
foreach my $session (@sessions) {
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe('SELECT count(*) FROM pg_catalog.pg_class');
	my $before = anonymous_kb($pid);
	allow_kb($pid, 20 * 1024);
	$sums{ $session->query_safe($score) }++;
	push @growth, anonymous_kb($pid) - $before;
}
is_deeply([ values %sums ], [8], 'all of them get the same score, within 20 MB of private memory');
my @files = cache_files('mini.1.*');
cmp_ok(@files == 1 && -s $files[0], '>', 88_000_000, 'the first one has made the file');
my ($most) = sort { $b <=> $a } @growth;
cmp_ok($most, '<', 20 * 1024, "no backend takes more than 20 MB of its own: $most kB");
$_->quit foreach @sessions;

# --- libraries that multiply come into the session that asks for them, without threads, and nowhere else

my %names = (openblas => 'libopenblas', onednn => 'libdnnl');
foreach my $library (sort keys %names) {
	my $session = $node->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe("SET client_min_messages = error; SET serm.gemm = '$library'");
	cmp_ok(abs($session->query_safe($score) - (keys %sums)[0]), '<', 1e-4, "$library or the kernel in its place gives these scores");
	my @threads = glob("/proc/$pid/task/*");
	is(scalar(@threads), 1, 'with one thread');
	my @installed = glob("/usr/lib/*/$names{$library}.so.*");
	SKIP: {
		skip "$library is not installed", 1 unless @installed;
		like(slurp_file("/proc/$pid/maps"), qr/$names{$library}/, 'it is the library');
	}
	$session->quit;
}
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
my @threads = glob("/proc/$postmaster/task/*");
is(scalar(@threads), 1, 'the postmaster has one thread');
unlike(slurp_file("/proc/$postmaster/maps"), qr/libopenblas|libdnnl/, 'and none of the libraries');

# --- whatever is under way ends within 250 ms of processor time when it is told to

sub processor_ms
{
	my ($pid) = @_;
	my ($ns) = split ' ', slurp_file("/proc/$pid/schedstat");
	return $ns / 1e6;
}

# Cancel a statement once it has used so many ms, each time in a session of its own, which may prepare it; the most that it used
# after that. A fast machine may be done before the later ones of these times.
sub cancel_ms
{
	my ($prepare, $sql, @after) = @_;
	my ($most, $canceled) = (0, 0);
	foreach my $after (@after) {
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		my $pid = $session->query_safe('SELECT pg_backend_pid()');
		$session->query_safe($prepare) if $prepare;
		my $begun = processor_ms($pid);
		$session->query_until(qr/begun/, "\\echo begun\n$sql;\n\\echo over\n");
		for (1 .. 3000) {
			$session->{run}->pump_nb;
			last if processor_ms($pid) - $begun >= $after || $session->{stdout} =~ /over/;
			usleep(5_000);
		}
		my $before = processor_ms($pid);
		kill 'INT', $pid;
		$session->query_until(qr/over/, '');
		my $used = processor_ms($pid) - $before;
		$most = $used if $used > $most;
		$canceled++ if $session->{stderr} =~ /canceling statement due to user request/;
		$session->quit;
	}
	return ($canceled > 0, $most);
}

sub ends_soon
{
	my ($what, $prepare, $sql, @after) = @_;
	my ($canceled, $most) = cancel_ms($prepare, $sql, @after);
	ok($canceled, "$what can be canceled");
	cmp_ok($most, '<', 250, sprintf '%s ends within 250 ms of processor time: %.0f', $what, $most);
}

my $long = "repeat('soft blue pillow ', 160)";
ends_soon('scoring', '', "SELECT serm.score_batch('blue pillow', $long, 'mini') OVER () FROM generate_series(1, 2000)", 30, 100, 250, 400);
ends_soon('explaining', '', "SELECT count(*) FROM generate_series(1, 2000) AS i, serm.explain('blue pillow ' || i, $long, 'mini')", 30, 150, 300);
# Each time the cache file is made anew, and brought to the disk.
$node->safe_psql('postgres', $_) foreach 'ALTER SYSTEM SET fsync = on', 'SELECT pg_reload_conf()';
ends_soon('laying out weights', join('', map { "SELECT serm.alter_model('mini', '{\"precision\": \"$_\"}');" } qw(f32 bf16)),
	"SELECT serm.score('blue', $long, 'mini') FROM generate_series(1, 2000)", 10, 60, 120, 180, 240);
is(scalar(cache_files('*.tmp')), 0, 'no part of a file is left by those that were canceled');
$node->safe_psql('postgres', $_) foreach 'ALTER SYSTEM SET fsync = off', 'SELECT pg_reload_conf()';
$node->safe_psql('postgres', "SELECT serm.alter_model('mini', '{\"precision\": \"f32\"}');
	INSERT INTO serm.judgment (model, query, doc_id, doc, grade) SELECT 'mini', 'q' || i % 40, i::text, repeat('soft blue pillow ', 40) || i, i % 2 FROM generate_series(1, 400) AS i");
ends_soon('training', '', "CALL serm.train('mini', '{\"checkpoint\": -1}')", 50, 200, 400, 700, 1100, 1800);

like(($node->psql('postgres', "\\set VERBOSITY verbose\nSET serm.train_memory = '64MB'; CALL serm.train('mini')"))[2],
	qr/ERROR:  53200: the weights of model "mini" alone do not fit in 64 MB/, 'weights that do not fit are not read');

# A vocabulary of 250,000 pieces in the form of one file; it does not fit to the encoder, but that is found out at the end.
my $wide = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $wide;
write_file("$wide/config.json", slurp_file("$directory/config.json"));
write_file("$wide/tokenizer.json", '{"added_tokens":[{"id":0,"content":"[UNK]","special":true},{"id":1,"content":"[SEP]","special":true}],'
	  . '"normalizer":{"type":"BertNormalizer"},"pre_tokenizer":{"type":"BertPreTokenizer"},'
	  . '"post_processor":{"type":"BertProcessing","sep":["[SEP]",1],"cls":["[SEP]",1]},'
	  . '"model":{"type":"WordPiece","unk_token":"[UNK]","vocab":{"[UNK]":0,"[SEP]":1'
	  . join('', map { sprintf ',"w%x":%d', $_ * 2654435761 % 4294967296, $_ + 1 } 1 .. 250000) . '}}}');
like(($node->psql('postgres', "SELECT serm.import_model('wide', '$wide')"))[2], qr/the tokenizer has 250002 tokens, the encoder only 30522/,
	'a large vocabulary is read');
ends_soon('reading a tokenizer', '', "SELECT serm.import_model('wide', '$wide')", 20, 80, 160, 240);
ends_soon('reading weights', '', "SELECT serm.import_model('other', '$directory')", 20, 60, 100, 150);

# --- of a document of 100 MB the beginning is read

my $large = "repeat('soft blue pillow ', 6000000)";
is($node->safe_psql('postgres', "SELECT serm.encode($large, 'mini') OPERATOR(serm.=) serm.encode(left($large, 70000), 'mini'),
	serm.score('blue pillow', $large, 'mini') = serm.score('blue pillow', left($large, 70000), 'mini')"), 't|t', 'a document of 100 MB');
$node->safe_psql('postgres', "CREATE TABLE document (doc text); ALTER TABLE document ALTER doc SET STORAGE external; INSERT INTO document VALUES ($large)");
ends_soon('encoding large documents', '', "SELECT count(serm.encode(doc, 'mini')) FROM document, generate_series(1, 30000)", 50, 150);
my $session = $node->background_psql('postgres');
my $pid = $session->query_safe("SELECT pg_backend_pid() FROM (SELECT serm.score('blue', 'pillow', 'mini')) AS warm");
allow_kb($pid, 20 * 1024);
is($session->query_safe("SELECT count(serm.encode(doc, 'mini')) + count(serm.score('blue pillow', doc, 'mini')) FROM document"), '2',
	'of a stored one it takes no more memory than of a short one');
$session->quit;

# --- and goes on under interrupts that ask for nothing

my (undef, $scored, $errors) = $node->psql('postgres', q{
	SET statement_timeout = '60s';
	SET client_connection_check_interval = '20ms';
	SELECT count(s) FROM (SELECT serm.score_batch('blue pillow', repeat('soft blue pillow ', 160), 'mini') OVER () AS s
		FROM generate_series(1, 4) AS i) AS scored});
is($scored, '4', 'a batch that is longer than client_connection_check_interval ends') or diag $errors;

$node->stop;
done_testing();
