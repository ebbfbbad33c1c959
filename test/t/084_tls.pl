# Certificates: an endpoint that cannot prove its name is not asked, and gets neither key nor document.
use strict;
use warnings;

use File::Temp qw(tempdir);
use MockEndpoint;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $directory = tempdir(CLEANUP => 1);
chmod 0755, $directory;

# --- two authorities, of which one will be trusted, and what they and others have signed
sub openssl { run_command([ 'openssl', @_ ]); die "openssl @_" if $?; }
my @new_key = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes');
openssl('req', '-x509', @new_key, '-keyout', "$directory/$_.key", '-out', "$directory/$_.crt", '-subj', "/CN=$_ authority", '-days', '3')
	for qw(trusted other);
sub certificate
{
	my ($name, $authority, $host, @validity) = @_;
	append_to_file("$directory/$name.ext", "subjectAltName=$host\n");
	openssl('req', '-new', @new_key, '-keyout', "$directory/$name.key", '-out', "$directory/$name.csr", '-subj', "/CN=$name");
	openssl('x509', '-req', '-in', "$directory/$name.csr", '-out', "$directory/$name.crt", '-extfile', "$directory/$name.ext", '-days', @validity ? $validity[0] : 3,
		$authority eq 'self' ? ('-signkey', "$directory/$name.key") : ('-CA', "$directory/$authority.crt", '-CAkey', "$directory/$authority.key", '-CAcreateserial'));
	append_to_file("$directory/tls/$name.pem", slurp_file("$directory/$name.key") . slurp_file("$directory/$name.crt"));
}
mkdir "$directory/tls";
certificate('good', 'trusted', 'DNS:localhost,IP:127.0.0.1');
certificate('misnamed', 'trusted', 'DNS:localhost.example.com');
certificate('expired', 'trusted', 'DNS:localhost', -1);
certificate('unknown', 'other', 'DNS:localhost');
certificate('selfsigned', 'self', 'DNS:localhost');
my @names = qw(good misnamed expired unknown selfsigned);
my $mock = MockEndpoint->start('--tls', "$directory/tls");
my %port = map { my $port = slurp_file("$directory/tls/$_.port"); chomp $port; $_ => $port } @names;

# A machine whose list of authorities has ours.
my $shim = "$directory/authorities";
append_to_file("$shim.c", q{
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static FILE *other(const char *function, const char *path, const char *mode)
{
	FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, function);

	return real(strcmp(path, "/etc/ssl/certs/ca-certificates.crt") == 0 ? getenv("SERM_TEST_AUTHORITIES") : path, mode);
}
FILE *fopen(const char *path, const char *mode) { return other("fopen", path, mode); }
FILE *fopen64(const char *path, const char *mode) { return other("fopen64", path, mode); }
});
system_or_bail($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', "$shim.so", "$shim.c", '-ldl');

my $node = PostgreSQL::Test::Cluster->new('tls');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'serm'\nserm.launcher_interval = 1\nfsync = off\n");
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]); }
sql(q{CREATE EXTENSION serm; SELECT serm.create_model('m', options => '{"gold_rate": 0, "rule": "unanimous"}')});
my $key = 'sk-CERTIFICATE-9';
sub add_server
{
	my ($name, $endpoint) = @_;
	sql(qq{CREATE SERVER $name FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint '$endpoint', model 'mock', paths '1', max_attempts '2', cache 'false');
		CREATE USER MAPPING FOR PUBLIC SERVER $name OPTIONS (api_key '$key');
		SELECT serm.add_agent('m', '$name')});
}
add_server($_, "https://localhost:$port{$_}/$_/v1") for @names;
sub annotate
{
	my ($number) = @_;
	sql(qq{INSERT INTO serm.sample (model, query, doc_id, doc) VALUES ('m', 'blue pillow', '$number', 'a blue pillow'); CALL serm.annotate('m')});
	return sub { return sql(qq{SELECT coalesce(v.grade::text, v.error) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample
		WHERE v.agent = '$_[0]' AND s.doc_id = '$number'}) };
}
my $vote = annotate(1);
like($vote->($_), qr/certificate/i, "$_: refused") for @names;
is($mock->count('v1'), 0, 'nobody was asked');
is($mock->saw($key), 0, 'nor sent the key');

# --- with the authority
$node->stop;
{
	local $ENV{LD_PRELOAD} = "$shim.so";
	local $ENV{SERM_TEST_AUTHORITIES} = "$directory/trusted.crt";
	$node->start;
}
add_server('by_address', "https://127.0.0.1:$port{good}/v1");
$vote = annotate(2);
is($vote->($_), '3', "$_: trusted") for qw(good by_address);
like($vote->($_), qr/certificate|name/i, "$_: still refused") for grep { $_ ne 'good' } @names;
is($mock->count('v1'), 2, 'only those who proved their name were asked');
is($mock->saw($key), 1, 'and sent the key');

$node->stop;
done_testing();
