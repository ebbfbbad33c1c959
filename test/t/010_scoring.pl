# Scoring beyond one session: cache files, damage, standbys, replication, dumps, encodings, rights, concurrency.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 'logical');
$primary->append_conf('postgresql.conf', "fsync = off\nmax_worker_processes = 16\n");
$primary->start;

my $goods = q{
CREATE TABLE goods AS
SELECT row_number() OVER () AS id, c || ' ' || p AS query, d || ' ' || e || E'\nA ' || d || ' ' || e || ' for your home' AS doc,
	(c = d)::int + 2 * (p = e)::int AS grade
FROM unnest('{blue,red,green,black,white}'::text[]) AS c, unnest('{pillow,lamp,chair,desk,rug,mug}'::text[]) AS p,
	unnest('{blue,red,green,black,white}'::text[]) AS d, unnest('{pillow,lamp,chair,desk,rug,mug}'::text[]) AS e;
};
$primary->safe_psql('postgres', qq{
CREATE EXTENSION serm;
$goods
SELECT serm.create_model('shop');
INSERT INTO serm.judgment (model, query, doc, grade) SELECT 'shop', query, doc, grade FROM goods;
CALL serm.train('shop', '{"seed": 1, "epochs": 3, "pretrain_epochs": 1}');
CALL serm.train('shop', '{"seed": 2, "epochs": 3, "pretrain_epochs": 1}');
});

# The bits of 900 scores by the active version, and by a version.
my $bits = q{SELECT md5(string_agg(encode(float4send(serm.score(query, doc, 'shop')), 'hex'), ',' ORDER BY id)) FROM goods};

sub bits_of
{
	my ($version) = @_;
	return qq{SELECT md5(string_agg(encode(float4send(serm.score_version(query, doc, 'shop', $version)), 'hex'), ',' ORDER BY id)) FROM goods};
}

my $one = $primary->safe_psql('postgres', bits_of(1));
my $two = $primary->safe_psql('postgres', bits_of(2));
isnt($one, $two, 'two versions score differently');
is($primary->safe_psql('postgres', $bits), $one, 'the active version scores');

# --- a query is parsed once, however many rows it scores
my ($rows, $notes);
$primary->psql('postgres', q{SET client_min_messages = debug3;
SELECT count(serm.score(query, doc, 'shop')) FROM (SELECT * FROM goods ORDER BY query OFFSET 0) AS sorted;
SELECT count(s) FROM (SELECT serm.score_batch(query, doc, 'shop') OVER (PARTITION BY query) AS s FROM goods) AS scored},
	stdout => \$rows, stderr => \$notes);
is($rows, "900\n900", 'each row has a score');
is(scalar(() = $notes =~ /serm parsed a query/g), 60, 'thirty queries are parsed once for each statement');

# The names of the files that hold weights.
sub cache_files
{
	my ($node) = @_;
	my @found = sort glob($node->data_dir . '/serm/*');
	return @found;
}

# --- cache files: shared, derived, made again
my @files = cache_files($primary);
is(scalar(@files), 2, 'each version has one cache file');
unlink @files;
is($primary->safe_psql('postgres', $bits), $one, 'a deleted file is made again');
is(scalar(cache_files($primary)), 1, 'only the one that is needed');

my ($file) = cache_files($primary);
my $sound = slurp_file($file);
my $length = length($sound);

# Put damaged bytes in its place, as a new file: what is mapped elsewhere stays as it is.
sub replace_file
{
	my ($bytes) = @_;
	unlink $file;
	open(my $handle, '>:raw', $file) or die "$file: $!";
	print $handle $bytes;
	close($handle);
}

for my $damage (
	[ 'an empty file', '' ],
	[ 'half a header', substr($sound, 0, 50) ],
	[ 'half a file', substr($sound, 0, $length / 2) ],
	[ 'a longer file', $sound . 'x' ],
	[ 'noise', 'x' x $length ],
	[ 'zeroes', "\0" x $length ])
{
	my ($name, $bytes) = @$damage;
	replace_file($bytes);
	is($primary->safe_psql('postgres', $bits), $one, "$name is made again");
	ok(slurp_file($file) eq $sound, "and is what it was after $name");
}
srand(7);
my $wrong = 0;
for my $place (0, 8, 12, 16, 24, 32, 96, 104, 120, 124, 128, 200, 1000, map { int(rand($length)) } 1 .. 20)
{
	my $bytes = $sound;
	substr($bytes, $place, 1) = chr(ord(substr($bytes, $place, 1)) ^ (1 << int(rand(8))));
	replace_file($bytes);
	$wrong++ if $primary->safe_psql('postgres', $bits) ne $one;
}
is($wrong, 0, 'a flipped bit never changes a score');

