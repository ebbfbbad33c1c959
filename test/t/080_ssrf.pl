# Where requests must not go: every form of address, name and redirect that leads to this machine or a private network,
# written into the catalog behind the validator's back and sent through the worker. Nothing may connect, and the vote says why.
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use IPC::Run qw(start);
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $directory = tempdir(CLEANUP => 1);
chmod 0755, $directory;
my $port = MockEndpoint->start->port;
my $trap = start([ '/usr/bin/env', 'python3', "$FindBin::RealBin/../mock/trap.py", "$directory/trap", "$directory/trapped" ],
	'>', '/dev/null', '2>', "$directory/trap.err");
END { my $status = $?; $trap->kill_kill if defined $trap; $? = $status; }
for (1 .. 200) { last if -s "$directory/trap"; usleep(50_000); }
my $closed = slurp_file("$directory/trap");
chomp $closed;

system_or_bail($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', "$directory/trap.so", "$FindBin::RealBin/../mock/trap.c", '-ldl');
$ENV{LD_PRELOAD} = "$directory/trap.so";
$ENV{SERM_TRAP_LOG} = "$directory/connects";
my $node = PostgreSQL::Test::Cluster->new('ssrf');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm'\nserm.launcher_interval = 1\nfsync = off\n");
$node->start;
delete $ENV{LD_PRELOAD};
$node->safe_psql('postgres', 'CREATE EXTENSION serm');

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub lines { return -e $_[0] ? split(/\n/, slurp_file($_[0])) : (); }
sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }
# Non-zero: the address is one of this machine's or of a private network, so nobody may have tried.
sub inside { return $_[0] !~ /^93\.184\.216\.34 /; }

