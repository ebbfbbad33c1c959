# The files of a BERT cross-encoder as other tools write them: config.json, vocab.txt, model.safetensors. Its weights are a pattern.
package BertFiles;
use strict;
use warnings;

use Exporter qw(import);
use JSON::PP;

our @EXPORT_OK = qw(write_bert write_file);

sub write_file
{
	my ($path, $bytes) = @_;
	open(my $file, '>:raw', $path) or die "$path: $!";
	print $file $bytes;
	close($file) or die "$path: $!";
}

# Names and shapes, in the order of the file.
sub shapes
{
	my (%of) = @_;
	my ($hidden, $wide) = @of{qw(hidden wide)};
	my $linear = sub { my ($name, $out, $in) = @_; return ([ "$name.weight", $out, $in ], [ "$name.bias", $out ]); };
	my $norm = sub { my ($name) = @_; return ([ "$name.weight", $hidden ], [ "$name.bias", $hidden ]); };
	my @shapes = (
		[ 'bert.embeddings.word_embeddings.weight', $of{vocab}, $hidden ],
		[ 'bert.embeddings.position_embeddings.weight', $of{positions}, $hidden ],
		[ 'bert.embeddings.token_type_embeddings.weight', 2, $hidden ],
		$norm->('bert.embeddings.LayerNorm'));
	foreach my $base (map { "bert.encoder.layer.$_" } 0 .. $of{layers} - 1)
	{
		push @shapes, map({ $linear->("$base.attention.self.$_", $hidden, $hidden) } qw(query key value)),
		  $linear->("$base.attention.output.dense", $hidden, $hidden), $norm->("$base.attention.output.LayerNorm"),
		  $linear->("$base.intermediate.dense", $wide, $hidden), $linear->("$base.output.dense", $hidden, $wide),
		  $norm->("$base.output.LayerNorm");
	}
	return @shapes, $linear->('bert.pooler.dense', $hidden, $hidden), $linear->('classifier', $of{labels}, $hidden);
}

# layers, hidden, wide (of the feed-forward layer), heads, positions, labels (1 or 4), words (those of vocab.txt beside the special ones);
# vocab where the embeddings have more rows than that, spread of the weights, config: what else config.json says.
sub write_bert
{
	my ($directory, %of) = @_;
	my @words = (qw([PAD] [UNK] [CLS] [SEP] [MASK]), @{ $of{words} });
	$of{vocab} ||= @words;
	my $pattern = pack('f<*', map { ($of{spread} || 0.05) * sin($_ * $_) } 1 .. 9973);
	my ($at, $body, %header) = (0, '');
	foreach my $shape (shapes(%of))
	{
		my ($name, @extents) = @$shape;
		my $bytes = 4;
		$bytes *= $_ foreach @extents;
		$header{$name} = { dtype => 'F32', shape => \@extents, data_offsets => [ $at, $at + $bytes ] };
		$at += $bytes;
		$body .= $name =~ /LayerNorm\.weight$/ ? pack('f<*', (1) x ($bytes / 4)) : substr($pattern x (1 + $bytes / length $pattern), 0, $bytes);
	}
	my $json = JSON::PP->new->canonical;
	my $head = $json->encode(\%header);
	mkdir $directory;
	write_file("$directory/model.safetensors", pack('Q<', length $head) . $head . $body);
	write_file("$directory/vocab.txt", join("\n", @words) . "\n");
	write_file("$directory/config.json", $json->encode({
		model_type => 'bert', architectures => ['BertForSequenceClassification'], num_hidden_layers => $of{layers},
		hidden_size => $of{hidden}, num_attention_heads => $of{heads}, intermediate_size => $of{wide}, vocab_size => $of{vocab},
		max_position_embeddings => $of{positions}, num_labels => $of{labels}, %{ $of{config} || {} } }));
}

1;