# A directory that cannot be written: private memory, said once.
my $directory = $primary->data_dir . '/serm';
unlink cache_files($primary);
chmod 0500, $directory or die $!;
my ($out, $err);
$primary->psql('postgres', "$bits; SELECT serm.score('a', 'b', 'shop') IS NOT NULL; SELECT serm.promote('shop', 2); $bits; SELECT serm.promote('shop', 1)",
	stdout => \$out, stderr => \$err);
is($out, "$one\nt\n2\n$two\n1", 'scores do not need the file');
is(scalar(() = $err =~ /WARNING:  could not write cache file/g), 1, 'one warning tells of it');
chmod 0700, $directory or die $!;

# --- a session that has scored learns of a promotion at its next statement
my $session = $primary->background_psql('postgres');
is($session->query_safe($bits), $one, 'an open session scores by version 1');
$primary->safe_psql('postgres', q{SELECT serm.promote('shop', 2)});
is($session->query_safe($bits), $two, 'and by version 2 at its next statement');
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($session->query_safe($bits), $two, 'a transaction with one snapshot');
$primary->safe_psql('postgres', q{SELECT serm.rollback('shop')});
is($session->query_safe($bits), $two, 'keeps the version of its snapshot');
$session->query_safe('COMMIT');
is($session->query_safe($bits), $one, 'and goes on to the active one after it');
$session->query_safe(q{CREATE FUNCTION pg_temp.mean() RETURNS real LANGUAGE plpgsql AS $$
	DECLARE sum real := 0; BEGIN FOR i IN 1..3 LOOP sum := sum + serm.score('blue rug', 'blue mug', 'shop'); END LOOP; RETURN sum; END$$});
$session->query_safe('BEGIN');
my $mean = $session->query_safe('SELECT pg_temp.mean()');
$primary->safe_psql('postgres', q{SELECT serm.promote('shop', 2)});
isnt($session->query_safe('SELECT pg_temp.mean()'), $mean, 'a function in an open transaction learns of it too');
$session->query_safe('COMMIT');
$primary->safe_psql('postgres', q{SELECT serm.rollback('shop')});

# --- a hot standby
$primary->safe_psql('postgres', $bits);
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
is(scalar(cache_files($standby)), 0, 'a base backup leaves the cache files out');
$standby->start;
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $bits), $one, 'a standby scores the same bits');
is($standby->safe_psql('postgres', "SET default_transaction_read_only = on; $bits"), $one, 'reading only');
is($standby->safe_psql('postgres', "DO \$\$BEGIN PERFORM set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query'); END\$\$; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
	. "SET min_parallel_table_scan_size = 0; $bits"), $one, 'in parallel');
my $reader = $standby->background_psql('postgres');
is($reader->query_safe($bits), $one, 'an open session on the standby scores by version 1');
$primary->safe_psql('postgres', q{SELECT serm.promote('shop', 2)});
$primary->wait_for_catchup($standby);
is($reader->query_safe($bits), $two, 'and follows a promotion on the primary');
$primary->safe_psql('postgres', q{SELECT serm.rollback('shop')});
$primary->wait_for_catchup($standby);
is($reader->query_safe($bits), $one, 'and a rollback');
for my $write (q{SELECT serm.promote('shop', 2)}, q{SELECT serm.create_model('x')}, q{SELECT serm.drop_model('shop')})
{
	$standby->psql('postgres', "\\set VERBOSITY sqlstate\n$write", stderr => \$err);
	like($err, qr/25006/, "a standby refuses: $write");
}
$reader->quit;
$standby->stop;

# --- logical replication of the three tables feeds a node that only scores
my $node = PostgreSQL::Test::Cluster->new('node');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\n");
$node->start;
$node->safe_psql('postgres', "CREATE EXTENSION serm; $goods");
$primary->safe_psql('postgres', 'CREATE PUBLICATION weights FOR TABLE serm.model (name, kind, grades, options, active, created), serm.version, serm.tensor');
$node->safe_psql('postgres', sprintf('CREATE SUBSCRIPTION weights CONNECTION $$%s$$ PUBLICATION weights',
	$primary->connstr('postgres')));