my $t = $closed;
my @forms = (
	# what the address says; is it refused when it is written?
	[ "http://127.1:$t/v1", 1, 'short IPv4' ],
	[ "http://127.0.1:$t/v1", 1, 'three parts' ],
	[ "http://2130706433:$t/v1", 1, 'decimal IPv4' ],
	[ "https://2130706433:$t/v1", 1, 'the same by https' ],
	[ "http://0x7f000001:$t/v1", 1, 'hexadecimal IPv4' ],
	[ "http://0x7f.0x0.0x0.0x1:$t/v1", 1, 'hexadecimal parts' ],
	[ "http://0x7f.1:$t/v1", 1, 'hexadecimal and short' ],
	[ "http://0177.0.0.1:$t/v1", 1, 'octal part' ],
	[ "http://017700000001:$t/v1", 1, 'octal IPv4' ],
	[ "http://127.0.0.01:$t/v1", 1, 'a leading zero' ],
	[ "http://127.0.0.1.:$t/v1", 1, 'IPv4 with a trailing dot' ],
	[ "http://localhost.:$t/v1", 1, 'localhost with a trailing dot' ],
	[ "http://LOCALHOST:$t/v1", 1, 'localhost in capitals' ],
	[ "https://127.0.0.2:$t/v1", 0, 'another loopback address' ],
	[ "http://127.255.255.254:$t/v1", 1, 'the last loopback address' ],
	[ "http://0:$t/v1", 1, 'zero' ],
	[ "http://0.0.0.0:$t/v1", 1, 'the unspecified address' ],
	[ "https://[::]:$t/v1", 0, 'the unspecified IPv6 address' ],
	[ "https://[::ffff:127.0.0.1]:$t/v1", 0, 'v4-mapped' ],
	[ "https://[::ffff:7f00:1]:$t/v1", 0, 'v4-mapped in hexadecimal' ],
	[ "https://[0:0:0:0:0:ffff:127.0.0.1]:$t/v1", 0, 'v4-mapped, long' ],
	[ "https://[::ffff:a9fe:a9fe]/latest", 0, 'v4-mapped metadata' ],
	[ "https://[::127.0.0.1]:$t/v1", 0, 'v4-compatible' ],
	[ "https://[::ffff:0:127.0.0.1]:$t/v1", 0, 'v4-translated' ],
	[ "https://[64:ff9b::7f00:1]:$t/v1", 0, 'NAT64' ],
	[ "https://[64:ff9b:1::7f00:1]:$t/v1", 0, 'NAT64 of a network' ],
	[ "https://[2002:7f00:1::]:$t/v1", 0, '6to4' ],
	[ "https://[2001:0:7f00:1::]:$t/v1", 0, 'Teredo' ],
	[ "http://[0:0:0:0:0:0:0:1]:$t/v1", 1, 'IPv6 loopback, long' ],
	[ "http://[::1%lo]:$t/v1", 1, 'zone' ],
	[ "http://[::1%25lo]:$t/v1", 1, 'zone, escaped' ],
	[ "https://[fe80::1%25eth0]:$t/v1", 1, 'link-local with its zone' ],
	[ "https://[fe80::1]:$t/v1", 0, 'link-local' ],
	[ "https://[fec0::1]:$t/v1", 0, 'site-local' ],
	[ "https://[fd00:ec2::254]/latest", 0, 'metadata by IPv6' ],
	[ "https://[ff02::1]:$t/v1", 0, 'multicast' ],
	[ "https://169.254.169.254/latest", 0, 'metadata' ],
	[ "http://169.254.169.254/latest", 1, 'metadata by http' ],
	[ "https://10.0.0.1/v1", 0, '10/8' ],
	[ "https://172.16.0.1/v1", 0, '172.16/12' ],
	[ "https://192.168.0.1/v1", 0, '192.168/16' ],
	[ "https://100.64.0.1/v1", 0, 'carrier-grade NAT' ],
	[ "https://198.18.0.1/v1", 0, 'benchmarking' ],
	[ "https://192.0.0.170/v1", 0, 'protocol assignments' ],
	[ "https://255.255.255.255/v1", 0, 'broadcast' ],
	[ "https://224.0.0.1/v1", 0, 'IPv4 multicast' ],
	[ "file:///etc/passwd", 1, 'file' ],
	[ "gopher://127.0.0.1:$t/_POST", 1, 'gopher' ],
	[ "ftp://127.0.0.1:$t/", 1, 'ftp' ],
	[ "dict://127.0.0.1:$t/", 1, 'dict' ],
	[ "ldap://127.0.0.1:$t/", 1, 'ldap' ],
	[ "tftp://127.0.0.1:$t/", 1, 'tftp' ],
	[ "HTTP://127.0.0.1:$t/v1", 1, 'a scheme in capitals' ],
	[ "//127.0.0.1:$t/v1", 1, 'no scheme' ],
	[ "127.0.0.1:$t/v1", 1, 'nothing but an address' ],
	[ "https://api.example.com\@127.0.0.1:$t/v1", 1, 'user' ],
	[ "https://user:word\@127.0.0.1:$t/v1", 1, 'user and password' ],
	[ "https://127.0.0.1:$t\@example.com/v1", 1, 'user that looks like an address' ],
	[ "https://example.com#\@127.0.0.1:$t/v1", 1, 'fragment' ],
	[ "https://127.0.0.1:$t?x=.example.com/v1", 1, 'query' ],
	[ "https://127.0.0.1:$t\\\@example.com/v1", 1, 'backslash' ],
	[ "https://127.0.0.1%2f.example.com:$t/v1", 1, 'escaped slash' ],
	[ "https://127.0.0.1%00.example.com:$t/v1", 1, 'escaped NUL' ],
	[ "https://%31%32%37.0.0.1:$t/v1", 1, 'escaped digits' ],
	[ "https://\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1:$t/v1", 1, 'fullwidth digits' ],
	[ "https://\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1:$t/v1", 1, 'circled digits' ],
	[ "https://127\xe3\x80\x820\xe3\x80\x820\xe3\x80\x821:$t/v1", 1, 'ideographic full stops' ],
	[ "https://127.0.0.1:$t\r\nHost: example.com/v1", 1, 'a line break' ],
	[ "https://127.0.0.1 :$t/v1", 1, 'a space' ],
	[ "https://127.0.0.1:0/v1", 1, 'port 0' ],
	[ "https://127.0.0.1:6553" . "600" . "/v1", 1, 'a port too large' ],
	[ "https://127.0.0.1:$t:80/v1", 1, 'two ports' ],
	[ "https://127.0.0.1:+$t/v1", 1, 'a signed port' ],
	# names, by a resolver that says what we want
	map([ "https://$_.trap.test:$t/v1", 0, "a name for $_" ],
		qw(v4-127-0-0-1 v4-0-0-0-0 v4-10-0-0-1 v4-169-254-169-254 v4-192-168-1-1 v4-100-64-0-1 v6---1 v6--- v6---ffff-7f00-1
		  v6---ffff-a00-1 v6---7f00-1 v6-fe80--1 v6-fd00--1 v6-64-ff9b--7f00-1 v6-2002-7f00-1--)),
	[ "http://v4-127-0-0-1.trap.test:$t/v1", 1, 'the same by http' ],
	[ "https://v4-127-0-0-1.trap.test.:$t/v1", 1, 'a name with a trailing dot' ],
	# redirects, from an endpoint that is allowed
	map({ my $status = $_; map([ "http://127.0.0.1:$port/go/$status/" . unpack('H*', $_) . '/v1', 0, "$status to $_", qr/HTTP status $status/ ],
		"http://127.0.0.1:$t/v1/chat/completions", 'https://169.254.169.254/latest') } 301, 302, 303, 307, 308),
	map([ "http://127.0.0.1:$port/go/302/" . unpack('H*', $_) . '/v1', 0, "302 to $_", qr/HTTP status 302/ ],
		'file:///etc/passwd', "gopher://127.0.0.1:$t/_x", "dict://127.0.0.1:$t/", "//127.0.0.1:$t/", "http://[::1]:$t/", '/go/302/2f/v1/chat/completions'),
);

