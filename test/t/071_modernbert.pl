# ModernBERT from a directory to a score: models whose weights come from a formula give the scores that follow from the
# logits of the published implementation (test/unit/encoder_modern_golden.h), also from the cache after a restart. And
# RoBERTa from several files of weights, vocab.json and merges.txt, by test/unit/encoder_classic_golden.h.
use strict;
use warnings;
no warnings 'portable';    # 64-bit constants

use BertFiles qw(write_file);
use File::Path qw(remove_tree);
use FindBin;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# --- the formula of test/unit/encoder_modern_fixture.h, in 64 bits that wrap

sub mix
{
	use integer;
	my ($x) = @_;
	$x += 0x9e3779b97f4a7c15;
	$x = ($x ^ (($x >> 30) & 0x3ffffffff)) * 0xbf58476d1ce4e5b9;
	$x = ($x ^ (($x >> 27) & 0x1fffffffff)) * 0x94d049bb133111eb;
	return $x ^ (($x >> 31) & 0x1ffffffff);
}

sub seed_of
{
	use integer;
	my $hash = 0xcbf29ce484222325;
	$hash = ($hash ^ ord($_)) * 0x100000001b3 foreach split //, $_[0];
	return $hash;
}

sub weights
{
	use integer;
	my ($name, $rank, $count) = @_;
	my ($seed, @bits) = (seed_of($name));
	push @bits, (mix($seed + $_) >> 48) & 0xffff foreach 0 .. $count - 1;
	no integer;
	my $spread = $rank == 1 ? 0.25 : $name =~ /tok_embeddings/ ? 0.5 : 0.375;
	return pack 'f<*', map { my $v = ($_ - 32768) / 32768; $name =~ /orm\.weight$/ ? 1 + $v / 2 : $spread * $v } @bits;
}

# Query and document of an input: token 1 is [CLS], 2 [SEP], 60 [UNK] as any unknown word, the others w3 to w59.
sub texts
{
	my ($number, $length) = @_;
	my @ids = map { 3 + (mix(1000 * $number + $_) & ~0) % 58 } 0 .. $length - 1;
	my @words = map { $_ == 60 ? 'unknown' : "w$_" } @ids;
	my $middle = int($length / 3);
	return (join(' ', @words[ 1 .. $middle - 1 ]), join(' ', @words[ $middle + 1 .. $length - 2 ]));
}

# --- the files of the four models

my %common = (model_type => 'modernbert', architectures => ['ModernBertForSequenceClassification'], vocab_size => 61, hidden_size => 32,
	intermediate_size => 48, num_hidden_layers => 4, num_attention_heads => 4, max_position_embeddings => 64, pad_token_id => 0,
	position_embedding_type => 'absolute', torch_dtype => 'float32');
my %biases = map { $_ => JSON::PP::true } qw(norm_bias attention_bias mlp_bias classifier_bias);
my @variants = (
	# The older form of positions and layers, the newer one, and both with every bias.
	{ labels => 1, config => { local_attention => 8, global_attn_every_n_layers => 3, global_rope_theta => 160000.0, local_rope_theta => 10000.0 } },
	{ labels => 4, config => { local_attention => 8, classifier_pooling => 'mean', layer_types =>
				[ 'full_attention', 'sliding_attention', 'sliding_attention', 'full_attention' ],
			rope_parameters => { full_attention => { rope_type => 'default', rope_theta => 160000.0 },
				sliding_attention => { rope_type => 'default', rope_theta => 10000.0 } } } },
	{ labels => 4, config => { %biases, local_attention => 7, global_attn_every_n_layers => 2, classifier_activation => 'silu', norm_eps => 1e-3 } },
	{ labels => 1, config => { %biases, local_attention => 12, hidden_activation => 'gelu_pytorch_tanh', classifier_pooling => 'mean',
			global_rope_theta => 500, local_rope_theta => 50 } });

sub tensors
{
	my ($labels, $bias) = @_;
	my @list = (['embeddings.tok_embeddings', 61, 32], ['embeddings.norm', 32]);
	foreach my $layer (map { "layers.$_" } 0 .. 3) {
		push @list, ["$layer.attn_norm", 32] if $layer ne 'layers.0';
		push @list, ["$layer.attn.Wqkv", 96, 32], ["$layer.attn.Wo", 32, 32], ["$layer.mlp_norm", 32], ["$layer.mlp.Wi", 96, 32],
		  ["$layer.mlp.Wo", 32, 48];
	}
	push @list, ['final_norm', 32], ['head.dense', 32, 32], ['head.norm', 32], ['classifier', $labels, 32];
	return map { my ($name, @shape) = @$_; (["$name.weight", @shape],
			($bias && $name !~ /tok_embeddings/) || $name eq 'classifier' ? ["$name.bias", $shape[0]] : ()) } @list;
}