$node->wait_for_subscription_sync($primary, 'weights');
is($node->safe_psql('postgres', $bits), $one, 'a subscriber scores the same bits');
my $subscriber = $node->background_psql('postgres');
is($subscriber->query_safe($bits), $one, 'in an open session');
$primary->safe_psql('postgres', q{SELECT serm.promote('shop', 2)});
$primary->wait_for_catchup('weights');
is($subscriber->query_safe($bits), $two, 'and follows a promotion');
$primary->safe_psql('postgres', q{SELECT serm.rollback('shop')});
$subscriber->quit;
$node->safe_psql('postgres', 'DROP SUBSCRIPTION weights');
$node->stop;
$primary->safe_psql('postgres', 'DROP PUBLICATION weights');

# --- dump and restore
my $dump = $primary->basedir . '/dump';
my $facts = q{SELECT md5(string_agg(j::text, '|' ORDER BY id)) FROM serm.judgment AS j;
	SELECT md5(string_agg(j::text, '|' ORDER BY id)) FROM serm.current_judgment AS j;
	SELECT string_agg(d::text, '|' ORDER BY id) FROM serm.deployment AS d;
	SELECT string_agg(v::text, '|' ORDER BY model, version) FROM serm.versions AS v;
	SELECT string_agg(m::text, '|') FROM serm.model AS m};
my $expected = $primary->safe_psql('postgres', $facts);
my @connection = ('-h', $primary->host, '-p', $primary->port);
$primary->command_ok([ 'pg_dump', @connection, '-Fc', '-f', "$dump.custom", 'postgres' ], 'dump');
$primary->command_ok([ 'pg_dump', @connection, '-f', "$dump.sql", 'postgres' ], 'dump as text');
$primary->safe_psql('postgres', 'CREATE DATABASE restored TEMPLATE template0');
$primary->safe_psql('postgres', 'CREATE DATABASE replayed TEMPLATE template0');
$primary->command_ok([ 'pg_restore', @connection, '-e', '-d', 'restored', "$dump.custom" ], 'restore');
$primary->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', @connection, '-d', 'replayed', '-o', '/dev/null', '-f', "$dump.sql" ],
	'restore from text');
for my $database ('restored', 'replayed')
{
	is($primary->safe_psql($database, $bits), $one, "$database: the same bits");
	is($primary->safe_psql($database, bits_of(2)), $two, "$database: of the other version too");
	is($primary->safe_psql($database, $facts), $expected, "$database: the same judgments, versions and history");
	is($primary->safe_psql($database, q{INSERT INTO serm.judgment (model, query, doc, grade) VALUES ('shop', 'q', 'd', 1)
		RETURNING id = (SELECT max(id) + 1 FROM serm.judgment)}), 't', "$database: numbering goes on");
	is($primary->safe_psql($database, q{SELECT serm.promote('shop', 2)}), '2', "$database: promotion works");
	is($primary->safe_psql($database, $bits), $two, "$database: and counts");
}
is($primary->safe_psql('postgres', $bits), $one, 'databases with a model of the same name do not mix');