sql(q{SELECT serm.create_model('ssrf', options => '{"gold_rate": 0, "rule": "unanimous"}')});
my ($number, @wrong) = (0);
for my $form (@forms)
{
	my ($url, $written, $what) = @$form;
	my $name = sprintf('f%03d', ++$number);
	my $options = "OPTIONS (model 'mock', paths '1', max_attempts '1', connect_timeout_ms '2000', timeout_ms '4000'";
	my ($code) = $node->psql('postgres',
		"CREATE SERVER try FOREIGN DATA WRAPPER serm_agent $options, endpoint " . literal($url) . '); DROP SERVER try');

	push @wrong, "$what ($url)" if $written != ($code != 0);
	# As a dump of another version, or a careless superuser, might bring it.
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent $options, endpoint 'https://example.com/v1');
		UPDATE pg_catalog.pg_foreign_server SET srvoptions = array_replace(srvoptions, 'endpoint=https://example.com/v1', 'endpoint=' || "
		  . literal($url) . ") WHERE srvname = '$name';
		SELECT serm.add_agent('ssrf', '$name')");
}
is(join("\n", @wrong), '', 'what can be seen is refused when it is written, and nothing else');
cmp_ok(scalar(@forms), '>=', 100, scalar(@forms) . ' forms');
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('ssrf', 'blue pillow', '1', 'a blue pillow'); CALL serm.annotate('ssrf')});

$number = 0;
for my $form (@forms)
{
	my ($url, undef, $what, $expected) = @$form;
	my $name = sprintf('f%03d', ++$number);
	my $error = sql("SELECT grade IS NULL, error FROM serm.vote WHERE agent = '$name'");

	$expected = qr/leads to an address that serm.allow_cidr and serm.allow_http do not allow/ unless defined $expected;
	like($error, qr/^t\|.*$expected/, "$what: refused, and the vote says so");
}
is(sql('SELECT count(*) FROM serm.vote WHERE grade IS NOT NULL'), '0', 'nobody has graded');
is(join(' ', lines("$directory/trapped")), '', 'nothing reached the listener');
is(join(', ', grep({ $_ ne "127.0.0.1 $port" } lines("$directory/connects"))), '', 'nothing even tried to connect, but to the endpoint that redirects');

