# serm.import_model from a directory: rights, hostile directories, completeness under cancel, independence of the files.
use strict;
use warnings;

use BertFiles qw(write_bert);
use File::Path qw(remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('import');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION serm');

sub write_model
{
	my ($directory, $hidden) = @_;
	return write_bert($directory, layers => 1, hidden => $hidden, wide => 2 * $hidden, heads => 4, positions => 64, labels => 1,
		words => [ map { "word$_" } 1 .. 595 ]);
}

my $root = $node->basedir . '/models';
mkdir $root;
my $directory = "$root/small";
write_model($directory, 8);

sub fails
{
	my ($sql, $state, $what) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	like($err, qr/ERROR:  $state:/, $what) or diag($err);
	return $err;
}

# --- whole, and then without its files
is($node->safe_psql('postgres', "SELECT serm.import_model('small', '$directory')"), '1', 'a directory is imported');
my $sum = q{SELECT md5(string_agg(name || part || crc32c, ',' ORDER BY name COLLATE "C", part)) FROM serm.tensor WHERE model = 'small'};
my $before = $node->safe_psql('postgres', $sum);
remove_tree($directory);
$node->restart;
is($node->safe_psql('postgres', $sum), $before, 'the directory is not needed afterwards');
is($node->safe_psql('postgres', q{SELECT count(*) FROM serm.tensor WHERE model = 'small'}), '27', 'with all its tensors');

# --- rights
write_model($directory, 8);
$node->safe_psql('postgres', q{
CREATE ROLE operator LOGIN;
CREATE ROLE reader LOGIN IN ROLE pg_read_server_files;
SELECT serm.grant_access('operator', 'operate'), serm.grant_access('reader', 'operate');
});
like(fails("SET ROLE operator; SELECT serm.import_model('other', '$directory')", '42501', 'the files of the server need a right'),
	qr/contents bytea/, 'and the hint names the other way');
fails("SET ROLE operator; SELECT serm.import_model('other', '/nowhere')", '42501', 'whether they are there or not');
is($node->safe_psql('postgres', "SET ROLE reader; SELECT serm.import_model('other', '$directory/')"), '1',
	'with the right, and a slash at the end');
my @names = qw(config.json vocab.txt model.safetensors);
my $contents = join(', ', map { "'\\x" . unpack('H*', slurp_file("$directory/$_")) . "'::bytea" } @names);
is($node->safe_psql('postgres', "SET ROLE operator; SELECT serm.import_model('given', '{" . join(',', @names) . "}', ARRAY[$contents])"),
	'1', 'without it, from contents');
is($node->safe_psql('postgres', $sum =~ s/'small'/'given'/r), $before, 'with the same bits');

# --- directories that are none, and files that are no files
fails("SELECT serm.import_model('bad', '$root/none')", '58P01', 'no directory');
fails("SELECT serm.import_model('bad', '$directory/config.json')", '\w{5}', 'a file instead of a directory');
unlink "$directory/model.safetensors";
system_or_bail('mkfifo', "$directory/model.safetensors");
fails("SET statement_timeout = '20s'; SELECT serm.import_model('bad', '$directory')", '42809', 'a pipe is refused at once');
unlink "$directory/model.safetensors";
mkdir "$directory/model.safetensors";
fails("SELECT serm.import_model('bad', '$directory')", '42809', 'a directory instead of the weights');
rmdir "$directory/model.safetensors";
symlink('/dev/zero', "$directory/model.safetensors");
fails("SELECT serm.import_model('bad', '$directory')", '42809', 'a device behind a link');
unlink "$directory/model.safetensors";
fails("SELECT serm.import_model('bad', '$directory')", '58P01', 'no weights');

# --- several chunks, and cancelled before it is complete
write_model($directory, 2048);
is($node->safe_psql('postgres', "SELECT serm.import_model('large', '$directory')"), '1', 'a larger model');
is($node->safe_psql('postgres', q{SELECT bool_and(length(data) <= 16777216) AND max(part) >= 1 FROM serm.tensor WHERE model = 'large'}),
	't', 'is stored in chunks of at most 16 MiB');
fails("SET statement_timeout = '60ms'; SELECT serm.import_model('bad', '$directory')", '57014', 'a cancelled import');
is($node->safe_psql('postgres', q{SELECT count(*) FROM serm.model WHERE name = 'bad'}), '0', 'leaves nothing behind');
is($node->safe_psql('postgres', q{SELECT count(*) FROM serm.tensor WHERE model NOT IN ('small', 'other', 'given', 'large')}), '0',
	'no weights either');

done_testing();