# --- other encodings: the same characters, the same bits
$primary->safe_psql('postgres', q{CREATE DATABASE utf TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'});
$primary->safe_psql('postgres', q{CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'});
$primary->safe_psql('postgres', q{CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'});
$primary->safe_psql('postgres', q{CREATE DATABASE japan TEMPLATE template0 ENCODING 'EUC_JP' LOCALE 'C'});
$ENV{PGCLIENTENCODING} = 'UTF8';
for my $database ('utf', 'latin', 'ascii', 'japan')
{
	$primary->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', @connection, '-d', $database, '-o', '/dev/null', '-f', "$dump.sql" ],
		"restore into $database");
	is($primary->safe_psql($database, $bits), $one, "$database: the same bits for ASCII");
}
my $western = q{SELECT float4send(serm.score('crème brûlée', E'Crème Brûlée Größe\nà la carte', 'shop')),
	float4send(serm.score('creme', repeat('é ', 50000) || 'creme', 'shop')), serm.split_of('crème brûlée ÉTÉ'), serm.split_of('été 7'),
	float4send(serm.score(repeat('ü', 40000), repeat('ü', 40000), 'shop'))};
my $eastern = q{SELECT float4send(serm.score('青い枕', E'青い枕 カバー\nリビング用の青い枕', 'shop')), serm.split_of('青い 枕'),
	float4send(serm.score('ｶﾊﾞｰ', repeat('枕 ', 40000) || 'カバー', 'shop')), float4send(serm.score(repeat('枕', 30000), repeat('枕', 30000), 'shop'))};
my $western_bits = $primary->safe_psql('utf', $western);
my $eastern_bits = $primary->safe_psql('utf', $eastern);
is($primary->safe_psql('latin', $western), $western_bits, 'LATIN1: the same bits for Western letters');
is($primary->safe_psql('ascii', $western), $western_bits, 'SQL_ASCII: the same bits for Western letters');
is($primary->safe_psql('ascii', $eastern), $eastern_bits, 'SQL_ASCII: the same bits for Japanese');
is($primary->safe_psql('japan', $eastern), $eastern_bits, 'EUC_JP: the same bits for Japanese');
is($primary->safe_psql('ascii', q{SELECT serm.score(E'\xff\xfe', E'\xc3\x28 \xe2\x82', 'shop') BETWEEN 0 AND 3}), 't',
	'SQL_ASCII: bytes that are no UTF-8 score something finite');
is($primary->safe_psql('japan', q{SELECT serm.score(convert_from('\xa9a1', 'EUC_JP'), convert_from('\xa9a1', 'EUC_JP'), 'shop') BETWEEN 0 AND 3}), 't',
	'EUC_JP: a character that Unicode lacks scores something finite');
my $terms = q{SELECT query_term, doc_term FROM serm.explain('crème 5µ', 'brûlée crème', 'shop') WHERE query_term <> '5' ORDER BY 1};
is($primary->safe_psql('utf', $terms), "creme|creme\nμ|brulee", 'explanations have normalised words');
is($primary->safe_psql('latin', $terms), "?|brulee\ncreme|creme", 'LATIN1: with a mark for what it lacks');
delete $ENV{PGCLIENTENCODING};

# --- rights: asked for at every statement, however warm the cache is
$primary->safe_psql('postgres', q{
CREATE ROLE clerk LOGIN;
GRANT USAGE ON SCHEMA serm TO clerk;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA serm TO clerk;
GRANT SELECT ON goods TO clerk;
});
my $score = q{SELECT serm.score('blue rug', 'blue rug', 'shop') IS NOT NULL};

# The SQLSTATE of `sql`, run by the clerk after the owner has filled the session's cache.
sub state_of
{
	my ($sql) = @_;
	my ($stdout, $stderr);
	$primary->psql('postgres', "$bits;\nSET ROLE clerk;\n\\set VERBOSITY sqlstate\n$sql", stdout => \$stdout, stderr => \$stderr);
	my ($state) = $stderr =~ /ERROR:  (\w{5})/;
	return $state // 'fine';
}
is(state_of($score), '42501', 'no rights at all');
for my $table ('model', 'version')
{
	$primary->safe_psql('postgres', "GRANT SELECT ON serm.$table TO clerk");
	is(state_of($score), '42501', "rights up to serm.$table");
}
$primary->safe_psql('postgres', 'GRANT SELECT ON serm.tensor TO clerk');
is(state_of($score), 'fine', 'rights on all three tables');
for my $sql (q{SELECT serm.score_version('a', 'b', 'shop', 1)}, q{SELECT serm.predict('a', 'b', 'shop')}, q{SELECT * FROM serm.rank('a', '{b}', 'shop')})
{
	is(state_of($sql), 'fine', "enough for: $sql");
}
is(state_of(q{SELECT serm.promote('shop', 2)}), '42501', 'not enough to promote');
is(state_of(q{SELECT serm.create_model('mine')}), '42501', 'nor to create');
is(state_of(q{SELECT serm.drop_model('shop')}), '42501', 'nor to drop');
is(state_of(q{INSERT INTO serm.judgment (model, query, doc, grade) VALUES ('shop', 'q', 'd', 1)}), '42501', 'nor to judge');
is(state_of(q{SELECT * FROM serm.current_judgment}), '42501', 'nor to read judgments through a view');
my $clerk = $primary->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'clerk' ]);
is($clerk->query_safe($score), 't', 'the clerk scores in a session of their own');
for my $table ('tensor', 'version', 'model')
{
	$primary->safe_psql('postgres', "REVOKE SELECT ON serm.$table FROM clerk");
	$clerk->query($score);
	like($clerk->{stderr}, qr/permission denied for table $table/, "until rights on serm.$table are taken away");
	$clerk->{stderr} = '';
	$primary->safe_psql('postgres', "GRANT SELECT ON serm.$table TO clerk");
}
is($clerk->query_safe($score), 't', 'and given back');
$primary->safe_psql('postgres', 'ALTER TABLE serm.model ENABLE ROW LEVEL SECURITY');
is(state_of($score), '42704', 'a policy hides a model');
$primary->safe_psql('postgres', 'ALTER TABLE serm.model DISABLE ROW LEVEL SECURITY; ALTER TABLE serm.tensor ENABLE ROW LEVEL SECURITY');
is(state_of($score), '42501', 'weights under a policy are refused');
$primary->safe_psql('postgres', 'ALTER TABLE serm.tensor DISABLE ROW LEVEL SECURITY');
$clerk->quit;

# A version that a policy hides is not one that is gone: its file stays when another one is made.
$primary->safe_psql('postgres', bits_of($_)) foreach 1, 2;
$primary->safe_psql('postgres', 'ALTER TABLE serm.version ENABLE ROW LEVEL SECURITY;
	CREATE POLICY one ON serm.version USING (version = 1)');
unlink grep { /\.shop\.1\./ } cache_files($primary);
my @hidden = grep { /\.shop\.2\./ } cache_files($primary);
cmp_ok(scalar(@hidden), '>', 0, 'there is a file of the second version');
is($primary->safe_psql('postgres', q{SELECT serm.score_version('blue rug', 'blue rug', 'shop', 1) IS NOT NULL}, extra_params => [ '-U', 'clerk' ]),
	't', 'the clerk sees the first version and makes its file');
is_deeply([ grep { /\.shop\.2\./ } cache_files($primary) ], \@hidden, 'that of the hidden one stays');
$primary->safe_psql('postgres', 'DROP POLICY one ON serm.version; ALTER TABLE serm.version DISABLE ROW LEVEL SECURITY');

# --- promotions at the same time: never none, never two
my @runs;
for my $worker (1 .. 4)
{
	my $sql = join(";\n", map { ($worker + $_) % 3 ? "SELECT serm.promote('shop', " . (1 + ($worker + $_) % 2) . ')' : q{SELECT serm.rollback('shop', 1)} } 1 .. 15);
	my ($stdin, $stdout, $stderr) = ($sql, '', '');
	push @runs, [ IPC::Run::start([ 'psql', '-XqAt', '-d', $primary->connstr('postgres') ], \$stdin, \$stdout, \$stderr), \$stderr ];
}
my $failures = '';
for my $run (@runs)
{
	$run->[0]->finish;
	$failures .= join('', grep { /ERROR/ } split(/^/, ${ $run->[1] }));
}
is($failures, '', 'sessions promote and roll back at the same time');
is($primary->safe_psql('postgres', q{SELECT count(*) FROM serm.version WHERE model = 'shop' AND status = 'active'}), '1', 'one version is active');
is($primary->safe_psql('postgres', q{SELECT count(*) FROM (SELECT from_version, lag(to_version) OVER (ORDER BY id) AS before
	FROM serm.deployment WHERE model = 'shop') AS d WHERE from_version IS DISTINCT FROM before AND before IS NOT NULL}), '0', 'the history is a chain');
is($primary->safe_psql('postgres', q{SELECT m.active = d.to_version FROM serm.model AS m, serm.deployment AS d
	WHERE m.name = 'shop' AND d.model = m.name ORDER BY d.id DESC LIMIT 1}), 't', 'its end is the active version');
$primary->safe_psql('postgres', q{SELECT serm.promote('shop', 1)});

# Many sessions open the same version while its file is missing.
unlink cache_files($primary);
@runs = ();
for my $worker (1 .. 6)
{
	my ($stdin, $stdout, $stderr) = ("$bits;\n" . bits_of(2), '', '');
	push @runs, [ IPC::Run::start([ 'psql', '-XqAt', '-d', $primary->connstr('postgres') ], \$stdin, \$stdout, \$stderr), \$stdout, \$stderr ];
}
my %seen;
for my $run (@runs)
{
	$run->[0]->finish;
	$seen{ ${ $run->[1] } . ${ $run->[2] } }++;
}
is_deeply(\%seen, { "$one\n$two\n" => 6 }, 'sessions make the same file at the same time');
is(scalar(grep { /\.tmp$/ } cache_files($primary)), 0, 'no temporary file is left');

# --- damaged rows: never scored with
sub damaged
{
	my ($sql, $name) = @_;
	unlink cache_files($primary);
	my ($stdout, $stderr);
	$primary->psql('postgres', "BEGIN; SET session_replication_role = replica; $sql;\n\\set VERBOSITY verbose\n"
		. q{SELECT serm.score_version('a', 'b', 'shop', 2)}, stdout => \$stdout, stderr => \$stderr);
	like($stderr, qr/XX001: weights of model "shop" version 2 are damaged/, $name);
	return $stderr;
}
my $which = q{WHERE model = 'shop' AND version = 2};
like(damaged("UPDATE serm.tensor SET data = set_byte(data, 0, get_byte(data, 0) # 1) $which AND name = 'heads.w1'", 'a flipped bit'),
	qr/tensor "heads.w1" part 0 does not match its checksum/, 'named with its tensor');
damaged("DELETE FROM serm.tensor $which AND name = 'heads.w1'", 'a missing tensor');
damaged("DELETE FROM serm.tensor $which", 'no tensor at all');
damaged("UPDATE serm.tensor SET data = substr(data, 1, 8) $which AND name = 'heads.w1'", 'a short tensor');
damaged("UPDATE serm.tensor SET data = data || data $which AND name = 'heads.w1'", 'a long tensor');
damaged("UPDATE serm.tensor SET part = 1 $which AND name = 'heads.w1'", 'a tensor without its first part');
damaged("UPDATE serm.tensor SET shape = '{-1,2}' $which AND name = 'heads.w1'", 'a negative shape');
damaged("UPDATE serm.tensor SET shape = '{4611686018427387904,4611686018427387904}' $which AND name = 'heads.w1'", 'a shape that overflows');
damaged("UPDATE serm.tensor SET shape = '{1,1,1,1,1}' $which AND name = 'heads.w1'", 'a shape of rank 5');
damaged("UPDATE serm.tensor SET dtype = 'f99' $which AND name = 'heads.w1'", 'an unknown type');
damaged("UPDATE serm.tensor SET name = 'other' $which AND name = 'heads.w1'", 'a renamed tensor');
damaged("UPDATE serm.tensor SET crc32c = crc32c + 1 $which AND name = 'heads.w1'", 'a changed checksum');
damaged("UPDATE serm.version SET checksum = checksum + 1 WHERE model = 'shop' AND version = 2", 'a changed checksum of the version');
is($primary->safe_psql('postgres', bits_of(2)), $two, 'the version is as it was');

# --- dropping takes the files along, rolling back does not
my $other = grep { /shop/ } cache_files($primary);
ok($other > 0, 'files are there');
$primary->safe_psql('postgres', q{BEGIN; SELECT serm.drop_model('shop'); ROLLBACK});
is(scalar(grep { /shop/ } cache_files($primary)), $other, 'a drop that is rolled back removes none');
my $oid = $primary->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
my $before = grep { /\.$oid\.shop/ } cache_files($primary);
$primary->safe_psql('postgres', q{SELECT serm.drop_model('shop')});
ok($before > 0, 'this database has files');
is(scalar(grep { /\.$oid\.shop/ } cache_files($primary)), 0, 'a drop removes the files of this database');

# Files of dropped databases go when the next file is made.
$primary->safe_psql('restored', $bits);
$oid = $primary->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'restored'});
ok(scalar(grep { /\.$oid\.shop/ } cache_files($primary)) > 0, 'another database has files');
$primary->safe_psql('postgres', 'DROP DATABASE restored');
unlink grep { !/\.$oid\./ } cache_files($primary);
$primary->safe_psql('replayed', $bits);
is(scalar(grep { /\.$oid\./ } cache_files($primary)), 0, 'files of a dropped database are cleared away');

$session->quit;
$primary->stop;
done_testing();
