# A cross-encoder of 90 MB: eight backends share its weights, and a long batch is canceled at once.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# --- the files of a model in the shape of MiniLM-L6, with a repeating pattern for weights

my ($hidden, $wide, $layers, $vocab) = (384, 1536, 6, 30522);
my $pattern = pack('f<*', map { 0.05 * sin($_ * $_) } 1 .. 9973);
my (@tensors, $offset);

sub add
{
	my ($name, @shape) = @_;
	my $bytes = 4;
	$bytes *= $_ foreach @shape;
	push @tensors, [ $name, [@shape], $offset // 0, $bytes ];
	$offset += $bytes;
}

sub linear { my ($name, $out, $in) = @_; add("$name.weight", $out, $in); add("$name.bias", $out); }
sub norm { my ($name) = @_; add("$name.weight", $hidden); add("$name.bias", $hidden); }

add('bert.embeddings.word_embeddings.weight', $vocab, $hidden);
add('bert.embeddings.position_embeddings.weight', 512, $hidden);
add('bert.embeddings.token_type_embeddings.weight', 2, $hidden);
norm('bert.embeddings.LayerNorm');
foreach my $layer (0 .. $layers - 1) {
	my $base = "bert.encoder.layer.$layer";
	linear("$base.attention.self.$_", $hidden, $hidden) foreach qw(query key value);
	linear("$base.attention.output.dense", $hidden, $hidden);
	norm("$base.attention.output.LayerNorm");
	linear("$base.intermediate.dense", $wide, $hidden);
	linear("$base.output.dense", $hidden, $wide);
	norm("$base.output.LayerNorm");
}
linear('bert.pooler.dense', $hidden, $hidden);
linear('classifier', 1, $hidden);

my $directory = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $directory;
my $header = '{' . join(',', map {
	sprintf '"%s":{"dtype":"F32","shape":[%s],"data_offsets":[%d,%d]}', $_->[0], join(',', @{ $_->[1] }), $_->[2], $_->[2] + $_->[3]
} @tensors) . '}';
$header .= ' ' x (-length($header) % 8);
open my $file, '>:raw', "$directory/model.safetensors" or die $!;
print $file pack('Q<', length $header), $header;
print $file substr($pattern x (1 + $_->[3] / length $pattern), 0, $_->[3]) foreach @tensors;
close $file;
append_to_file("$directory/config.json", qq({"model_type": "bert", "architectures": ["BertForSequenceClassification"],
	"num_hidden_layers": $layers, "hidden_size": $hidden, "num_attention_heads": 12, "intermediate_size": $wide,
	"vocab_size": $vocab, "max_position_embeddings": 512, "num_labels": 1}));
append_to_file("$directory/vocab.txt", join("\n", qw([PAD] [UNK] [CLS] [SEP] [MASK] blue pillow soft)) . "\n");

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
