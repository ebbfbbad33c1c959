# A cross-encoder of 90 MB: eight backends share its weights, and a long batch is canceled at once.
use strict;
use warnings;

use BertFiles qw(write_bert);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

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

# --- eight backends score it at once

sub anonymous_kb
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/smaps_rollup") =~ /^Anonymous:\s+(\d+) kB/m;
	return $kb;
}

my $score = q{SELECT sum(s) FROM (SELECT serm.score_batch('blue pillow', repeat('soft blue pillow ', 20 + i), 'mini') OVER () AS s
	FROM generate_series(1, 4) AS i) AS scored};
my $sum = $node->safe_psql('postgres', $score);    # whoever is first writes the cache file
my @sessions = map { $node->background_psql('postgres') } 1 .. 8;
my @growth;
my $same = 0;
foreach my $session (@sessions) {
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe('SELECT count(*) FROM pg_catalog.pg_class');
	my $before = anonymous_kb($pid);
	$same++ if $session->query_safe($score) eq $sum;
	push @growth, anonymous_kb($pid) - $before;
}
is($same, 8, 'all of them get the same score');
my ($most) = sort { $b <=> $a } @growth;
cmp_ok($most, '<', 20 * 1024, "no backend takes more than 20 MB of its own: $most kB");
$_->quit foreach @sessions;

# --- a long statement ends when it is told to

my $started = time;
my ($status, undef, $errors) = $node->psql('postgres', q{
	SET statement_timeout = '300ms';
	SELECT sum(s) FROM (SELECT serm.score_batch('blue pillow', repeat('soft blue pillow ', 160), 'mini') OVER () AS s
		FROM generate_series(1, 2000) AS i) AS scored});
my $took = time - $started;
like($errors, qr/canceling statement due to statement timeout/, 'a long batch is canceled');
cmp_ok($took, '<', 5, sprintf 'soon: %.2f s', $took);

# --- and goes on under interrupts that ask for nothing

($status, my $scored, $errors) = $node->psql('postgres', q{
	SET statement_timeout = '60s';
	SET client_connection_check_interval = '20ms';
	SELECT count(s) FROM (SELECT serm.score_batch('blue pillow', repeat('soft blue pillow ', 160), 'mini') OVER () AS s
		FROM generate_series(1, 4) AS i) AS scored});
is($scored, '4', 'a batch that is longer than client_connection_check_interval ends') or diag $errors;

$node->stop;
done_testing();