my $json = JSON::PP->new->canonical;
my $root = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $root;

sub write_model
{
	my ($directory, $labels, $config) = @_;
	my ($header, $body) = ({}, '');
	foreach (tensors($labels, $config->{norm_bias})) {
		my ($name, @shape) = @$_;
		my $bytes = weights($name, scalar @shape, $shape[0] * ($shape[1] // 1));
		my $stored = $name =~ /^(head|classifier)\./ ? $name : "model.$name";
		$header->{$stored} = { dtype => 'F32', shape => \@shape, data_offsets => [ length $body, length($body) + length $bytes ] };
		$body .= $bytes;
	}
	my $head = $json->encode($header);
	mkdir $directory;
	write_file("$directory/model.safetensors", pack('Q<', length $head) . $head . $body);
	write_file("$directory/config.json",
		$json->encode({ %common, %$config, id2label => { map { ($_ => "LABEL_$_") } 0 .. $labels - 1 } }));
	my %vocab = ('[PAD]' => 0, '[CLS]' => 1, '[SEP]' => 2, '[UNK]' => 60, map { ("w$_" => $_) } 3 .. 59);
	my %special = map { ($_ => { id => $_, ids => [ $vocab{$_} ], tokens => [$_] }) } qw([CLS] [SEP]);
	my ($first, $end, $a, $b) = ({ SpecialToken => { id => '[CLS]', type_id => 0 } }, { SpecialToken => { id => '[SEP]', type_id => 0 } },
		{ Sequence => { id => 'A', type_id => 0 } }, { Sequence => { id => 'B', type_id => 0 } });
	write_file("$directory/tokenizer.json", $json->encode({
		model => { type => 'WordPiece', unk_token => '[UNK]', continuing_subword_prefix => '##', max_input_chars_per_word => 100, vocab => \%vocab },
		normalizer => { type => 'BertNormalizer', clean_text => JSON::PP::true, handle_chinese_chars => JSON::PP::true,
			strip_accents => undef, lowercase => JSON::PP::true },
		pre_tokenizer => { type => 'BertPreTokenizer' },
		added_tokens => [ map { { id => $vocab{$_}, content => $_, special => JSON::PP::true, single_word => JSON::PP::false,
				lstrip => JSON::PP::false, rstrip => JSON::PP::false, normalized => JSON::PP::false } } qw([PAD] [CLS] [SEP] [UNK]) ],
		post_processor => { type => 'TemplateProcessing', single => [ $first, $a, $end ], pair => [ $first, $a, $end, $b, $end ],
			special_tokens => \%special } }));
}

my $golden = slurp_file("$FindBin::Bin/../unit/encoder_modern_golden.h");
my @logits = map { [ map { [ split /,\s*/ ] } /\{([^{}]+)\}/g ] } $golden =~ /\.logits = \{(.*?\})\}/gs;
is(scalar(grep { @$_ == 6 } @logits), 4, 'the golden logits are read');

sub expected
{
	my @z = @_;
	return 1 / (1 + exp(-$z[0])) if @z == 1;
	my ($total, $score) = (0, 0);
	$total += exp($_) foreach @z;
	$score += $_ * exp($z[$_]) / $total foreach 0 .. $#z;
	return $score;
}

# --- import and score

my $node = PostgreSQL::Test::Cluster->new('modern');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm');

my @lengths = (1, 4, 9, 17, 40, 64);
my %scores;
my $all = '';
foreach my $v (0 .. 3) {
	write_model("$root/m$v", $variants[$v]{labels}, $variants[$v]{config});
	is($node->safe_psql('postgres', "SELECT serm.import_model('m$v', '$root/m$v')"), '1', "variant $v is imported");
	remove_tree("$root/m$v");
	my $worst = 0;
	foreach my $i (2 .. 5) {
		my ($query, $doc) = texts($i, $lengths[$i]);
		my $call = "SELECT serm.score('$query', '$doc', 'm$v')";
		my $score = $scores{$call} = $node->safe_psql('postgres', $call);
		my $off = abs($score - expected(@{ $logits[$v][$i] }));
		$worst = $off if $off > $worst;
	}
	cmp_ok($worst, '<', 1e-5, "variant $v: scores of the published implementation's logits, to $worst");
}
my @texts = map { [ texts($_, $lengths[$_]) ] } 2 .. 5;
is($node->safe_psql('postgres', "SELECT score FROM serm.rank('$texts[0][0]', ARRAY['$texts[0][1]', '$texts[1][1]', '$texts[2][1]'], 'm1')
	WHERE ordinal = 1"), $scores{"SELECT serm.score('$texts[0][0]', '$texts[0][1]', 'm1')"}, 'a batch gives the same bits');
is($node->safe_psql('postgres', "SELECT config->>'architecture' FROM serm.version WHERE model = 'm2'"), 'modernbert', 'the version says what it is');

# --- RoBERTa: the bytes A to Z, a to z and 0 to 5 are tokens 3 to 60, the other bytes what follows

my @letters = ('A' .. 'Z', 'a' .. 'z', 0 .. 5);

sub write_roberta
{
	my ($directory, $labels) = @_;
	my $pair = sub { my ($name, @shape) = @_; return ([ "$name.weight", @shape ], [ "$name.bias", $shape[0] ]); };
	my @list = ([ 'embeddings.word_embeddings.weight', 300, 32 ], [ 'embeddings.position_embeddings.weight', 66, 32 ],
		[ 'embeddings.token_type_embeddings.weight', 1, 32 ], $pair->('embeddings.LayerNorm', 32));
	foreach my $base (map { "encoder.layer.$_" } 0 .. 2) {
		push @list, map({ $pair->("$base.attention.self.$_", 32, 32) } qw(query key value)),
		  $pair->("$base.attention.output.dense", 32, 32), $pair->("$base.attention.output.LayerNorm", 32),
		  $pair->("$base.intermediate.dense", 48, 32), $pair->("$base.output.dense", 32, 48), $pair->("$base.output.LayerNorm", 32);
	}
	push @list, $pair->('classifier.dense', 32, 32), $pair->('classifier.out_proj', $labels, 32);
	my (%map, @header, @body);
	foreach my $n (0 .. $#list) {
		my ($name, @shape) = @{ $list[$n] };
		my $bytes = weights($name, scalar @shape, $shape[0] * ($shape[1] // 1));
		my $file = $n % 2;
		my $stored = $name =~ /^classifier/ ? $name : "roberta.$name";
		$body[$file] //= '';
		$header[$file]{$stored} = { dtype => 'F32', shape => \@shape, data_offsets => [ length $body[$file], length($body[$file]) + length $bytes ] };
		$body[$file] .= $bytes;
		$map{$stored} = "model-$file.safetensors";
	}
	mkdir $directory;
	foreach my $file (0, 1) {
		my $head = $json->encode($header[$file]);
		write_file("$directory/model-$file.safetensors", pack('Q<', length $head) . $head . $body[$file]);
	}
	write_file("$directory/model.safetensors.index.json", $json->encode({ weight_map => \%map }));
	write_file("$directory/config.json", $json->encode({ model_type => 'roberta', architectures => ['RobertaForSequenceClassification'],
		vocab_size => 300, hidden_size => 32, intermediate_size => 48, num_hidden_layers => 3, num_attention_heads => 4,
		max_position_embeddings => 66, type_vocab_size => 1, pad_token_id => 1, layer_norm_eps => 1e-5,
		id2label => { map { ($_ => "LABEL_$_") } 0 .. $labels - 1 } }));
	my (%vocab, $others) = ('<s>' => 0, '<pad>' => 1, '</s>' => 2);
	$vocab{$letters[$_]} = $_ + 3 foreach 0 .. $#letters;
	foreach my $byte (0 .. 255) {
		my $printable = ($byte >= 33 && $byte <= 126) || ($byte >= 161 && $byte != 173);
		$vocab{ chr($printable ? $byte : 256 + $others++) } //= keys %vocab;
	}
	write_file("$directory/vocab.json", JSON::PP->new->ascii->encode(\%vocab));
	write_file("$directory/merges.txt", "#version: 0.2\n");
}

my $classic = slurp_file("$FindBin::Bin/../unit/encoder_classic_golden.h");
my @classic = map { [ map { [ split /,\s*/ ] } /\{([^{}]+)\}/g ] } $classic =~ /\.logits = \{(.*?\})\}/gs;
foreach my $v (2, 3) {
	write_roberta("$root/r$v", $v == 3 ? 4 : 1);
	is($node->safe_psql('postgres', "SELECT serm.import_model('r$v', '$root/r$v')"), '1', "RoBERTa, variant $v, is imported");
	my $worst = 0;
	foreach my $i (2 .. 5) {
		my $middle = int($lengths[$i] / 3);
		my $text = join '', map { $letters[ (mix(1000 * $i + $_) & ~0) % 58 ] } 0 .. $lengths[$i] - 1;
		my ($query, $doc) = (substr($text, 1, $middle - 1), substr($text, $middle + 2, $lengths[$i] - $middle - 3));
		my $off = abs($node->safe_psql('postgres', "SELECT serm.score('$query', '$doc', 'r$v')") - expected(@{ $classic[$v][$i] }));
		$worst = $off if $off > $worst;
	}
	cmp_ok($worst, '<', 1e-5, "RoBERTa, variant $v: scores of the golden logits, to $worst");
}

# --- narrow weights: near the scores, with explanations that sum to them, and back to the same bits

my $narrow_vector = slurp_file('/proc/cpuinfo') =~ /avx512_vnni/;
foreach my $precision (qw(bf16 int8)) {
	foreach my $v (0 .. 3) {
		my ($worst, $equal, $off, $batch) = (0, 0, 0, 0);
		$node->safe_psql('postgres', qq{SELECT serm.alter_model('m$v', '{"precision": "$precision"}')});
		foreach my $pair (@texts) {
			my ($query, $doc) = @$pair;
			my $exact = $scores{"SELECT serm.score('$query', '$doc', 'm$v')"};
			my ($score, $sum, $same) = split /\|/, $node->safe_psql('postgres', qq{SELECT serm.score('$query', '$doc', 'm$v'),
				(SELECT sum(contribution::float8) FROM serm.explain('$query', '$doc', 'm$v')),
				serm.score('$query', serm.encode('$doc', 'm$v'), 'm$v') = serm.score('$query', '$doc', 'm$v') AND
				(SELECT bool_and(s = serm.score('$query', d, 'm$v')) FROM (SELECT d, serm.score_batch('$query', d, 'm$v') OVER () AS s
					FROM unnest(ARRAY['$doc', '$texts[0][1]', '$texts[3][1]']) AS d) AS b)});
			my $moved = abs($score - $exact);
			$worst = $moved if $moved > $worst;
			$equal++ if $score eq $exact;
			$off = abs($sum - $score) if abs($sum - $score) > $off;
			$batch++ if $same eq 't';
		}
		cmp_ok($worst, '<', $precision eq 'bf16' ? 0.05 : 0.2, "variant $v in $precision: scores move by $worst");
		cmp_ok($equal, '<', 4, 'they are other ones') if $precision eq 'bf16' || $narrow_vector;
		cmp_ok($off, '<', 1e-5, 'contributions sum to them');
		is($batch, 4, 'tokens and batches give their bits');
	}
}
$node->safe_psql('postgres', qq{SELECT serm.alter_model('m$_', '{"precision": "f32"}')}) foreach 0 .. 3;

$node->restart;
is(scalar(grep { $node->safe_psql('postgres', $_) ne $scores{$_} } keys %scores), 0, 'the same scores after a restart');

# --- and it learns: how many words of the query are in the document

$node->safe_psql('postgres', q{
	INSERT INTO serm.judgment (model, query, doc_id, doc, grade)
	SELECT 'm1', format('w%s w%s w%s', q, q + 1, q + 2), grade::text,
		CASE grade WHEN 0 THEN 'w50 w51 w52' WHEN 1 THEN format('w50 w%s w52', q) WHEN 2 THEN format('w%s w%s w52', q, q + 1)
			ELSE format('w%s w%s w%s', q, q + 1, q + 2) END, grade
	  FROM generate_series(3, 42) AS q, generate_series(0, 3) AS grade;
	CALL serm.train('m1', '{"epochs": 4, "learning_rate": 0.002, "dropout": 0.1}')});
is($node->safe_psql('postgres', q{SELECT serm.check_version('m1', 2), config->>'architecture', (SELECT count(*) FROM serm.tensor AS a
	JOIN serm.tensor AS b USING (model, name, dtype, shape) WHERE model = 'm1' AND a.version = 1 AND b.version = 2)
	FROM serm.version WHERE model = 'm1' AND version = 2}), 't|modernbert|32', 'a trained version has the tensors of its parent');
is($node->safe_psql('postgres', q{SELECT b.value < a.value - 0.3 FROM serm.evaluate('m1', 1, 'train') AS a JOIN serm.evaluate('m1', 2, 'train') AS b
	USING (metric) WHERE metric = 'nll'}), 't', 'and a smaller loss');

# --- what is not computed is refused

my %refused = (
	'a scaled form of rotary positions' => { rope_scaling => { type => 'linear', factor => 2 } },
	'a pooling besides cls and mean' => { classifier_pooling => 'max' },
	'an order of global and local layers' => { layer_types => [ ('sliding_attention') x 4 ] },
	'rotary positions need heads of even size' => { num_attention_heads => 32 });
foreach my $what (sort keys %refused) {
	write_model("$root/bad", 1, $refused{$what});
	my (undef, undef, $errors) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT serm.import_model('bad', '$root/bad')");
	like($errors, qr/0A000: config\.json cannot be imported: .*\Q$what\E.*HINT:  .*sequence classifiers/s, "refused with a hint: $what");
}

$node->stop;
done_testing();