# --- several addresses, and a name that changes its mind
unlink "$directory/connects";
sql(qq{SELECT serm.create_model('flip', options => '{"gold_rate": 0, "rule": "unanimous"}');
CREATE SERVER two FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'https://both.trap.test:$t/v1', model 'mock', paths '1', max_attempts '1');
CREATE SERVER flip FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'https://flip-a.trap.test:$t/v1', model 'mock', paths '1', max_attempts '1');
SELECT serm.add_agent('flip', 'two'), serm.add_agent('flip', 'flip');
INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('flip', 'blue pillow', '1', 'a blue pillow')});
sql(q{CALL serm.annotate('flip')});
is(join(', ', sort(lines("$directory/connects"))), "93.184.216.34 $t, 93.184.216.34 $t", 'of several addresses only the public one is tried');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'serm annotator'})
  or die 'the worker stays';
sql(q{INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('flip', 'blue pillow', '2', 'a pillow'); CALL serm.annotate('flip')});
like(sql(q{SELECT error FROM serm.vote v JOIN serm.sample s ON s.id = v.sample WHERE v.agent = 'flip' AND s.doc_id = '2'}),
	qr/serm.allow_cidr/, 'a name that now leads to this machine is refused');
is(scalar(grep(inside($_), lines("$directory/connects"))), 0, 'and not connected to');
is(join(' ', lines("$directory/trapped")), '', 'still nothing reached the listener');

# --- unless allowed: the trap is real
sub grade_of
{
	my ($name, $endpoint) = @_;
	sql(qq{SELECT serm.create_model('$name', options => '{"gold_rate": 0, "rule": "unanimous"}');
	CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint '$endpoint', model 'mock', paths '1', max_attempts '1');
	SELECT serm.add_agent('$name', '$name');
	INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('$name', 'blue pillow', '1', 'a blue pillow')});
	sql("CALL serm.annotate('$name')");
	return sql("SELECT coalesce(grade::text, error) FROM serm.vote WHERE agent = '$name'");
}
is(grade_of('ip4', "http://127.0.0.1:$t/v1"), '3', 'loopback that is written as such is reached');
is(grade_of('named', "http://localhost:$t/v1"), '3', 'and by its name');
cmp_ok(scalar(lines("$directory/trapped")), '>=', 2, 'which the listener sees');
# An address of this machine that is not loopback and not public.
my ($own) = grep(/^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|192\.0\.2\.|100\.(6[4-9]|[789]\d|1[01]\d|12[0-7])\.)/, split(' ', `hostname -I 2>/dev/null`));
SKIP:
{
	skip 'this machine has no private address', 4 unless defined $own;
	my ($code) = $node->psql('postgres', "CREATE SERVER x FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint 'http://$own:$t/v1', model 'm')");
	isnt($code, 0, 'plain http to a private address is refused');
	$node->append_conf('postgresql.conf', 'serm.allow_http = on');
	$node->reload;
	like(grade_of('http_only', "http://$own:$t/v1"), qr/serm.allow_cidr/, 'also where http is allowed');
	$node->append_conf('postgresql.conf', "serm.allow_cidr = '$own/32'");
	$node->reload;
	is(grade_of('allowed', "http://$own:$t/v1"), '3', 'an address that a superuser allows is reached');
	$node->append_conf('postgresql.conf', "serm.allow_http = off");
	$node->reload;
	like(grade_of('https_only', "https://$own:$t/v1"), qr/SSL/, 'by https, too');
}

$node->stop;
done_testing();
